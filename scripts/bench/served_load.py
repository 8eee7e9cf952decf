"""Answers a second by clients, and the memory that a server holds meanwhile."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx

from scripts.bench.report import Row, counted, repeats
from scripts.bench.served import Served, questions, serving

CLIENTS = (1, 8, 32, 64)


def load(quick: bool, memory_s: int) -> Iterator[Row]:
    """Answers a second by clients, beside a round's own searches of the same problems."""
    each = 16 if quick else 128
    with tempfile.TemporaryDirectory() as name:
        own = _own_rate(each)
        yield repeats("own_searches_a_second", own, "1/s", "frontier.run, 64 at a time")
        with serving(Path(name)) as server:
            _asked(server, 8, 16, 77)  # warm
            alone = 0.0
            for num in CLIENTS:
                began, read = time.monotonic(), _tokens(server)
                took = [_asked(server, num, each if num > 1 else each // 4, k) for k in range(3)]
                read, spent = _tokens(server) - read, time.monotonic() - began
                rates = [len(t) / wall for t, _, wall in took]
                times = sorted(s for t, _, _ in took for s in t)
                firsts = sorted(s for _, f, _ in took for s in f)
                alone = alone or statistics.median(rates)
                yield repeats(
                    f"answers_a_second_{num}_clients",
                    rates,
                    "1/s",
                    f"{statistics.median(rates) / alone:.1f} x one client, "
                    f"{statistics.median(rates) / statistics.median(own):.2f} x own searches",
                    p50_s=round(times[len(times) // 2], 4),
                    p99_s=round(times[int(len(times) * 0.99)], 4),
                    tokens_a_second=round(read / spent),
                    first_byte_p50_s=round(firsts[len(firsts) // 2], 4),
                )
    # Kept prefixes may fill hosting.kv_mib for each set of weights: here they are few.
    few = ("--set", "hosting.kv_mib=8")
    with tempfile.TemporaryDirectory() as name, serving(Path(name), *few) as server:
        yield from _memory(server, 20 if quick else memory_s)


def _tokens(server: Served) -> float:
    """That searches have read so far."""
    return server.figure('ratchet_tokens_total{kind="search"}')


def _own_rate(num: int) -> list[float]:
    from scripts.bench.search import open_models
    from search import frontier
    from search.randomness import derive_seed

    models = open_models("expressions", True)
    rates = []
    for k in range(4):
        problems = models.task.held_out(num, 100 + k)
        searches = [models.search(p, derive_seed(0, p.id), True) for p in problems]
        began = time.monotonic()
        for start in range(0, num, 64):
            frontier.run(searches[start : start + 64], models, models, clock=time.monotonic)
        rates.append(num / (time.monotonic() - began))
    return rates[1:]  # the first one reads the weights


def _asked(
    server: Served, num_clients: int, num: int, seed: int
) -> tuple[list[float], list[float], float]:
    """Seconds of each request, seconds to its first byte, and of all together."""
    asked = questions(num, 100 + seed)
    firsts: list[float] = []

    def one(pair: tuple[str, str]) -> float:
        began = time.monotonic()
        body = server.body(pair[0], stream=True)
        with (
            httpx.Client(timeout=600) as client,
            client.stream("POST", f"{server.url}/chat/completions", json=body) as answer,
        ):
            assert answer.status_code == 200
            parts = answer.iter_raw()
            next(parts)
            firsts.append(time.monotonic() - began)
            assert b"[DONE]" in b"".join(parts)
        return time.monotonic() - began

    began = time.monotonic()
    with ThreadPoolExecutor(num_clients) as pool:
        times = list(pool.map(one, asked))
    return times, firsts, time.monotonic() - began


def _memory(server: Served, seconds: int) -> Iterator[Row]:
    """What the process holds in the middle and at the end: its caches are full by then."""
    sizes: list[float] = []
    began, seed = time.monotonic(), 600
    while (spent := time.monotonic() - began) < seconds:
        if spent >= seconds / 2 or not sizes:
            sizes.append(server.rss_mib())
        _asked(server, 32, 64, seed)
        seed += 1
    grown = server.rss_mib() - statistics.median(sizes[1:4] or sizes)
    told = f"{sizes[0]:.0f} MiB at first, {sizes[-1]:.0f} at the end, {seconds} s"
    yield counted("rss_grown_in_second_half", round(grown, 1), "MiB", 64 * (seed - 600), told)
