"""A service under attack: what comes in, who asks, what others wait, what is told.

Every row counts what should not happen, beside how often it was tried.
"""

import http.client
import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx

from scripts.bench.calm import Calm
from scripts.bench.report import Row, counted
from scripts.bench.served import ROOT, Served, questions, serving

SLOW = ("--no-tool", "--set", "search.stop_decided=false", "--set", "search.max_tokens=1000000")
"""Settings of a search that does not end by itself."""


def attacks(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        calm = Calm(server, 16, 3)
        yield from _malformed(server, calm, 500 if quick else 10_000)
        yield from _prompts(server, calm)
        yield from _bombs(server, calm, 5 if quick else 30)
        yield from _slow_clients(server, calm, 20 if quick else 200)
        yield from _bleed(server, 12 if quick else 48)
        yield from _filters(server, 300 if quick else 5_000)
    with tempfile.TemporaryDirectory() as name, serving(Path(name), *SLOW) as server:
        yield from _listeners(server, 50 if quick else 1_000)
    with tempfile.TemporaryDirectory() as name:
        yield from _keys(Path(name), 2_000 if quick else 100_000)


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


CONTROL = (
    "<|im_start|>system", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[INST]", "<<SYS>>",
    "<|eot_id|>", "<|start_header_id|>", "<bos>", "<end_of_turn>", "<|channel|>",
    "<|END_OF_TURN_TOKEN|>",
)  # fmt: skip
PROMPTS: dict[str, str] = {
    **{f"control {text}": f"1+1{text}" for text in CONTROL},
    "a megabyte": "1+" * 500_000 + "1",
    "ten megabytes": "1+" * 5_000_000 + "1",
    "half a pair": "1+1\ud800",
    "NUL": "1+1\0",
    "bidi": "\u202e1+1\u202c\u2066\u2069",
    "joiners": "1\u200d+\u200d1",
    "combining marks": "1" + "\u0301" * 100_000,
    "byte order mark": "\ufeff1+1",
    "empty": "",
    "whitespace": " \t\n\u3000",
}


def _prompts(server: Served, calm: Calm) -> Iterator[Row]:
    """Strange questions; and how long the process answers nobody while it reads them."""
    bodies = [json.dumps(server.body(text)).encode() for text in PROMPTS.values()]
    bodies.append(json.dumps({"model": "latest", "messages": [_message("1+1")] * 10_000}).encode())
    bodies.append(b'{"model":"latest","messages":[{"role":"user","content":"\xff\xfe"}]}')
    codes: dict[int, int] = {}
    with _probed(server) as quiet:
        time.sleep(2)
    with _probed(server) as waits:
        for body in bodies * 3:
            found = _posted(server, body)
            codes[found.status_code] = codes.get(found.status_code, 0) + 1
    bad = sum(n for code, n in codes.items() if code >= 500 or code < 400)
    told = ", ".join(f"{n} x {code}" for code, n in sorted(codes.items()))
    yield counted("strange_questions_not_refused", bad, "requests", sum(codes.values()), told)
    worst = sorted(waits)[-1]
    told = f"quiet {1_000 * sorted(quiet)[-1]:.0f} ms; from outside, on the same cores"
    yield counted("slowest_sign_of_life_ms", round(1_000 * worst), "ms", len(waits), told, 100)
    yield _as_before("strange_questions", calm, server)


def _message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _posted(server: Served, body: bytes) -> httpx.Response:
    return httpx.post(
        f"{server.url}/chat/completions",
        content=body,
        headers={"content-type": "application/json"},
        timeout=120,
    )


def _as_before(name: str, calm: Calm, server: Served) -> Row:
    same, other, failed = calm.again(server)
    return counted(f"other_or_no_answer_after_{name}", other + failed, "", same, "as before")


@contextmanager
def _probed(server: Served) -> Iterator[list[float]]:
    """Seconds that /health/live took, asked again and again on one connection."""
    stop, waits = threading.Event(), list[float]()

    def probe() -> None:
        with httpx.Client(timeout=60) as client:
            client.get(f"{server.base}/health/live")
            while not stop.is_set():
                began = time.monotonic()
                client.get(f"{server.base}/health/live")
                waits.append(time.monotonic() - began)
                time.sleep(0.005)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield waits
    finally:
        stop.set()
        thread.join()


BOMBS: dict[str, dict[str, Any]] = {
    "n": {"n": 10**9},
    "best_of": {"best_of": 10**9},
    "max_tokens": {"max_tokens": 10**12},
    "top_logprobs": {"logprobs": True, "top_logprobs": 10**9},
    "stop": {"stop": ["x"] * 100_000},
    "simulations": {"search": {"simulations": 10**9}},
    "depth": {"search": {"max_depth": 10**9}},
    "tokens": {"search": {"max_tokens": 10**18}},
    "time": {"search": {"time_limit_s": 1e300}},
}


def _bombs(server: Served, calm: Calm, seconds: float) -> Iterator[Row]:
    """Requests for more than there is, one after another; and others beside them."""
    bodies = [json.dumps(server.body("7+2*3", **more)).encode() for more in BOMBS.values()]
    bodies.append(b'{"model":"latest","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    bodies.append(b'{"model":"latest","n":' + b"9" * 1_000_000 + b"}")
    before = server.rss_mib()
    quiet = _times(server, calm.asked, 6)
    stop, codes = threading.Event(), dict[int, int]()

    def throw() -> None:
        while not stop.is_set():
            for body in bodies:
                found = _posted(server, body)
                codes[found.status_code] = codes.get(found.status_code, 0) + 1
            code = _long_header(server)
            codes[code] = codes.get(code, 0) + 1
            time.sleep(0.1)

    thrower = threading.Thread(target=throw)
    thrower.start()
    began, beside = time.monotonic(), list[float]()
    while time.monotonic() - began < seconds:
        beside += _times(server, calm.asked, 1)
    stop.set()
    thrower.join()
    bad = sum(n for code, n in codes.items() if not 400 <= code < 500)
    told = ", ".join(f"{n} x {code}" for code, n in sorted(codes.items()))
    yield counted("bombs_not_refused", bad, "requests", sum(codes.values()), told)
    grown = round(server.rss_mib() - before, 1)
    yield counted("rss_grown_by_bombs_mib", grown, "MiB", sum(codes.values()), "before them", 50)
    yield _waited("p99_of_others_beside_bombs", quiet, beside)
    yield _as_before("bombs", calm, server)


def _long_header(server: Served) -> int:
    """The status of a request whose header has ten megabytes; 431 where it was cut off."""
    host, port = _address(server)
    with socket.create_connection((host, port), timeout=30) as connection:
        try:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
            for _ in range(160):
                connection.sendall(b"x" * 65_536)
            line = connection.recv(64)
        except OSError:
            return 431
    return int(line.split()[1]) if line else 431


def _address(server: Served) -> tuple[str, int]:
    host, _, port = server.base.removeprefix("http://").partition(":")
    return host, int(port)


def _times(
    server: Served, asked: Sequence[str], num: int, clients: int = 4, **more: Any
) -> list[float]:
    """Seconds of each of these questions, each asked so many times by so many at once."""

    def one(question: str) -> float:
        began = time.monotonic()
        found = _posted(server, json.dumps(server.body(question, **more)).encode())
        assert found.status_code == 200, found.text[:200]
        return time.monotonic() - began

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, list(asked) * num))


def _waited(name: str, quiet: list[float], beside: list[float]) -> Row:
    """The longest waits of others, as a multiple of those without the attack."""
    low, high = (statistics.quantiles(times, n=100)[98] for times in (quiet, beside))
    told = f"p99 {high:.2f} s, {low:.2f} quiet; median {statistics.median(beside):.2f}, "
    told += f"{statistics.median(quiet):.2f} quiet"
    return counted(name, round(high / low, 2), "x quiet", len(beside), told, 2)


def _slow_clients(server: Served, calm: Calm, num: int) -> Iterator[Row]:
    """Connections that never finish their request must not stand before others."""
    quiet = _times(server, calm.asked, 6)
    held = [socket.create_connection(_address(server)) for _ in range(num)]
    for connection in held:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    beside = _times(server, calm.asked, 6)
    row = _as_before("slow_clients", calm, server)
    for connection in held:
        connection.close()
    yield _waited(f"p99_of_others_beside_{num}_slow_clients", quiet, beside)
    yield row


def _listeners(server: Served, num: int) -> Iterator[Row]:
    """Streams of events of one long search, held open and not read."""
    host, port = _address(server)
    body = server.body("9-8+7*6-5+4*3", search={"simulations": 4096, "time_limit_s": 600.0})
    asking = threading.Thread(target=lambda: _posted(server, json.dumps(body).encode()))
    asking.start()
    while server.figure("ratchet_searches_active") < 1:
        time.sleep(0.02)
    running = httpx.get(f"{server.url}/searches", timeout=30).json()["data"]
    name = next(s["id"] for s in running if s["status"] == "running")
    asked = [q for q, _ in questions(16, 4)]
    first = server.rss_mib()
    quiet = _times(server, asked, 4, search={"simulations": 2})
    time.sleep(2)
    before = server.rss_mib()
    held = []
    for _ in range(num):
        held.append(socket.create_connection((host, port)))
        head = f"GET /v1/searches/{name}/events HTTP/1.1\r\nHost: {host}\r\n\r\n"
        held[-1].sendall(head.encode())
    time.sleep(2)
    beside = _times(server, asked, 4, search={"simulations": 2})
    grown = round(server.rss_mib() - before, 1)
    httpx.post(f"{server.url}/searches/{name}/cancel", timeout=60)
    for connection in held:
        connection.close()
    asking.join()
    yield _waited(f"p99_of_others_beside_{num}_listeners", quiet, beside)
    told = f"{before - first:.1f} MiB in as long before: the search that they listen to grows"
    yield counted("rss_grown_by_listeners_mib", grown, "MiB", num, told, 50)


def _bleed(server: Served, num: int) -> Iterator[Row]:
    """Requests of different settings, alone and then all at once."""
    draw = random.Random(1)
    bodies = []
    for question, _ in questions(num, 11):
        knobs = {
            "simulations": draw.choice([1, 2, 8, 32]),
            "c_puct": draw.choice([0.1, 1.0, 4.0]),
            "max_depth": draw.choice([3, 8, 16]),
            "critics": {"value": draw.choice([0.0, 1.0]), "outcome": draw.choice([0.5, 1.0])},
        }
        more: dict[str, Any] = {
            "n": draw.choice([1, 3]),
            "seed": draw.randrange(5),
            "search": knobs,
        }
        bodies.append(json.dumps(server.body(question, **more)).encode())

    def told(body: bytes) -> Any:
        found = _posted(server, body).json()
        search = {k: v for k, v in found["search"].items() if k not in ("id", "seconds")}
        return [c["message"]["content"] for c in found["choices"]], search

    alone = [told(body) for body in bodies]
    with ThreadPoolExecutor(num) as pool:
        together = list(pool.map(told, bodies))
    other = sum(a != b for a, b in zip(alone, together, strict=True))
    yield counted("other_answer_among_others", other, "answers", num, "the same request alone")


def _filters(server: Served, num: int) -> Iterator[Row]:
    """What a browser may write into the address of a page."""
    draw = random.Random(2)
    words = (
        "", "' OR 1=1 --", "%", "_", "\\", "__import__('os')", "{{7*7}}", "${x}", "-1", "9" * 400,
        "1e9", "nan", "null", "\u202e", "\ud83d\ude00", "<script>", "gained", "x" * 5_000, "\x01",
    )  # fmt: skip
    places = (
        "runs/served/rounds/{}", "runs/{}", "searches/{}", "searches/{}/table", "problems/{}",
        "api/searches/1/nodes/{}", "api/searches/{}/tree", "static/{}",
        "runs/served/rounds/1?kind={}", "runs/served/rounds/1?words={}",
        "runs/served/rounds/1?stop={}", "runs/served/rounds/1?page={}", "samples?run={}",
        "samples?policy={}", "samples?mode={}", "samples?show={}",
        "runs/served/compare?before={}&after=1", "runs/served/compare?before=1&after={}",
    )  # fmt: skip
    codes: dict[int, int] = {}
    with httpx.Client(timeout=60) as client:
        for _ in range(num):
            word = draw.choice(words)
            if draw.random() < 0.3:
                word += "".join(chr(draw.randrange(32, 0x2FFF)) for _ in range(8))
            path = draw.choice(places).format(quote(word, safe="", errors="surrogatepass"))
            code = client.get(f"{server.base}/view/{path}").status_code
            codes[code] = codes.get(code, 0) + 1
    bad = sum(n for code, n in codes.items() if code >= 500)
    told = ", ".join(f"{n} x {code}" for code, n in sorted(codes.items()))
    yield counted("filters_answered_5xx", bad, "requests", num, told)


ROUTES = (
    ("GET", "/v1/models"), ("GET", "/v1/models/latest"), ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"), ("GET", "/v1/searches"), ("GET", "/v1/searches/search-0"),
    ("GET", "/v1/searches/search-0/events"), ("POST", "/v1/searches/search-0/cancel"),
    ("GET", "/health/ready"), ("GET", "/version"), ("GET", "/metrics"), ("GET", "/openapi.json"),
    ("GET", "/docs"), ("GET", "/view/"), ("GET", "/view/runs/served"),
    ("GET", "/view/api/searches/1/tree"), ("GET", "/view/searches/1/export"),
)  # fmt: skip


def _keys(folder: Path, num_timed: int) -> Iterator[Row]:
    """Every route without a right key; the time of a comparison; what is told of keys."""
    file = str(folder / "keys.json")
    command = [sys.executable, "-m", "agent", "keys", "add", "bench", "--scope", "admin"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    made = subprocess.run(
        [*command, "--file", file, "--json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    key = json.loads(made.stdout)["key"]
    with serving(folder, "--keys", file) as server:
        yield from _without_key(server, key)
        yield from _compared(server, key, num_timed)
        yield from _secrets(server, key, folder)


def _without_key(server: Served, key: str) -> Iterator[Row]:
    wrong: list[tuple[list[tuple[str, str]], str]] = [
        ([], ""),
        ([("authorization", "Bearer rk-wrong")], ""),
        ([("authorization", f"Bearer {key[:-1]}")], ""),
        ([("authorization", f"Basic {key}")], ""),
        ([("authorization", "bearer rk-wrong")], ""),
        ([("authorization", "Bearer rk-wrong"), ("authorization", f"Bearer {key}")], ""),
        ([("authorization", f"Bearer {key}"), ("authorization", "Bearer rk-wrong")], ""),
        ([("x-api-key", key)], ""),
        ([], f"?key={key}&api_key={key}&authorization=Bearer%20{key}"),
    ]
    opened = 0
    for method, path in ROUTES:
        for headers, query in wrong:
            found = httpx.request(
                method, server.base + path + query, headers=httpx.Headers(headers), timeout=30
            )
            opened += found.status_code != 401
    tried = len(ROUTES) * len(wrong)
    yield counted("routes_open_without_a_right_key", opened, "requests", tried, "all 401")
    foreign = 0
    own = {"authorization": f"Bearer {key}"}
    for more in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        for method, path in ROUTES:
            found = httpx.request(method, server.base + path, headers=own | more, timeout=30)
            foreign += found.status_code != 403
    yield counted("foreign_host_or_origin_served", foreign, "requests", 3 * len(ROUTES), "all 403")
    right = sum(
        httpx.request(method, server.base + path, headers=own, timeout=30).status_code in (401, 403)
        for method, path in ROUTES
    )
    yield counted("routes_shut_with_the_right_key", right, "requests", len(ROUTES), "none")


def _compared(server: Served, key: str, num: int) -> Iterator[Row]:
    """Do keys that are almost right take another time to refuse? Drawn in random order."""
    host, port = _address(server)
    draw = random.Random(3)
    times: dict[bool, list[float]] = {True: [], False: []}
    connection = http.client.HTTPConnection(host, port, timeout=30)
    for k in range(num + 200):
        is_near = draw.random() < 0.5
        other = "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in key)
        given = key[:-1] + ("a" if key[-1] != "a" else "b") if is_near else "rk-" + other[3:]
        began = time.perf_counter()
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {given}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 401
        if k >= 200:  # the first ones warm the connection
            times[is_near].append(time.perf_counter() - began)
    connection.close()
    distance, p = kolmogorov_smirnov(times[True], times[False])
    near, far = (statistics.median(times[k]) * 1e6 for k in (True, False))
    told = f"D {distance:.4f}; medians {near:.1f} and {far:.1f} us; wanted above .01"
    yield counted("p_of_equal_times_of_near_and_far_keys", round(p, 3), "p", num, told, 1)


def kolmogorov_smirnov(left: Sequence[float], right: Sequence[float]) -> tuple[float, float]:
    """The distance of two samples' distributions, and the probability of one as large by chance.

    The asymptotic series of Kolmogorov's distribution with Stephens's correction (Numerical
    Recipes, 14.3.3).
    """
    a, b = sorted(left), sorted(right)
    i = j = 0
    distance = 0.0
    while i < len(a) and j < len(b):
        at = min(a[i], b[j])
        while i < len(a) and a[i] == at:
            i += 1
        while j < len(b) and b[j] == at:
            j += 1
        distance = max(distance, abs(i / len(a) - j / len(b)))
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:
        return distance, 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return distance, min(1.0, max(0.0, 2 * sum(terms)))


def _secrets(server: Served, key: str, folder: Path) -> Iterator[Row]:
    """Canaries in all that a client sends; then all that the service tells of itself."""
    canaries = [f"c4n4ry{k:02d}x" for k in range(50)]
    own = {"authorization": f"Bearer {key}"}
    for k, canary in enumerate(canaries):
        body = server.body("7+2*3")
        headers, query = dict(own), ""
        place = k % 8
        if place == 0:
            headers["authorization"] = f"Bearer rk-{canary}"
        elif place == 1:
            query = f"?key={canary}"
        elif place == 2:
            headers["cookie"] = f"key={canary}"
        elif place == 3:
            headers["idempotency-key"] = canary
        elif place == 4:
            body = server.body(f"7+2*3 {canary}")
        elif place == 5:
            body |= {"user": canary, canary: canary}
        elif place == 6:
            body["model"] = canary
        else:
            body |= {"metadata": {canary: canary}}
        httpx.post(f"{server.url}/chat/completions{query}", json=body, headers=headers, timeout=60)
        httpx.get(f"{server.base}/{canary}", headers=headers, timeout=60)
    told = httpx.get(f"{server.base}/metrics", headers=own, timeout=60).text
    doctor = subprocess.run(
        [sys.executable, "-m", "agent", "doctor"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    told += (folder / "server.log").read_text() + doctor.stdout + doctor.stderr
    found = sum(canary in told for canary in canaries) + (key in told)
    where = "log, figures and `ratchet doctor`"
    yield counted("canaries_told", found, "canaries", len(canaries) + 1, where)
    kept = sum(key.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    yield counted("files_that_hold_the_key", kept, "files", 1, "its digest alone is kept")
