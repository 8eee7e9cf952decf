"""A pretrained model behind the service: the folder of `scripts.bench.real`, its newest policy."""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx

from agent.tasks.jsonl import Files, Jsonl
from scripts.bench.report import Row, missing, repeats, share
from scripts.bench.served import Served, serving
from search.state import Problem
from store.database import migrate

CLIENTS = (1, 8)
EFFORT = "minimal"


def real(folder: Path | None, num: int) -> Iterator[Row]:
    """Word problems answered by the policy alone and searched, by one client and by eight."""
    if folder is None or not (folder / "real.db").is_file():
        yield missing("real_answers_a_second", "no --real DIR with the run of scripts.bench.real")
        return
    files = Files(str(folder / "train.jsonl"), str(folder / "held-out-mawps.jsonl"))
    task = Jsonl(files)
    problems = task.held_out(num, 0)
    with tempfile.TemporaryDirectory() as name:
        # The run stays as it is: its store is copied, its checkpoints are read.
        copy = Path(name) / "real.db"
        shutil.copy(folder / "real.db", copy)
        migrate(f"sqlite:///{copy}")
        given = (
            *("--task", "jsonl", "--problems", str(folder / "train.jsonl"), "--run", "real"),
            *("--store", f"sqlite:///{copy}", "--policy", str(folder / "taught")),
        )
        with serving(Path(name), *given) as server:
            _asked(server, task, problems[:1], "latest", 1)
            for model in ("latest", "latest:mcts"):
                for clients in CLIENTS:
                    yield from _row(server, task, problems, model, clients)


def _row(
    server: Served, task: Jsonl, problems: Sequence[Problem], model: str, clients: int
) -> Iterator[Row]:
    began = time.monotonic()
    times, firsts, right, tokens = _asked(server, task, problems, model, clients)
    spent = time.monotonic() - began
    what = "searched" if model.endswith("mcts") else "greedy"
    told = f"median of {len(times)} requests; {len(times) / spent:.2f} answers/s, "
    told += f"{tokens / spent:.0f} tokens/s, first byte {statistics.median(firsts):.2f} s"
    yield repeats(f"real_{what}_{clients}_clients_s", times, "s", told)
    yield share(f"real_{what}_{clients}_clients_right", right, len(times), "by the reference")


def _asked(
    server: Served, task: Jsonl, problems: Sequence[Problem], model: str, clients: int
) -> tuple[list[float], list[float], int, int]:
    """Seconds of each request and to its first event, right answers, tokens read or written."""

    def one(problem: Problem) -> tuple[float, float, bool, int]:
        began = first = time.monotonic()
        more = {"stream": True, "stream_options": {"include_usage": True}}
        if model.endswith("mcts"):
            more["reasoning_effort"] = EFFORT
        text, tokens = "", 0
        body = server.body(problem.text, model, **more)
        with (
            httpx.Client(timeout=600) as client,
            client.stream("POST", f"{server.url}/chat/completions", json=body) as answer,
        ):
            for line in answer.iter_lines():
                first = first if first > began else time.monotonic()
                if not line.startswith("data: {"):
                    continue
                part = json.loads(line.removeprefix("data: "))
                text += "".join(c["delta"].get("content") or "" for c in part["choices"])
                if usage := part.get("usage"):
                    details = usage.get("completion_tokens_details") or {}
                    tokens = details.get("reasoning_tokens") or usage["completion_tokens"]
        found = task.answer_of(text.splitlines(keepends=True))
        is_right = task.is_correct(found, problem.answer or "")
        return time.monotonic() - began, first - began, is_right, tokens

    with ThreadPoolExecutor(clients) as pool:
        rows = list(pool.map(one, problems))
    return (
        [r[0] for r in rows],
        [r[1] for r in rows],
        sum(r[2] for r in rows),
        sum(r[3] for r in rows),
    )
