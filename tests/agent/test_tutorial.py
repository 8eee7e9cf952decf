"""docs/pretrained.md, command by command, on a model small enough for a test."""

import json
import re
from pathlib import Path

import pytest

from agent.checkpoints.checkpoint import verify_checkpoint
from store.database import read_store
from store.inspection import list_rounds
from tests.agent.checkpoints.test_gguf import random_model, written
from tests.agent.cli.test_cli import ratchet
from tests.agent.rounds.small import ROOT, SMALL
from tests.agent.test_teach import row


def commands() -> list[str]:
    """What the page has its reader type, without `ratchet`."""
    page = (ROOT / "docs/pretrained.md").read_text()
    lines = [
        line.partition(" #")[0].split()
        for block in re.findall(r"```bash\n(.*?)```", page, flags=re.S)
        for line in block.splitlines()
    ]
    return [" ".join(words[1:]) for words in lines if words and words[0] == "ratchet"]


@pytest.mark.round
def test_the_page_leads_from_a_file_of_weights_to_a_verdict(tmp_path: Path) -> None:
    def typed(*words: str) -> tuple[int, str, str]:
        done = ratchet(*words, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    model = random_model(max_position_embeddings=256, tie_word_embeddings=True)
    written(tmp_path / "model.gguf", model, **{"tokenizer.pre": "default"})
    (tmp_path / "models").mkdir()
    rows = [row(a, b) for a in range(1, 11) for b in range(1, 13)]
    for name, part in (("train", rows[:107]), ("dev", rows[107:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    typed_so_far = commands()
    assert [c.split()[0] for c in typed_so_far] == ["models", "teach", "evaluate", "improve"]
    code, _, said = typed(*typed_so_far[0].split())
    assert code == 0, said
    mine = "models/mine"
    more = ["--epochs", "4", "--batch-size", "8", "--learning-rate", "3e-3"]
    words = typed_so_far[1].replace("models/smollm2", mine).split()
    code, out, said = typed(*words, *more, "--num-problems", "8")
    assert code == 0, said
    assert "before" in out and "after" in out and "ratchet improve" in out
    assert verify_checkpoint(tmp_path / "models/taught").notes["parent"]
    code, out, said = typed(*typed_so_far[2].split(), "--mode", "greedy", "--json")
    assert code == 0, said
    assert json.loads(out)["results"][0]["n"] == 13
    small = [w for k, v in SMALL.items() for w in ("--set", f"{k}={v}") if k != "store"]
    code, out, said = typed(*typed_so_far[3].split(), *small)
    assert code == 0 and "weights_in" in out, said
    round_command = typed_so_far[3].replace(" --dry-run", "").split()
    code, _, said = typed(*round_command, *small, "--held-out", "dev.jsonl")
    assert code in (0, 4), said  # 4: so small a round may find nothing to learn from
    (found,) = list_rounds(read_store(f"sqlite:///{tmp_path}/ratchet-runs/ratchet.db"))
    assert found["stage"] in ("promoted", "kept", "failed")
