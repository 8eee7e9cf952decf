"""The service under its clients, under load, under faults and under attack.

    python -m scripts.bench.service --quick                     # two minutes
    python -m scripts.bench.service --only load                 # ten minutes
    python -m scripts.bench.service --only clients --python /opt/clients/bin/python
    python -m scripts.bench.service --json results.json         # all of it, an hour

Sections: clients (openai-python and openai-node; with --python, an environment that has lm-eval and
inspect-ai, these two; schemathesis where it is installed), load (1 to 64 clients beside the same
requests in turn and beside a round's own searches; memory over ten minutes), faults (disconnects,
cancels, killed actors, a store that goes away, a promotion), attacks (malformed requests, slow
clients, every route with each key), viewer (trees of 1,000 and 20,000 nodes in Chromium;
--screenshots DIR). Servers are processes of their own with the embedded models.
"""

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import torch

from scripts.bench.report import Row, counted, missing, repeats, share, show, write
from scripts.bench.served import Served, questions, serving

SECTIONS = ("clients", "load", "faults", "attacks", "viewer")
CLIENTS = (1, 8, 32, 64)
HERE = Path(__file__).parent / "clients"


def clients(quick: bool, python: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        yield from _python_client(server)
        yield from _node_client(server, Path(name))
        for tool, work in (("lm_eval", _lm_eval), ("inspect_ai", _inspect)):
            if not python:
                yield missing(f"client_{tool}", "no --python with it")
            else:
                yield work(server, Path(name), python, 8 if quick else 40)
        yield _schemathesis(server, Path(name), 5 if quick else 50)


def _python_client(server: Served) -> Iterator[Row]:
    import openai

    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=2)
    messages: Any = [{"role": "user", "content": "7+2*3-4+5*6-1"}]

    def raises(kind: type[Exception], **body: Any) -> bool:
        try:
            client.chat.completions.create(**({"model": "latest", "messages": messages} | body))
        except kind:
            return True
        return False

    def streamed() -> bool:
        parts: Any = client.chat.completions.create(
            model="latest:mcts", messages=messages, stream=True
        )
        return "".join(p.choices[0].delta.content or "" for p in parts).endswith("38")

    def chat() -> bool:
        found = client.chat.completions.create(model="latest:mcts", messages=messages)
        return (found.choices[0].message.content or "").endswith("38")

    checks: list[Callable[[], bool]] = [
        chat,
        streamed,
        lambda: any(m.id == "latest:mcts" for m in client.models.list()),
        lambda: (
            client.completions.create(model="latest", prompt="7+2*3\n", max_tokens=4, temperature=0)
            .choices[0]
            .text.startswith("7+6")
        ),
        lambda: raises(openai.BadRequestError, messages=[]),
        lambda: raises(openai.NotFoundError, model="none"),
        lambda: raises(openai.BadRequestError, tools=[{"type": "function"}]),
    ]
    passed = sum(check() for check in checks)
    yield share("client_openai_python", passed, len(checks), f"openai {openai.__version__}")


def _node_client(server: Served, folder: Path) -> Iterator[Row]:
    if shutil.which("npm") is None:
        yield missing("client_openai_node", "no npm")
        return
    shutil.copy(HERE / "client.mjs", folder)
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        ["node", "client.mjs", server.url], cwd=folder, capture_output=True, text=True, timeout=120
    )
    verdicts = json.loads(done.stdout) if done.stdout else {"ran": done.stderr[-200:]}
    wrong = {k: v for k, v in verdicts.items() if v is not True}
    version = json.loads((folder / "node_modules/openai/package.json").read_text())["version"]
    yield share(
        "client_openai_node",
        len(verdicts) - len(wrong),
        len(verdicts),
        f"openai {version} {wrong or ''}",
        wrong=wrong,
    )


