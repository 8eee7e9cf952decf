"""How fast is the engine, and is what it writes the policy's? One table, baselines in the same run.

    python -m scripts.build_embedded deep --out bundles      # once, half an hour
    python -m scripts.bench.engine --models bundles/deep     # about 15 minutes
    python -m scripts.bench.engine --quick                   # under a minute
    python -m scripts.bench.engine --section stage --against ../before
    python -m scripts.bench.engine --section tokens --vllm-python .vllm/bin/python

Sections: tokens (against transformers' generate and vLLM), packed (scoring a tree, forks),
speculation, lossless, memory, stage (the searching stage against another checkout). Without
--models the policy has the shape of `deep` and random weights: the same work, but no drafter worth
the name, so `speculation` is left out. One thread. Arms take turns within a repeat.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.config.settings import Config
from agent.engine.draft_choice import Drafter, DraftSource, expected_speedup
from agent.engine.draft_costs import draft_costs
from agent.engine.drafting import ModelDrafts
from agent.engine.feed import prefill
from agent.engine.job_cache import Cache
from agent.engine.lookup import LookupDrafts
from agent.engine.packed import packs
from agent.engine.prefix_cache import KVTree
from agent.engine.requests import CompletionRequest, ScoreRequest
from agent.engine.selftest import run_selftest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.networks.language_model import LanguageModel
from agent.tasks.registry import open_task
from scripts.bench import throughput
from scripts.bench.report import Row, missing, repeats, show, write
from scripts.embedded_policy import RECIPES, empty_checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent

TOKEN_BATCHES = [1, 16, 64]
DRAFT_BATCHES = [1, 4, 16, 64]
GIVEN = 150
"""Prompt tokens of the rows that are scored."""


def opened(path: Path) -> TorchEngine:
    checkpoint, tokenizer = verify_checkpoint(path), Tokenizer(path)
    return TorchEngine(
        load_model(checkpoint), tokenizer.steps, tokenizer.end_ids, version=checkpoint.version
    )


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def tokens(path: Path, num_repeats: int, vllm_python: str) -> Iterator[Row]:
    engine = opened(path)
    arms = {"ours": throughput.ours(engine), "generate": throughput.generate(path)}
    rates: dict[tuple[str, int], list[float]] = {}
    for repeat in range(num_repeats + 1):
        for num in TOKEN_BATCHES:
            for name, arm in arms.items():
                rate = arm(num)
                if repeat:  # the first one warms up
                    rates.setdefault((name, num), []).append(rate)
    for num in TOKEN_BATCHES:
        yield repeats(f"tokens_per_s@{num}", rates["ours", num], "tokens/s", "-")
        yield repeats(f"generate_tokens_per_s@{num}", rates["generate", num], "tokens/s", "-")
        ratios = [a / b for a, b in zip(rates["ours", num], rates["generate", num], strict=True)]
        yield repeats(
            f"speedup_vs_generate@{num}",
            ratios,
            "x",
            "transformers' generate, same batch, same run",
            target=1.7,
        )
    most = TOKEN_BATCHES[-1]
    ratios = [a / b for a, b in zip(rates["ours", most], rates["generate", 1], strict=True)]
    yield repeats(
        "speedup_vs_one_path",
        ratios,
        "x",
        f"generate, one path at a time; ours {most} at once",
        target=12.0,
    )
    if not vllm_python:
        yield missing("speedup_vs_vllm", "no environment with vLLM was named (--vllm-python)")
        return
    theirs = throughput.vllm_rates(
        vllm_python, path, TOKEN_BATCHES, engine.network.arch.vocab_size, num_repeats
    )
    for num, found in theirs.items():
        ratios = [a / b for a, b in zip(rates["ours", num], found, strict=True)]
        yield repeats(f"speedup_vs_vllm@{num}", ratios, "x", "vLLM's CPU build, run after ours")


def tree_of_rows(vocab_size: int, depth: int = 5, width: int = 3) -> list[tuple[int, ...]]:
    """Paths of a search tree: a prompt of `GIVEN` tokens, then steps of 8 tokens that branch."""
    generator = torch.Generator().manual_seed(0)

    def some(num: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocab_size, (num,), generator=generator).tolist())

    rows = [some(GIVEN)]
    for level in range(depth):
        rows = [(*row, *some(8)) for row in rows for _ in range(width if level < 3 else 1)]
    return rows


def packed(path: Path, num_repeats: int) -> Iterator[Row]:
    engine, decoder = opened(path), load_model(verify_checkpoint(path))
    rows = tree_of_rows(engine.network.arch.vocab_size, width=4)
    ratio = sum(map(len, rows)) / sum(len(pack.tokens) for pack in packs(rows))
    yield {
        "name": "packed_dedup_ratio",
        "value": ratio,
        "unit": "x",
        "n": len(rows),
        "baseline": "tokens of all rows over tokens of the packs",
    }
    requests = [ScoreRequest(row, GIVEN) for row in rows]
    found = engine.score(requests)
    wanted = [plain_scores(decoder, row, GIVEN) for row in rows]
    gap = max(
        abs(a - b) for x, y in zip(found, wanted, strict=True) for a, b in zip(x, y, strict=True)
    )
    yield {
        "name": "packed_scoring_max_difference",
        "value": gap,
        "unit": "nats",
        "n": len(rows),
        "baseline": "path by path",
        "target": 1e-4,
    }
    speedups, padded_speedups = [], []
    for _ in range(num_repeats):
        ours = seconds(lambda: engine.score(requests))
        by_path = seconds(lambda: [plain_scores(decoder, row, GIVEN) for row in rows])
        batch = seconds(lambda: plain_batch(decoder, rows))
        speedups.append(by_path / ours)
        padded_speedups.append(batch / ours)
    yield repeats("packed_scoring_speedup", speedups, "x", "path by path", target=4.0)
    yield repeats("packed_scoring_vs_padded_batch", padded_speedups, "x", "one padded batch")
    yield from forks(engine, num_repeats)


@torch.inference_mode()
def plain_scores(model: LanguageModel, row: tuple[int, ...], given: int) -> list[float]:
    hidden = model(torch.tensor([row]))[0, given - 1 : -1]
    logprob = torch.log_softmax(model.logits(hidden), dim=-1)
    scores: list[float] = logprob.gather(1, torch.tensor(row[given:])[:, None])[:, 0].tolist()
    return scores


@torch.inference_mode()
def plain_batch(model: LanguageModel, rows: list[tuple[int, ...]]) -> torch.Tensor:
    hidden = model(torch.tensor(rows))
    return torch.log_softmax(model.logits(hidden), dim=-1)


@torch.inference_mode()
def forks(engine: TorchEngine, num_repeats: int) -> Iterator[Row]:
    """A prefix of 200 tokens for 16 jobs: copied from the tree, or computed for one."""
    (prefix,) = throughput.prompts(1, engine.network.arch.vocab_size)
    prefix = (prefix * 7)[:200]
    ratios = []
    for _ in range(3 * num_repeats):
        tree = KVTree(engine.network, "bench", 2**26)
        cache = Cache(engine.network)
        start = time.perf_counter()
        prefill(engine.network, cache, tree, [prefix])
        computed = time.perf_counter() - start
        forked = Cache(engine.network)
        forked.reserve(16, len(prefix))

        def fork(t: KVTree = tree, c: Cache = forked) -> None:
            jobs = c.open([len(prefix)] * 16)
            t.load(c, jobs, [t.match(prefix)[1]] * 16)

        fork()
        forked.clear()
        ratios.append(computed / (seconds(fork) / 16))
    yield repeats("fork_vs_prefill", ratios, "x", "computing the prefix again", target=30.0)


def speculation(models: Path, num_repeats: int) -> Iterator[Row]:
    engine, small = opened(models / "policy"), opened(models / "drafter")
    task, tokenizer = open_task(Config(task="expressions")), Tokenizer(models / "policy")
    rows = [
        tuple(tokenizer.encode(task.prompt(p.text)))
        for p in task.held_out(128 * (num_repeats + 1), 3)
    ]

    def sources(name: str) -> list[DraftSource]:
        model = ModelDrafts(small.network, small.version, 2**26)
        lookup = LookupDrafts()
        known: dict[str, list[DraftSource]] = {
            "model": [model],
            "lookup": [lookup],
            "both": [model, lookup],
        }
        return known[name]

    costs = {num: draft_costs(engine, sources("both"), 32, num, 4) for num in DRAFT_BATCHES}
    for temperature in (0.0, 1.0):
        for num in DRAFT_BATCHES:
            drafters = {
                name: Drafter(sources(name), 4, "auto", costs)
                for name in ("model", "lookup", "both")
            }
            speedups: dict[str, list[float]] = {name: [] for name in drafters}
            for repeat in range(num_repeats + 1):
                size = max(16, 2 * num)  # new texts each time: none can be looked up whole
                part = rows[size * repeat : size * (repeat + 1)]
                requests = [
                    CompletionRequest(row, 96, temperature, i, group=zlib.crc32(str(row).encode()))
                    for i, row in enumerate(part)
                ]
                parts = [requests[i : i + num] for i in range(0, len(requests), num)]
                before = texts_seconds(engine, parts, None)
                found = {name: texts_seconds(engine, parts, d) for name, d in drafters.items()}
                plain = (before + texts_seconds(engine, parts, None)) / 2
                if repeat:
                    for name, took in found.items():
                        speedups[name].append(plain / took)
            for name, drafter in drafters.items():
                yield repeats(
                    f"speculation_speedup@{num}/{name}/T={temperature:g}",
                    speedups[name],
                    "x",
                    described(drafter, num),
                    target=1.5 if num == 1 else 0.97,
                )


def texts_seconds(
    engine: TorchEngine, parts: list[list[CompletionRequest]], drafter: Drafter | None
) -> float:
    start = time.perf_counter()
    for part in parts:
        engine.completions(part, drafter)
    return time.perf_counter() - start


def described(drafter: Drafter, num: int) -> str:
    """Acceptance and what the cost table predicts of it, for each source that drafted."""
    parts = []
    for name, record in drafter.records.items():
        best, length = max(
            (expected_speedup(drafter.costs[num], name, record.acceptance, g, record.coverage), g)
            for g in range(1, drafter.max_length + 1)
        )
        parts.append(
            f"{name}: acceptance {record.acceptance:.2f}, coverage {record.coverage:.2f}, "
            f"{record.accepted_length:.2f} a draft, predicted {max(1.0, best):.2f}x at {length}"
        )
    return "no drafts, same texts; " + "; ".join(parts)


def lossless(models: Path, has_drafter: bool, num_texts: int) -> Iterator[Row]:
    engine = opened(models / "policy")
    small = opened(models / "drafter") if has_drafter else engine
    prefix = tuple(throughput.prompts(1, engine.network.arch.vocab_size)[0][:4])
    for temperature in (0.5, 1.0):
        for name, drafter in (
            ("no drafts", None),
            ("model", Drafter([ModelDrafts(small.network, "d", 2**26)], 2, "always")),
            ("lookup", Drafter([LookupDrafts()], 2, "always")),
        ):
            found = run_selftest(engine, prefix, drafter, temperature, num_texts, limit_s=600)
            yield {
                "name": f"lossless_p_value@{temperature:g}/{name}",
                "value": found.p_value,
                "unit": "p",
                "n": found.num_texts,
                "baseline": f"exact joint distribution of three tokens; {found.describe()}",
            }


@torch.inference_mode()
def memory(path: Path, num_forks: int) -> Iterator[Row]:
    """Forks of random prefixes through a pool that holds a tenth of them."""
    engine = opened(path)
    bound = 2048 * engine.network.kv_bytes
    tree = KVTree(engine.network, "bench", bound)
    generator = torch.Generator().manual_seed(0)
    kept = list(tree_of_rows(engine.network.arch.vocab_size, width=5))
    cache = Cache(engine.network)
    first = prefill(engine.network, cache, tree, kept[:16]).hidden_NE.clone()
    most = 0
    for start in range(0, num_forks, 16):
        chosen = torch.randint(len(kept), (16,), generator=generator).tolist()
        cache.clear()
        prefill(engine.network, cache, tree, [kept[i] for i in chosen])
        most = max(most, tree.num_bytes)
        if start % 1600 == 0:
            tree.check()
    cache.clear()
    again = prefill(engine.network, cache, tree, kept[:16]).hidden_NE
    yield {
        "name": "kv_peak_share_of_bound",
        "value": most / bound,
        "unit": "share",
        "n": num_forks,
        "target": 1.0,
        "baseline": f"{tree.num_evicted} tokens evicted",
    }
    yield {
        "name": "kv_eviction_max_difference",
        "value": float((first - again).abs().max()),
        "unit": "hidden",
        "n": 16,
        "baseline": "before any eviction",
        "target": 0.0,
    }


def stage(against: Path, num_repeats: int, problems: int) -> Iterator[Row]:
    runs: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for _ in range(num_repeats):
        for name, checkout in (("before", against), ("after", ROOT)):
            done = subprocess.run(
                [sys.executable, "-m", "scripts.bench.stage", ".", "--problems", str(problems)],
                cwd=checkout,
                check=True,
                capture_output=True,
                text=True,
            )
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, found in runs.items():
        yield repeats(
            f"stage_simulations_per_s/{name}",
            [r["simulations"] / r["seconds"] for r in found],
            "simulations/s",
            f"solved {found[0]['solved']:.0f} of {problems} with "
            f"{found[0]['tokens'] / problems:.0f} tokens a problem",
        )
    for key, label in (("simulations", "simulations"), ("solved", "solved")):
        ratios = [
            (a[key] / a["seconds"]) / (b[key] / b["seconds"])
            for a, b in zip(runs["after"], runs["before"], strict=True)
        ]
        yield repeats(f"stage_speedup_{label}_per_s", ratios, "x", "the other checkout")


def random_models(folder: Path) -> Path:
    """A policy of the shape of `deep` with random weights."""
    empty_checkpoint(folder / "policy", open_task(Config(task="expressions")), RECIPES["deep"], 0)
    return folder


SECTIONS = ("tokens", "packed", "speculation", "lossless", "memory", "stage")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, help="folder with policy/ and drafter/")
    parser.add_argument("--section", choices=SECTIONS, action="append")
    parser.add_argument("--against", type=Path, help="an earlier checkout, for `stage`")
    parser.add_argument("--vllm-python", default="", help="Python of an environment with vLLM")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    num = 2 if arguments.quick else arguments.repeats
    models: Path | None = arguments.models
    if models and not (models / "policy" / "config.json").is_file():
        parser.error(
            f"{models} holds no policy/: build it with python -m scripts.build_embedded deep"
        )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        base = models or random_models(Path(scratch))
        chosen = arguments.section or [s for s in SECTIONS if s != "stage" or arguments.against]
        found: dict[str, Callable[[], Iterator[Row]]] = {
            "tokens": lambda: tokens(base / "policy", num, arguments.vllm_python),
            "packed": lambda: packed(base / "policy", num),
            "speculation": lambda: speculation(base, num),
            "lossless": lambda: lossless(
                base, models is not None, 2048 if arguments.quick else 50_000
            ),
            "memory": lambda: memory(base / "policy", 800 if arguments.quick else 10_000),
            "stage": lambda: stage(arguments.against, num, 60 if arguments.quick else 200),
        }
        for section in chosen:
            if section == "speculation" and models is None:
                made = iter([missing("speculation_speedup", "needs --models with a drafter")])
            elif section == "stage" and arguments.against is None:
                made = iter([missing("stage_speedup", "needs --against, an earlier checkout")])
            else:
                made = found[section]()
            for row in made:
                rows.append(row)
                show(row)
    settings = {
        "prompt": throughput.PROMPT,
        "new": throughput.NEW,
        "models": models.name if models else "random weights",
    }
    write(arguments.json, "engine", settings, [0], rows)


if __name__ == "__main__":
    main()
