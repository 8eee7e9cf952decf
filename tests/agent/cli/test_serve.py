"""`ratchet serve` and `ratchet keys` as commands."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

SLOW = {"search": {"simulations": 4096, "time_limit_s": 2.0}}


def command(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "agent", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    process = command(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def launched(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


@pytest.fixture
def serving(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = command("serve", "--port", "0", "--json", "--no-tool", cwd=tmp_path)
    yield process
    process.kill()
    process.wait()


@pytest.mark.round
def test_a_signal_ends_the_server_after_the_answers_under_way(
    serving: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    launch = launched(serving)
    assert launch["event"] == "launch" and launch["model"] == "default@0"
    body = {"model": "latest:mcts", "messages": [{"role": "user", "content": "9-8+7*6-5+4"}]} | SLOW
    found: list[Any] = []
    url = launch["url"]
    asking = threading.Thread(
        target=lambda: found.append(httpx.post(f"{url}/chat/completions", json=body, timeout=60))
    )
    asking.start()
    metrics = url.replace("/v1", "/metrics")
    while "ratchet_searches_active 1.0" not in httpx.get(metrics, timeout=30).text:
        time.sleep(0.05)
    serving.send_signal(signal.SIGTERM)
    asking.join(60)
    assert found[0].status_code == 200 and found[0].json()["choices"][0]["message"]["content"]
    assert serving.wait(60) == 143
    assert serving.stdout is not None
    assert json.loads(serving.stdout.readlines()[-1]) == {"event": "done", "status": "stopped"}
    code, out, _ = done("inspect", "searches", "--run", "served", "--json", cwd=tmp_path)
    assert code == 0 and len(json.loads(out)["rows"]) == 1


@pytest.mark.round
def test_a_server_that_was_killed_hands_its_run_to_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        process = command("serve", "--port", "0", "--json", cwd=tmp_path)
        launch = launched(process)
        body = {"model": "latest:mcts", "messages": [{"role": "user", "content": "1+2*3"}]}
        answer = httpx.post(f"{launch['url']}/chat/completions", json=body, timeout=60).json()
        assert answer["choices"][0]["search"]["answer"] == "7"
        process.kill()
        process.wait()


@pytest.mark.cluster
def test_ray_serve_serves_the_same_application(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="pip install 'ratchet-llm[ray-serve]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = command("serve", "--ray-serve", "--port", str(port), "--json", cwd=tmp_path)
    try:
        url = launched(process)["url"]
        body = {"model": "latest:mcts", "messages": [{"role": "user", "content": "1+2*3"}]}
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60).json()
        assert answer["choices"][0]["search"]["answer"] == "7"
        streamed = httpx.post(f"{url}/chat/completions", json=body | {"stream": True}, timeout=60)
        assert streamed.text.endswith("data: [DONE]\n\n")
        refused = httpx.get(f"{url}/models", headers={"host": "evil.example"}, timeout=30)
        assert refused.status_code == 403
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 143
        assert process.stdout is not None
        assert json.loads(process.stdout.readlines()[-1])["event"] == "done"
    finally:
        process.kill()
        process.wait()
    code, out, _ = done("inspect", "searches", "--run", "served", "--json", cwd=tmp_path)
    assert code == 0 and len(json.loads(out)["rows"]) == 2


def test_a_taken_port_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, out, err = done("serve", "--port", port, cwd=tmp_path)
    assert (code, out) == (8, "") and f"port {port}" in err and "--port" in err


def test_an_address_that_others_reach_needs_keys(tmp_path: Path) -> None:
    code, _, err = done("serve", "--host", "0.0.0.0", cwd=tmp_path)
    assert code == 2 and "no key is set" in err and "ratchet keys add" in err


def test_keys_are_made_listed_and_removed(tmp_path: Path) -> None:
    code, key, _ = done("keys", "add", "laptop", "--scope", "inspect", cwd=tmp_path)
    assert code == 0 and key.startswith("rk-")
    code, listed, _ = done("keys", "list", "--json", cwd=tmp_path)
    assert json.loads(listed)["keys"] == [{"name": "laptop", "scopes": ["inspect"]}]
    code, _, err = done("keys", "add", "other", "--scope", "all", cwd=tmp_path)
    assert code == 2 and "infer, inspect, admin" in err
    assert done("keys", "remove", "laptop", cwd=tmp_path)[0] == 0
    assert done("keys", "remove", "laptop", cwd=tmp_path)[0] == 3
