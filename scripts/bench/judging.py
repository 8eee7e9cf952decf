"""What is right counts as right: small cases, gold solutions, what a wrong judge costs a search.

    git worktree add /tmp/before v0.6.0
    python -m scripts.bench.judging --before /tmp/before --handed cases.jsonl --data DATA --search

1. Cases by kind, before and after: ours (`tests/critics/cases/judging.jsonl`) and a handed file.
2. Lines of gold solutions that the tool confirms, leaves open and refutes, with and without
   annotations; each refuted line is printed.
3. `--search`: a small policy is taught to write brackets and chains, `(7 + 2) * 3 - 4 = 9 * 3 - 4`.
   On problems that it has not seen: greedy, and search without a tool, with a tool that judges
   pieces of an equation (as 0.6 did), and with the tool of now; paired, with intervals.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.model_refs import ModelSet
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.settings import PromptSettings
from agent.engine.tokenizer import Tokenizer
from agent.evaluation.answering import Plan, evaluate
from agent.evaluation.intervals import mcnemar_p
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.hosting.policy_host import Speculation
from agent.prompts import Prompts
from agent.search_models import Models, ModelSettings
from agent.tasks.jsonl import Files, Jsonl
from agent.training.initial import initial_models
from agent.training.job import Place
from agent.training.methods.sft import train_on_texts
from agent.training.optimizer import TrainingSettings
from agent.training.rehearsal import demonstration_example
from critics.calculator import calculate, equation_holds
from critics.registry import CRITICS
from scripts.bench.report import Row, counted, share, show, write
from scripts.embedded_policy import characters_tokenizer
from search.score import Finding
from search.settings import SearchSettings
from tests.critics.judging import OWN, cases, is_right, opened

ROOT = Path(__file__).parent.parent.parent
OLD = """
import json, sys, tempfile
from collections import Counter
from pathlib import Path
from agent.tasks.jsonl import Jsonl
from search.errors import TaskError

def opened(folder, text):
    file = Path(folder) / "rows.jsonl"
    file.write_text(text, encoding="utf-8")
    return Jsonl(file)

def right(case, task, folder):
    call, want = case["call"], case["want"]
    if call == "check_step":
        return task.check_step("", [case["step"] + "\\n"]).is_sound in want
    if call == "is_correct":
        return task.is_correct(task.answer_of([case["text"]]), case["reference"]) is want
    if call == "answer_of":
        return task.answer_of([case["text"]]) == want
    if call == "majority":
        votes = Counter(a for t in case["texts"] if (a := task.answer_of([t])) is not None)
        return (votes.most_common(1) or [(None, 0)])[0][0] == want
    rows = case.get("rows") or [case.get("row")]
    text = case["text"] if call == "row_text" else "\\n".join(map(json.dumps, rows))
    try:
        found = opened(folder, text + "\\n").rows
    except TaskError as error:
        places = ["line 1"] if want.startswith("error") else ["line 1", "line 2"]
        return all(p in error.message for p in places) and not want.startswith("reference")
    return found[0]["answer"] == want.removeprefix("reference equals ") and len(found) == 1

def main():
    with tempfile.TemporaryDirectory() as folder:
        task = opened(folder, '{"problem": "q", "answer": "1"}\\n')
        told = []
        for line in sys.stdin:
            try:
                told.append(bool(right(json.loads(line), task, folder)))
            except Exception:
                told.append(False)
        print(json.dumps(told))
        task.verifier.close(); task.algebra.close()

if __name__ == "__main__":
    main()
