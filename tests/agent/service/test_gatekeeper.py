"""Who may ask: names, origins, keys, sizes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from agent.config.load import load_config
from agent.service.keys import Keys, Scope
from agent.service.server import opened_keys
from search.errors import NotFoundError, UsageError
from tests.agent.service.conftest import Running, running, until
from tests.agent.service.test_chat import QUESTION, asked

pytestmark = pytest.mark.round

BODY: dict[str, Any] = {"model": "latest", "messages": asked(QUESTION)}
ROUTES = [
    ("GET", "/v1/models", "infer"),
    ("GET", "/v1/models/latest", "infer"),
    ("POST", "/v1/chat/completions", "infer"),
    ("POST", "/v1/completions", "infer"),
    ("GET", "/v1/searches/search-0", "infer"),
    ("GET", "/v1/searches/search-0/events", "infer"),
    ("POST", "/v1/searches/search-0/cancel", "infer"),
    ("GET", "/health/ready", "infer"),
    ("GET", "/version", "infer"),
    ("GET", "/openapi.json", "admin"),
    ("GET", "/metrics", "admin"),
    ("GET", "/v1/nothing", "infer"),
]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"file": str(tmp_path_factory.mktemp("keys") / "keys.json")}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, secrets: dict[str, str]) -> Iterator[Running]:
    keys = Keys(Path(secrets["file"]))
    for scope in Scope:
        secrets[scope] = keys.add(scope, [scope])
    secrets["infer2"] = keys.add("another", [Scope.INFER])
    with running(tmp_path_factory.mktemp("guarded"), Keys(Path(secrets["file"]))) as found:
        yield found


def ask(server: Running, method: str, path: str, key: str | None = None, **headers: str) -> Any:
    sent = headers | ({"authorization": f"Bearer {key}"} if key is not None else {})
    body = BODY | {"prompt": "1+1"} if method == "POST" and "cancel" not in path else None
    return httpx.request(method, server.url + path, json=body, headers=sent, timeout=30)


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
def test_every_route_asks_for_a_key_and_its_scope(
    guarded: Running, secrets: dict[str, str], method: str, path: str, scope: str
) -> None:
    for wrong in (None, "rk-", "rk-wrong", secrets["infer"][:-1]):
        refused = ask(guarded, method, path, wrong)
        assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
    assert ask(guarded, method, path, secrets["admin"]).status_code not in (401, 403)
    other = ask(guarded, method, path, secrets["infer"])
    assert (other.status_code == 403) == (scope == "admin")
    inspecting = ask(guarded, method, path, secrets["inspect"])
    assert inspecting.status_code == 403


def test_pages_ask_a_browser_for_a_key_and_keep_it_in_a_cookie(
    guarded: Running, secrets: dict[str, str]
) -> None:
    browser = httpx.Client(base_url=guarded.url, timeout=30, follow_redirects=True)
    asked = browser.get("/view/")
    assert asked.status_code == 401 and 'name="key"' in asked.text
    assert browser.get("/view/static/style.css").status_code == 200
    assert browser.get("/view/static/tree.js").status_code == 401
    for wrong in ("", "rk-wrong", secrets["infer"], "x" * 9_000):
        assert browser.post("/view/sign-in", data={"key": wrong}).status_code == 401
    assert "no-referrer" not in asked.headers["referrer-policy"]  # or a form has no origin
    own = {"origin": guarded.url}
    shown = browser.post("/view/sign-in", data={"key": secrets["inspect"]}, headers=own)
    assert shown.status_code == 200 and "Runs" in shown.text
    cookie = shown.history[0].headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/view" in cookie
    assert browser.get("/view/").status_code == 200
    assert browser.get("/v1/models").status_code == 401  # the cookie is for the pages alone
    other = {"origin": "http://evil.example"}
    assert browser.post("/view/sign-in", data={"key": "x"}, headers=other).status_code == 403
    told = ask(guarded, "GET", "/view/", secrets["inspect"])
    assert (
        told.status_code == 200
        and ask(guarded, "GET", "/view/", secrets["infer"]).status_code == 403
    )


def test_live_needs_no_key(guarded: Running) -> None:
    assert ask(guarded, "GET", "/health/live").json() == {"status": "live"}


def test_the_client_raises_the_class_of_a_missing_key(guarded: Running) -> None:
    with pytest.raises(openai.AuthenticationError):
        guarded.client("rk-wrong").models.list()


def test_a_key_sees_its_own_searches_and_no_others(
    guarded: Running, secrets: dict[str, str]
) -> None:
    found = guarded.client(secrets["infer"]).chat.completions.create(
        model="latest:mcts", messages=asked(QUESTION)
    )
    path = f"/v1/searches/{found.search['id']}"
    assert ask(guarded, "GET", path, secrets["infer"]).status_code == 200
    assert ask(guarded, "GET", path, secrets["infer2"]).status_code == 404
    assert ask(guarded, "GET", path, secrets["admin"]).status_code == 200
    cancel = f"{path}/cancel"
    assert ask(guarded, "POST", cancel, secrets["infer2"]).status_code == 404
    # The store knows it, too, when this process no longer does.
    until(lambda: guarded.service.archive.num_waiting == 0)
    del guarded.service.tickets[found.search["id"]]
    assert ask(guarded, "GET", path, secrets["infer"]).json()["status"] == "done"
    assert ask(guarded, "GET", f"{path}/events", secrets["infer"]).status_code == 200
    assert ask(guarded, "GET", path, secrets["infer2"]).status_code == 404
    assert ask(guarded, "GET", path, secrets["admin"]).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "[::2]"]
)
def test_another_host_name_is_refused(server: Running, host: str) -> None:
    """Else a page elsewhere could point its own name here."""
    assert ask(server, "GET", "/v1/models", host=host).status_code in (400, 403)


@pytest.mark.parametrize("name", ["authorization", "origin"])
def test_a_header_that_comes_twice_is_neither_of_the_two(
    guarded: Running, secrets: dict[str, str], name: str
) -> None:
    """A proxy may have looked at one of them only."""
    right = {"authorization": f"Bearer {secrets['admin']}", "origin": guarded.url}
    for wrong in ("Bearer rk-wrong", "http://evil.example"):
        for pair in ([right[name], wrong], [wrong, right[name]]):
            rest = [(k, v) for k, v in right.items() if k != name]
            headers = httpx.Headers([*rest, *((name, value) for value in pair)])
            found = httpx.get(f"{guarded.url}/v1/models", headers=headers, timeout=30)
            assert found.status_code == (401 if name == "authorization" else 403)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "file://"])
def test_a_page_of_another_origin_is_refused(server: Running, origin: str) -> None:
    found = ask(server, "GET", "/v1/models", origin=origin)
    assert found.status_code == 403 and found.json()["error"]["code"] == "unknown_origin"


def test_the_servers_own_pages_may_ask(server: Running) -> None:
    assert ask(server, "GET", "/v1/models", origin=server.url).status_code == 200


def test_a_body_over_the_limit_is_refused_whether_it_says_so_or_not(server: Running) -> None:
    large = b"x" * (2 * 2**20 + 1)
    url = f"{server.url}/v1/chat/completions"
    told = httpx.post(url, content=large, timeout=30)

    def parts() -> Iterator[bytes]:
        yield from (large[i : i + 65_536] for i in range(0, len(large), 65_536))

    untold = httpx.post(url, content=parts(), timeout=30)
    assert (told.status_code, untold.status_code) == (413, 413)
    assert told.json()["error"]["code"] == "request_too_large"


BOMBS: dict[str, bytes] = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "number": b'{"model":"latest","n":' + b"9" * 100_000 + b"}",
    "float": b'{"model":"latest","temperature":1e999999,"messages":[]}',
    "nan": b'{"model":"latest","temperature":NaN,"messages":[]}',
    "not text": bytes(range(256)),
    "surrogate": b'{"model":"latest","messages":[{"role":"user","content":"\\ud800"}]}',
    "empty": b"",
    "null": b"null",
    "string": b'"x"',
    "keys": b"{" + b",".join(b'"k%d":1' % i for i in range(50_000)) + b"}",
    "messages": b'{"model":"latest","messages":['
    + b",".join([b'{"role":"user","content":"1+1"}'] * 600)
    + b"]}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_malformed_body_is_a_bad_request(server: Running, name: str) -> None:
    for path in ("chat/completions", "completions"):
        found = httpx.post(
            f"{server.url}/v1/{path}",
            content=BOMBS[name],
            headers={"content-type": "application/json"},
            timeout=30,
        )
        assert found.status_code == 400, found.text[:200]
        assert set(found.json()["error"]) == {"message", "type", "param", "code"}
        assert len(found.text) < 2_000


def test_others_are_served_with_keys_alone(tmp_path: Path) -> None:
    config, _ = load_config({"serve.host": "0.0.0.0"})
    with pytest.raises(UsageError, match="no key is set"):
        opened_keys(config)
    Keys(tmp_path / "keys.json").add("a", [Scope.INFER])
    config, _ = load_config({"serve.host": "0.0.0.0", "serve.keys": str(tmp_path / "keys.json")})
    assert opened_keys(config).names == {"a": ["infer"]}


def test_a_file_of_keys_holds_no_key_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    key = Keys(path).add("laptop", [Scope.INFER, Scope.INSPECT])
    assert key not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    found = Keys(path).find(key)
    assert found is not None and found.name == "laptop"
    assert found.may(Scope.INSPECT) and not found.may(Scope.ADMIN)
    assert Keys(path).find(key + "x") is None
    os.chmod(path, 0o644)
    with pytest.raises(UsageError, match="read by others"):
        Keys(path)


def test_a_removed_key_opens_nothing_while_a_server_runs(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = Keys(path).add("a", [Scope.INFER])
    server = Keys(path)
    assert server.find(key) is not None
    Keys(path).remove("a")
    assert server.find(key) is None and server.is_required


def test_a_file_without_keys_opens_no_door(tmp_path: Path) -> None:
    config, _ = load_config({"serve.keys": str(tmp_path / "no.json")})
    with pytest.raises(UsageError, match="holds no key"):
        opened_keys(config)


def test_keys_are_removed_by_name_and_not_made_twice(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    keys.add("a", [Scope.INFER])
    with pytest.raises(UsageError, match="already"):
        keys.add("a", [Scope.INFER])
    keys.remove("a")
    assert not Keys(tmp_path / "keys.json")
    with pytest.raises(NotFoundError, match="no key 'a'"):
        keys.remove("a")


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": {"sha256": "x", "scopes": ["z"]}}'])
def test_a_file_that_is_none_of_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="no file of keys"):
        Keys(path)


PROMPTS = {
    "control tokens": "<|im_start|>system<|im_end|><|endoftext|><s></s>[INST]<|eot_id|><bos>",
    "a megabyte": "1+" * 500_000 + "1",
    "combining marks": "1" + "\u0301" * 100_000,
    "bidi": "\u202e1+1\u202c\u2066\u2069",
    "joiners": "1\u200d+\u200d1",
    "byte order mark": "\ufeff1+1x",
    "whitespace": " \t\n\u3000",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_strange_question_is_a_bad_request_and_others_are_answered(
    server: Running, name: str
) -> None:
    body = {"model": "latest:mcts", "messages": asked(PROMPTS[name])}
    found = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert found.status_code == 400 and len(found.text) < 2_000
    again = httpx.post(
        f"{server.url}/v1/chat/completions",
        json={"model": "latest:mcts", "messages": asked(QUESTION)},
        timeout=30,
    )
    assert again.json()["search"]["answer"] == "38"


def test_ten_thousand_messages_are_too_many(server: Running) -> None:
    body = {"model": "latest", "messages": asked("1+1") * 10_000}
    found = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert found.status_code == 400 and "512" in found.json()["error"]["message"]


def test_logs_and_figures_hold_neither_keys_nor_questions(
    guarded: Running, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    canary = "9*8+7*6+5*4+3*2"
    client = guarded.client(secrets["admin"])
    client.chat.completions.create(model="latest:mcts", messages=asked(canary))
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="latest:mcts", messages=asked(canary + "c4n4ry"))
    ask(guarded, "GET", "/v1/models", "rk-c4n4ry-wrong")
    figures = ask(guarded, "GET", "/metrics", secrets["admin"]).text
    own = [r.getMessage() for r in caplog.records if r.name.startswith(("ratchet", "uvicorn"))]
    for text in (*own, figures):
        assert canary not in text and "c4n4ry" not in text
        assert not any(secrets[scope] in text for scope in Scope)


def test_hundreds_who_only_listen_do_not_stand_before_others(slow_server: Running) -> None:
    """Streams of events of one long search, held open."""
    import socket
    import threading

    host, port = slow_server.url.removeprefix("http://").split(":")
    body = {"model": "latest:mcts", "messages": asked(QUESTION)}
    body["search"] = {"time_limit_s": 20.0}
    asking = threading.Thread(
        target=lambda: httpx.post(f"{slow_server.url}/v1/chat/completions", json=body, timeout=60),
        daemon=True,
    )
    asking.start()
    until(lambda: slow_server.service.worker.num_active == 1)
    name = list(slow_server.service.tickets)[-1]
    held = []
    for _ in range(300):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(
            f"GET /v1/searches/{name}/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        )
        held.append(connection)
    quick = body | {"search": {"simulations": 2}}
    found = httpx.post(f"{slow_server.url}/v1/chat/completions", json=quick, timeout=60)
    assert found.status_code == 200 and found.json()["search"]["simulations"] == 2
    httpx.post(f"{slow_server.url}/v1/searches/{name}/cancel", timeout=30)
    for connection in held:
        connection.close()
    asking.join(30)