TASK = """task: ratchet_expressions
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 256}}
filter_list:
  - name: last
    filter:
      - {{function: regex, regex_pattern: "(-?[0-9]+)\\\\s*$"}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


def _lm_eval(server: Served, folder: Path, python: str, num: int) -> Row:
    rows = [{"question": q, "answer": a} for q, a in questions(num, 5)]
    data = folder / "test.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "ratchet_expressions.yaml").write_text(TASK.format(file=data))
    done = subprocess.run(
        [
            *(python, "-m", "lm_eval", "--model", "local-chat-completions", "--tasks"),
            *("ratchet_expressions", "--include_path", str(folder), "--apply_chat_template"),
            "--model_args",
            f"model=latest:mcts,base_url={server.url}/chat/completions,num_concurrent=8,"
            "max_retries=1,tokenized_requests=False",
            *("--output_path", str(folder / "lm")),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"},
    )
    found = list((folder / "lm").rglob("results*.json"))
    if done.returncode or not found:
        return missing("client_lm_eval", (done.stderr or done.stdout)[-300:])
    results = json.loads(found[0].read_text())["results"]["ratchet_expressions"]
    return share(
        "client_lm_eval", round(results["exact_match,last"] * num), num, "local-chat-completions"
    )


INSPECT = """
import json, sys
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import match
from inspect_ai.solver import generate
rows = [json.loads(x) for x in open(sys.argv[1])]
task = Task(dataset=[Sample(input=r["question"], target=r["answer"]) for r in rows],
            solver=generate(), scorer=match(location="end"))
(log,) = eval(task, model="openai-api/ratchet/latest:mcts", display="none", log_dir=sys.argv[2])
print(json.dumps({"status": log.status,
                  "accuracy": log.results.scores[0].metrics["accuracy"].value}))
