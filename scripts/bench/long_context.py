"""Drafts by retrieval in long texts: are they exact, are they right, and are they fast?

    python -m scripts.bench.long_context
    python -m scripts.bench.long_context --policy DIR --part acceptance --part speed --json out.json

The problems are ledgers of 92 to 735 lines, 1,000 to 8,000 tokens. Beside retrieval stands a window
of as many columns (the first chunk and the last ones, StreamingLLM: Xiao et al., arXiv 2309.17453),
and plain decoding. Texts that are timed go on after their answer with further questions, so that
they are as long as asked for; keys and values of prompts are there beforehand in all arms. Times
are CPU seconds of the process, arms in turn.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.weights import load_model
from agent.engine.draft_choice import Drafter, DraftSource
from agent.engine.draft_costs import costs_of_long, measured_costs
from agent.engine.lookup import LookupDrafts
from agent.engine.requests import CompletionRequest, Generated
from agent.engine.retrieval import BUDGET, Choice, RetrievalDrafts
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.tasks.ledger import drawn_ledger, entries_of
from scripts.bench.report import Row, counted, repeats, share, show, write

LINES = {"1K": 92, "2K": 185, "4K": 365, "8K": 735}
"""Of a ledger of about so many tokens."""
LONGEST = {"13K": 1190}
"""The same of texts longer than any that the policy was taught: for times alone."""
ONCE = 10**9
"""Forwards after which columns are chosen again: never within a draft."""


class Window(Choice):
    """The last columns instead of the best ones."""

    def scores(self, q_NGD: Tensor, means_NGCD: Tensor) -> Tensor:
        """Later chunks first."""
        place = torch.arange(means_NGCD.shape[2], dtype=q_NGD.dtype, device=q_NGD.device)
        # Behind the text's own chunks nothing can be chosen: those are hidden afterwards.
        return place.expand(*q_NGD.shape[:2], -1).clone()


class Bench:
    def __init__(self, path: Path, seed: int) -> None:
        self.checkpoint = verify_checkpoint(path)
        self.model = load_model(self.checkpoint)
        self.tokenizer = Tokenizer(path)
        self.seed = seed

    def engine(self, ends: bool = True) -> TorchEngine:
        """One that ends texts where the policy does, or never."""
        found = self.tokenizer.end_ids if ends else [0]
        version = self.checkpoint.version
        return TorchEngine(self.model, self.tokenizer.steps, found, version=version, kv_bytes=2**30)

    def prompts(self, size: str, num: int, num_ledgers: int = 4) -> list[tuple[int, ...]]:
        """Questions about a few ledgers in turn."""
        rng = random.Random(f"{self.seed} {size}")
        lines = (LINES | LONGEST)[size]
        num_ledgers = min(num, max(num_ledgers, -(-num // lines)))
        ledgers = [drawn_ledger(rng, lines) for _ in range(num_ledgers)]
        each = -(-num // num_ledgers)
        names = [rng.sample([*entries_of(ledger + "abc=")], each) for ledger in ledgers]
        texts = [
            f"{ledgers[i % num_ledgers]}{names[i % num_ledgers][i // num_ledgers]}="
            for i in range(num)
        ]
        return [tuple(self.tokenizer.encode(text)) for text in texts]

    def exact(self, num: int) -> Iterator[Row]:
        """Texts with drafts against those without, one batch of mixed lengths after the other."""
        engine = self.engine()
        rows = [self.prompts(size, -(-num // len(LINES)), 8) for size in LINES]
        mixed = [row for rows_of_all in zip(*rows, strict=True) for row in rows_of_all][:num]
        for name, below in (("retrieval", None), ("retrieval over lookup", LookupDrafts())):
            differing, written = 0, 0
            drafter = Drafter([RetrievalDrafts(engine.network, below=below)], 4, "always")
            for start in range(0, num, 8):
                requests = [
                    CompletionRequest(row, 40, (0.0, 0.7, 1.0)[i % 3], i)
                    for i, row in enumerate(mixed[start : start + 8], start)
                ]
                plain = [t.generated for t in engine.completions(requests)]
                drafted = [t.generated for t in engine.completions(requests, drafter)]
                differing += sum(a != b for a, b in zip(plain, drafted, strict=True))
                written += sum(len(t.tokens) for t in plain)
            record = drafter.record(name)
            what = f"{written} tokens, {record.num_drafted} drafted, {record.num_accepted} accepted"
            baseline = f"the same without drafts, bit by bit; T = 0, .7, 1; {what}"
            yield counted(f"differing/{name}", differing, "texts", num, baseline)

    def acceptance(self, num: int) -> Iterator[Row]:
        engine = self.engine()
        for size in LINES:
            requests = [
                CompletionRequest(row, 40, 0.0, i) for i, row in enumerate(self.prompts(size, num))
            ]
            for name, choice in (("retrieval", Choice), ("window", Window)):
                source = RetrievalDrafts(engine.network, choice=choice)
                told = f"greedy answers, {BUDGET} columns of {len(requests[0].prefix)}"
                accepted = _accepted(engine, requests, source, 4)
                yield share(f"acceptance@{size}/{name}", *accepted, told)

    def speed(self, num_repeats: int, num_tokens: int) -> Iterator[Row]:
        engine = self.engine(ends=False)
        for num in (1, 8):
            for size in (*LINES, *LONGEST):
                rows = self.prompts(size, num * num_repeats)
                arms = self._arms(engine, num)
                spent: dict[str, list[float]] = {name: [] for name in arms}
                for repeat in range(num_repeats):
                    part = rows[num * repeat : num * (repeat + 1)]
                    requests = [
                        CompletionRequest(row, num_tokens, 1.0, repeat * num + i, group=i)
                        for i, row in enumerate(part)
                    ]
                    engine.completions([replace(r, max_tokens=1) for r in requests])
                    before: list[Generated] | None = None
                    for name, make in arms.items():
                        drafter = make()
                        start = time.process_time()
                        found = engine.completions(requests, drafter)
                        spent[name].append(time.process_time() - start)
                        written = [t.generated for t in found]
                        if before not in (None, written):
                            raise SystemExit(f"{name} wrote another text than the arm before it")
                        before = written
                for name in [name for name in arms if name != "plain"]:
                    ratios = [a / b for a, b in zip(spent["plain"], spent[name], strict=True)]
                    shown = f"{median(spent['plain']):.2f} s plain, T = 1, {num_tokens} tokens"
                    yield repeats(f"speed-up@{size}/{num} texts/{name}", ratios, "x", shown)

    def _arms(self, engine: TorchEngine, num: int) -> dict[str, Callable[[], Drafter | None]]:
        def always(length: int, below: DraftSource | None = None) -> Drafter:
            return Drafter([RetrievalDrafts(engine.network, below=below)], length, "always")

        def window() -> Drafter:
            return Drafter([RetrievalDrafts(engine.network, choice=Window)], 4, "always")

        sources: list[DraftSource] = [LookupDrafts(), RetrievalDrafts(engine.network)]
        costs = measured_costs(engine, sources, [num], 8)
        lengthened = partial(costs_of_long, engine, sources, 8)
        return {
            "plain": lambda: None,
            "4 tokens": lambda: always(4),
            "8 tokens": lambda: always(8),
            "8 tokens over lookup": lambda: always(8, LookupDrafts()),
            "window, 4 tokens": window,
            "by cost": lambda: Drafter(sources, 8, costs=costs, lengthened=lengthened),
        }

    def renewal(self, num: int) -> Iterator[Row]:
        """How acceptance falls where columns are chosen by an earlier token's query."""
        engine = self.engine()
        requests = [
            CompletionRequest(row, 40, 0.0, i) for i, row in enumerate(self.prompts("8K", num))
        ]
        for name, stride, length in (
            ("for every token", 1, 4),
            ("for two tokens", 2, 4),
            ("once a draft of 4", ONCE, 4),
            ("once a draft of 8", ONCE, 8),
        ):
            source = RetrievalDrafts(engine.network, stride=stride)
            accepted = _accepted(engine, requests, source, length)
            yield share(f"chosen {name}@8K", *accepted, "acceptance; beside: for every token")