"""
"""Asks the same cases of an older checkout, whose task takes a path."""

_VALUE = r"\d[\d,]*(?:\.\d+)?"
_PIECE = re.compile(rf"({_VALUE}(?:\s*[-+*/×÷]\s*{_VALUE})+\s*=\s*{_VALUE})")


def old_verdicts(before: Path, found: Sequence[dict[str, Any]]) -> list[bool]:
    with tempfile.TemporaryDirectory() as folder:
        driver = Path(folder) / "driver.py"
        driver.write_text(OLD)
        done = subprocess.run(
            [sys.executable, str(driver)],
            input="".join(json.dumps(case) + "\n" for case in found),
            cwd=before,
            env={"PYTHONPATH": str(before), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    told: list[bool] = json.loads(done.stdout.splitlines()[-1])
    return told


def by_kind(name: str, file: Path, before: Path | None) -> Iterator[Row]:
    found = cases(file)
    with tempfile.TemporaryDirectory() as folder:
        task = opened(Path(folder), '{"problem": "q", "answer": "1"}\n')
        now = [is_right(case, task, Path(folder)) for case in found]
        task.verifier.close()
        task.algebra.close()
    old = old_verdicts(before, found) if before else [False] * len(found)
    kinds = dict.fromkeys(case["kind"] for case in found)
    for kind in [*kinds, "all"]:
        mine = [i for i, case in enumerate(found) if kind in (case["kind"], "all")]
        was = f"before {sum(old[i] for i in mine)}" if before else "before not asked"
        right = sum(now[i] for i in mine)
        yield counted(
            f"{name}: {kind.partition(':')[0]}", right, "right", len(mine), was, len(mine)
        )


def gold(data: Path) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        task = opened(Path(folder), '{"problem": "q", "answer": "1"}\n')
        for name, key in (("gsm8k/test", "answer"), ("math500/test", "solution")):
            rows = [json.loads(line) for line in (data / f"{name}.jsonl").open(encoding="utf-8")]
            lines = [line for row in rows for line in row[key].split("\n") if line.strip()]
            yield from _told(f"{name}.jsonl", task, lines)
            if name.startswith("gsm8k"):
                bare = [re.sub(r"<<.*?>>", "", line) for line in lines]
                yield from _told(f"{name}.jsonl, no annotations", task, bare)
        task.algebra.close()


def _told(name: str, task: Jsonl, lines: Sequence[str]) -> Iterator[Row]:
    found: Counter[bool | None] = Counter()
    for line in lines:
        finding = task.check_step("", [line])
        found[finding.is_sound] += 1
        if finding.is_sound is False:
            print(f"  refuted: {finding.reason} | {line.strip()[:160]}")
    for verdict, word in ((True, "confirmed"), (None, "unknown"), (False, "refuted")):
        yield counted(f"{name}: {word}", found[verdict], "lines", len(lines), "gold solutions")


# --- search with the tool against greedy ---


def chain(rng: random.Random) -> tuple[str, str] | None:
    """A problem with brackets, and its worked lines; None where a value is out of bounds."""
    a, b, c, d, e = (rng.randint(2, 9) for _ in range(5))
    inner, outer, last = rng.choice("+-"), rng.choice("*"), rng.choice("+-")
    more = rng.choice("+-")
    first = a + b if inner == "+" else a - b
    second = first * c
    third = second + d if last == "+" else second - d
    fourth = third + e if more == "+" else third - e
    if min(first, third, fourth) < 1 or max(second, third, fourth) > 99:
        return None
    text = f"({a} {inner} {b}) {outer} {c} {last} {d} {more} {e}"
    lines = [
        f"{text} = {first} {outer} {c} {last} {d} {more} {e}",
        f"{first} {outer} {c} {last} {d} {more} {e} = {second} {last} {d} {more} {e}",
        f"{second} {last} {d} {more} {e} = {third} {more} {e} = {fourth}",
        f"#### {fourth}",
    ]
    assert calculate(text) == fourth
    return text, "\n".join(lines)


class Pieces(Jsonl):
    """The tool as it was: every piece `number operator number ... = number` is a claim."""

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        verdicts = [equation_holds(claim) for claim in _PIECE.findall(steps[-1])]
        if False in verdicts:
            return Finding(False, "a piece is false")
        return Finding(True, "holds") if True in verdicts else Finding(None, "no equation")


def taught(folder: Path, task: Jsonl, num_steps: int, seed: int) -> Checkpoint:
    """A policy that writes such chains, not always rightly."""
    from safetensors.torch import save_file

    from agent.checkpoints.checkpoint import verify_checkpoint
    from agent.networks.architecture import Architecture
    from agent.networks.llama import Decoder

    empty = folder / "empty"
    empty.mkdir()
    fast = characters_tokenizer("0123456789+-*/=()# ")
    fast.save(str(empty / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fast.get_vocab_size(),
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    (empty / "config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    network = Decoder(Architecture.from_config(config))
    for parameter in network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    tensors = {k: v.detach().clone() for k, v in network.named_parameters()}
    save_file(tensors, empty / "model.safetensors", metadata={"format": "pt"})
    parent = verify_checkpoint(empty)
    prompts = Prompts(task, Tokenizer(empty), PLAIN)
    texts = {row.text: row.worked or "" for row in task.rows}
    examples = [
        demonstration_example(prompts, p.text, texts[p.text].splitlines(keepends=True))
        for p in task.seeds(10**6, 0)
    ]
    settings = TrainingSettings(
        num_steps=num_steps,
        batch_size=48,
        optimizer="muon",
        learning_rate=3e-3,
        matrix_learning_rate=0.02,
        max_epochs=100,
    )
    model = load_model(parent)
    report = train_on_texts(model, examples, settings, seed)
    print(f"  taught on {len(examples)} texts, {num_steps} steps: loss {report.last_loss:.3f}")
    return publish(model, parent, folder, "policy", {})


PLAIN = PromptSettings(instruction="")


class ChainFile(Jsonl):
    """Problems are asked as they stand."""

    def question(self, text: str) -> str:
        return text + "\n"


class ChainPieces(Pieces):
    def question(self, text: str) -> str:
        return text + "\n"


def searched(num_steps: int, n: int, seeds: Sequence[int]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = random.Random(0)
        rows = dict(made for _ in range(9000) if (made := chain(rng)))
        file = folder / "chains.jsonl"
        file.write_text(
            "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows.items())
        )
        task, pieces = ChainFile(Files(str(file))), ChainPieces(Files(str(file)))
        policy = taught(folder, task, num_steps, 0)
        ref = policy.ref("policy")
        refs = {"policy": ref} | {m.role: m.ref() for m in initial_models(ref, Place(name))}
        hosts = InlineHosts(HostSettings(threads=1))

        def asked(of: Jsonl, has_tool: bool) -> Models:
            given = ModelSettings(
                SearchSettings(simulations=16),
                {role: kind.default_weight for role, kind in CRITICS.items()},
                prompt=PLAIN,
                use_tool=has_tool,
                speculation=Speculation("never"),
                min_auc=0.6,
            )
            return Models(hosts, ModelSet(refs), of, given)

        problems = task.held_out(n, 0)
        greedy = evaluate(asked(task, False), problems, Plan("greedy")).correct
        total = len(problems) * len(seeds)
        yield share("greedy", sum(greedy.values()), len(problems), "same policy and problems")
        for label, of, has_tool in (
            ("search, no tool", task, False),
            ("search, tool that judges pieces (0.6)", pieces, True),
            ("search, tool of now", task, True),
        ):
            right, gained, lost, tokens = 0, 0, 0, 0
            for seed in seeds:
                found = evaluate(asked(of, has_tool), problems, Plan("search", seed=seed))
                right += found.num_correct
                tokens += found.num_tokens
                gained += sum(found.correct[k] and not greedy[k] for k in greedy)
                lost += sum(greedy[k] and not found.correct[k] for k in greedy)
            paired = (
                f"gained {gained}, lost {lost} against greedy, p = {mcnemar_p(gained, lost):.2g}"
            )
            yield share(label, right, total, paired, tokens=round(tokens / total))
        hosts.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="an older checkout, for the cases")
    parser.add_argument("--handed", type=Path, help="a further file of cases")
    parser.add_argument("--data", type=Path, help="folder with gsm8k/ and math500/")
    parser.add_argument("--search", action="store_true", help="teach a policy and search with it")
    parser.add_argument("--quick", action="store_true", help="a small policy, few problems")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []

    def tell(found: Iterator[Row]) -> None:
        for row in found:
            show(row)
            rows.append(row)

    tell(by_kind("ours", OWN, arguments.before))
    if arguments.handed:
        tell(by_kind("handed", arguments.handed, arguments.before))
    if arguments.data:
        tell(gold(arguments.data))
    seeds = [0] if arguments.quick else [0, 1, 2]
    if arguments.search:
        tell(searched(*((60, 20) if arguments.quick else (450, 200)), seeds))
    settings = {"simulations": 16, "quick": arguments.quick}
    write(arguments.json, "judging", settings, seeds, rows)


if __name__ == "__main__":
    main()