"""


def _inspect(server: Served, folder: Path, python: str, num: int) -> Row:
    rows = [{"question": q, "answer": a} for q, a in questions(num, 5)]
    data = folder / "inspect.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    script = folder / "with_inspect.py"
    script.write_text(INSPECT)
    done = subprocess.run(
        [python, str(script), str(data), str(folder / "inspect-log")],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"RATCHET_API_KEY": "none", "RATCHET_BASE_URL": server.url},
    )
    if done.returncode:
        return missing("client_inspect_ai", done.stderr[-300:])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return share(
        "client_inspect_ai", round(found["accuracy"] * num), num, f"status {found['status']}"
    )


def _schemathesis(server: Served, folder: Path, examples: int) -> Row:
    if shutil.which("schemathesis") is None:
        return missing("schemathesis_5xx", "not installed: pip install schemathesis")
    done = subprocess.run(
        [
            *("schemathesis", "run", f"{server.base}/openapi.json", "--url", server.base),
            *("--checks", "not_a_server_error", "--max-examples", str(examples)),
            *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-color"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    lines = [x for x in done.stdout.splitlines() if "generated" in x or "Test cases" in x]
    errors = done.stdout.count("Server error")
    return counted("schemathesis_5xx", errors, "cases", examples, "; ".join(lines)[-120:])


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
                took = [_asked(server, num, each if num > 1 else each // 4, k) for k in range(3)]
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
                    first_byte_p50_s=round(firsts[len(firsts) // 2], 4),
                )
    # Kept prefixes may fill hosting.kv_mib for each set of weights: here they are few.
    few = ("--set", "hosting.kv_mib=8")
    with tempfile.TemporaryDirectory() as name, serving(Path(name), *few) as server:
        yield from _memory(server, 20 if quick else memory_s)


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


def faults(quick: bool) -> Iterator[Row]:
    slow = ("--no-tool", "--set", "search.stop_decided=false", "--set", "search.max_tokens=1000000")
    with tempfile.TemporaryDirectory() as name, serving(Path(name), *slow) as server:
        yield from _disconnects(server, 10 if quick else 100)
        yield from _cancels(server, 5 if quick else 50)
    with tempfile.TemporaryDirectory() as name:
        yield from _killed_actors(Path(name), 2 if quick else 20)
    with tempfile.TemporaryDirectory() as name:
        yield from _store_away(Path(name), 5 if quick else 30)


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


class Calm:
    """What a quiet server answers: under faults it must be the same."""

    def __init__(self, server: Served, num: int, seed: int) -> None:
        self.asked = [q for q, _ in questions(num, seed)]
        self.expected = dict(zip(self.asked, self._answers(server, self.asked), strict=True))
        if None in self.expected.values():
            raise RuntimeError("a quiet server failed")

    def again(self, server: Served) -> tuple[int, int, int]:
        """Answers that are the same, that are others, and requests that failed."""
        found = self._answers(server, self.asked)
        same = sum(self.expected[q] == a for q, a in zip(self.asked, found, strict=True))
        failed = sum(a is None for a in found)
        return same, len(found) - same - failed, failed

    def _answers(self, server: Served, asked: list[str]) -> list[str | None]:
        """None for a request that failed."""

        def one(question: str) -> str | None:
            try:
                found = httpx.post(
                    f"{server.url}/chat/completions", json=server.body(question), timeout=300
                )
            except httpx.HTTPError:
                return None
            return found.json()["choices"][0]["message"]["content"] if found.is_success else None

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, asked))


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


def attacks(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        calm = Calm(server, 16, 3)
        yield from _malformed(server, calm, 500 if quick else 10_000)
        yield from _slow_clients(server, calm, 20 if quick else 200)


def _malformed(server: Served, calm: Calm, num: int) -> Iterator[Row]:
    draw = random.Random(0)
    whole = json.dumps(server.body("7+2*3", n=2, stop=["x"], search={"simulations": 4})).encode()
    codes: dict[int, int] = {}
    broken = 0

    def mutated() -> bytes:
        raw = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(raw))
            kind = draw.randrange(4)
            if kind == 0:
                raw[at] = draw.randrange(256)
            elif kind == 1:
                del raw[at : at + draw.randint(1, 9)]
            elif kind == 2:
                raw[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 9)))
            else:
                raw[at:at] = draw.choice([b"null", b"[]", b"{}", b"-1", b"1e999", b'"\\ud800"'])
            if not raw:
                raw = bytearray(b"x")
        return bytes(raw)

    with httpx.Client(timeout=60) as client:
        for _ in range(num):
            path = draw.choice(["chat/completions", "completions"])
            found = client.post(
                f"{server.url}/{path}",
                content=mutated(),
                headers={"content-type": "application/json"},
            )
            codes[found.status_code] = codes.get(found.status_code, 0) + 1
            if found.status_code != 200:
                broken += "error" not in found.json()
    bad = sum(n for code, n in codes.items() if code >= 500)
    told = ", ".join(f"{n} x {code}" for code, n in sorted(codes.items()))
    yield counted("malformed_answered_5xx", bad, "requests", num, told)
    yield counted("malformed_without_an_error_body", broken, "requests", num, "of those refused")
    same, other, failed = calm.again(server)
    yield counted("other_or_no_answer_afterwards", other + failed, "", same, "the same before")


def _slow_clients(server: Served, calm: Calm, num: int) -> Iterator[Row]:
    """Connections that never finish their request must not stand before others."""
    host, port = server.base.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(num)]
    for connection in held:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    began = time.monotonic()
    same, other, failed = calm.again(server)
    spent = time.monotonic() - began
    for connection in held:
        connection.close()
    told = f"in {spent:.1f} s beside {num} open requests"
    yield counted("other_or_no_answer_beside_slow_clients", other + failed, "", same, told)


def viewer(quick: bool, screenshots: Path | None) -> Iterator[Row]:
    from scripts.bench.viewer import measured

    yield from measured(3 if quick else 7, screenshots)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help=f"sections, by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--python", default="", help="of an environment with lm-eval, inspect-ai")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the pages")
    parser.add_argument("--memory-s", type=int, default=600, help="of the look at the memory")
    parser.add_argument("--quick", action="store_true", help="true but smaller")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    sections = [s for s in given.only.split(",") if s] or list(SECTIONS)
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"unknown section {min(unknown)!r}; there are {', '.join(SECTIONS)}")
    torch.set_num_threads(1)
    rows: list[Row] = []
    made: dict[str, Iterator[Row]] = {
        "clients": clients(given.quick, given.python),
        "load": load(given.quick, given.memory_s),
        "faults": faults(given.quick),
        "attacks": attacks(given.quick),
        "viewer": viewer(given.quick, given.screenshots),
    }
    for section in sections:
        for row in made[section]:
            rows.append(row)
            show(row)
            write(given.json, "service", {"sections": sections, "quick": given.quick}, [0], rows)


if __name__ == "__main__":
    main()
