"""A service whose clients leave, whose actors die and whose store goes away."""

import json
import math
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

from agent.config.load import load_config
from agent.open_models import base_refs
from scripts.bench.calm import Calm
from scripts.bench.promotion import promote
from scripts.bench.report import Row, counted, repeats, share
from scripts.bench.served import Served, questions, serving


def faults(quick: bool) -> Iterator[Row]:
    slow = ("--no-tool", "--set", "search.stop_decided=false", "--set", "search.max_tokens=1000000")
    with tempfile.TemporaryDirectory() as name, serving(Path(name), *slow) as server:
        yield from _disconnects(server, 10 if quick else 100)
        yield from _cancels(server, 5 if quick else 50)
    with tempfile.TemporaryDirectory() as name:
        yield from _killed_actors(Path(name), 2 if quick else 20)
    with tempfile.TemporaryDirectory() as name:
        yield from _store_away(Path(name), 5 if quick else 30)
    with tempfile.TemporaryDirectory() as name:
        yield from _promoted(Path(name), 8 if quick else 30)


LONG: dict[str, Any] = {"search": {"simulations": 4096}}


def _disconnects(server: Served, num: int) -> Iterator[Row]:
    host, port = server.base.removeprefix("http://").split(":")
    ended: list[float] = []
    for k in range(num):
        body = json.dumps(server.body("9-8+7*6-5+4*3", stream=bool(k % 2), **LONG)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
            while server.figure("ratchet_searches_active") < 1:
                time.sleep(0.02)
        gone = time.monotonic()
        while server.figure("ratchet_searches_active") and time.monotonic() - gone < 10:
            time.sleep(0.02)
        ended.append(time.monotonic() - gone)
    yield repeats("disconnect_to_end_s", ended, "s", "half of them streams", target=1)
    left = server.figure("ratchet_searches_active")
    yield counted("in_flight_after_disconnects", left, "searches", num, "all clients gone")


def _cancels(server: Served, num: int) -> Iterator[Row]:
    answered = 0
    with ThreadPoolExecutor(1) as pool:
        for _ in range(num):
            found = pool.submit(
                httpx.post,
                f"{server.url}/chat/completions",
                json=server.body("9-8+7*6-5+4*3", stream=True, **LONG),
                timeout=60,
            )
            while server.figure("ratchet_searches_active") < 1:
                time.sleep(0.02)
            name = _running(server)
            httpx.post(f"{server.url}/searches/{name}/cancel", timeout=30)
            answered += found.result().text.rstrip().endswith("[DONE]")
    yield share("cancelled_searches_answered", answered, num, "best so far, or an error")


def _running(server: Served) -> str:
    """Of the newest search, by the store's own name for it: the only one that runs."""
    text = httpx.get(f"{server.url}/searches", timeout=30).json()
    return str(next(s["id"] for s in text["data"] if s["status"] == "running"))


def _killed_actors(folder: Path, num: int) -> Iterator[Row]:
    with serving(folder, "--hosting", "ray") as server:
        calm = Calm(server, 16, 900)
        stop = threading.Event()
        kills = 0
        tally = [0, 0, 0]

        def keep_asking() -> None:
            while not stop.is_set():
                for i, count in enumerate(calm.again(server)):
                    tally[i] += count

        asking = threading.Thread(target=keep_asking)
        asking.start()
        draw = random.Random(0)
        while kills < num:
            time.sleep(3)
            actors = [
                p
                for p in psutil.Process(server.process.pid).children(recursive=True)
                if "_Actor" in " ".join(p.cmdline() or [p.name()])
            ]
            if actors:
                draw.choice(actors).kill()
                kills += 1
        stop.set()
        asking.join()
        yield counted("wrong_answers_under_kills", tally[1], "answers", sum(tally), f"{num} kills")
        yield counted(
            "failed_requests_under_kills", tally[2], "requests", sum(tally), f"{num} kills"
        )


def _store_away(folder: Path, seconds: float) -> Iterator[Row]:
    """The store's file cannot be written to for a while: another process holds its lock."""
    import sqlite3

    with serving(folder) as server:
        calm = Calm(server, 16, 950)
        path = folder / "ratchet-runs" / "ratchet.db"
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        tally, asked = [0, 0, 0], len(calm.asked)
        while time.monotonic() - began < seconds:
            tally = [a + b for a, b in zip(tally, calm.again(server), strict=True)]
            asked += len(calm.asked)
        holder.execute("ROLLBACK")
        holder.close()
        wait = time.monotonic()
        while server.figure("ratchet_store_waiting") and time.monotonic() - wait < 60:
            time.sleep(0.2)
        reader = sqlite3.connect(path)
        stored = reader.execute("SELECT count(*) FROM searches WHERE status = 'done'").fetchone()[0]
        reader.close()
        wrong = tally[1] + tally[2]
        yield counted("other_or_no_answer_while_store_away", wrong, "", sum(tally), f"{seconds} s")
        yield counted("searches_lost", asked - stored, "searches", asked, "stored after it is back")


def _promoted(folder: Path, seconds: float) -> Iterator[Row]:
    """A round promotes a policy while eight clients ask; after it both answer by their names."""
    with serving(folder) as server:
        refs = base_refs(load_config({"task": "expressions"})[0])
        asked = [q for q, _ in questions(16, 970)]
        stop, failed, seen = threading.Event(), list[str](), list[tuple[float, str]]()

        def keep_asking(question: str) -> None:
            while not stop.is_set():
                try:
                    found = httpx.post(
                        f"{server.url}/chat/completions", json=server.body(question), timeout=60
                    )
                    seen.append((time.monotonic(), found.json()["search"]["model"]))
                except (httpx.HTTPError, KeyError) as error:
                    failed.append(repr(error))

        threads = [threading.Thread(target=keep_asking, args=(q,)) for q in asked[:8]]
        for thread in threads:
            thread.start()
        time.sleep(seconds / 3)
        new = promote(f"sqlite:///{folder}/ratchet-runs/ratchet.db", refs, folder)
        written = time.monotonic()
        time.sleep(seconds * 2 / 3)
        stop.set()
        for thread in threads:
            thread.join()
        first = min((at for at, version in seen if version == new), default=math.inf)
        known = (refs["policy"].version, new)
        lost = len(failed) + sum(version not in known for _, version in seen)
        num = len(seen) + len(failed)
        told = f"taken up {first - written:.1f} s after it was written"
        yield counted("failed_requests_under_promotion", lost, "requests", num, told)
        models = [server.body(asked[0], f"default@{k}:mcts") for k in (0, 1)]
        versions = [
            httpx.post(f"{server.url}/chat/completions", json=body, timeout=60).json()["search"]
            for body in models
        ]
        same = [v["model"] for v in versions] == list(known)
        yield share("both_policies_answer_by_name", 2 * same, 2, "default@0 and default@1")
        left = server.figure("ratchet_searches_active")
        yield counted("in_flight_after_promotion", left, "searches", num, "all answered")
