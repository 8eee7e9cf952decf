"""`ratchet models plan`: a folder with a config.json, and no weights."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli.main import main
from tests.agent.networks.published import QWEN3_8B

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """The command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ratchet", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


def test_a_plan_is_told_without_the_weights(tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B))
    code, out, _ = typed("models", "plan", str(tmp_path), "--gpus", "8", "--json")
    found = json.loads(out)
    assert code == 0 and found["parameters"] == 8_190_735_360
    assert [way["fits"] for way in found["training"]] == [False, True, True]
    assert found["nearest"] == {"gpus": 8, "settings": ["hosting.training_workers=8"]}
    code, out, _ = typed("models", "plan", str(tmp_path), "--gpu-gib", "8")
    assert code == 0 and "Nothing of this fits" in out
    code, out, _ = typed("models", "plan", str(tmp_path), "--gpu-gib", "24", "--text-tokens", "512")
    assert code == 0 and "--set training.lora_rank=16" in out


@pytest.mark.parametrize(
    ("more", "words"), [(["--gpu", "a100"], "h200, h100"), (["--gpus", "0"], "--gpus")]
)
def test_a_card_that_is_not_known_is_refused(
    tmp_path: Path, typed: Typed, more: list[str], words: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B))
    code, _, said = typed("models", "plan", str(tmp_path), *more)
    assert code == 2 and words in said


def test_a_folder_without_a_config_is_named(tmp_path: Path, typed: Typed) -> None:
    code, _, said = typed("models", "plan", str(tmp_path))
    assert code == 2 and "no config.json" in said