def _accepted(
    engine: TorchEngine, requests: list[CompletionRequest], source: DraftSource, length: int
) -> tuple[int, int]:
    """Drafted tokens that were right, and those up to the first wrong one of each draft; eight
    texts at a time."""
    drafter = Drafter([source], length, "always")
    for start in range(0, len(requests), 8):
        engine.completions(requests[start : start + 8], drafter)
    record = drafter.record(source.name)
    return record.num_accepted, record.num_tried


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", type=Path, default=EMBEDDED / "ledger/policy")
    parts = ("exact", "acceptance", "speed", "renewal")
    parser.add_argument("--part", choices=parts, action="append")
    parser.add_argument("--texts", type=int, default=1000, help="of the comparison")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256, help="of a text that is timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.policy, arguments.seed)
    runs = {
        "exact": lambda: bench.exact(arguments.texts),
        "acceptance": lambda: bench.acceptance(64),
        "speed": lambda: bench.speed(arguments.repeats, arguments.tokens),
        "renewal": lambda: bench.renewal(64),
    }
    rows: list[Row] = []
    for part in arguments.part or parts:
        for row in runs[part]():
            show(row)
            rows.append(row)
    settings = {"policy": bench.checkpoint.version, "budget": BUDGET}
    write(arguments.json, "long-context", settings, [arguments.seed], rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
