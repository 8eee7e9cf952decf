"""A judge is asked yes or no: a model at hand, or one behind an endpoint that may misbehave."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.model_refs import ModelSet
from agent.config.load import load_config
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.imagination import judge as judges
from agent.imagination.judge import ModelJudge, ServedJudge, opened_judge, said
from agent.search_models import Models, ModelSettings
from agent.tasks.expressions import Expressions
from search.errors import CheckpointError, ResourceError, UsageError
from tests.agent.conftest import write_checkpoint


class Endpoint:
    """A served model that says of each question what it is told to."""

    def __init__(self, reply: Callable[[str], tuple[int, Any]]) -> None:
        endpoint = self
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(200, {"object": "list", "data": [{"id": "first"}, {"id": "second"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append(body)
                endpoint.keys.add(self.headers.get("Authorization", ""))
                status, text = reply(body["messages"][0]["content"])
                if isinstance(text, bytes):  # as it is
                    self._send_raw(200, text)
                    return
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                found = {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                    "choices": [choice],
                }
                self._send(status, found if status == 200 else {"error": {"message": text}})

            def _send(self, status: int, body: Any) -> None:
                self._send_raw(status, json.dumps(body).encode())

            def _send_raw(self, status: int, raw: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str], tuple[int, Any]]], Endpoint]]:
    opened: list[Endpoint] = []

    def started(reply: Callable[[str], tuple[int, Any]]) -> Endpoint:
        opened.append(Endpoint(reply))
        return opened[-1]

    yield started
    for endpoint in opened:
        endpoint.server.shutdown()
        endpoint.server.server_close()


Serve = Callable[[Callable[[str], tuple[int, Any]]], Endpoint]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("yes", "yes"),
        (" Yes.", "yes"),
        ("**No**, it is not", "no"),
        ("no", "no"),
        ("I think yes", "unclear"),
        ("", "unclear"),
        ("42", "unclear"),
        ("yesterday", "unclear"),
        ("nothing is wrong", "unclear"),
    ],
)
def test_the_first_word_of_an_answer_decides(reply: str, verdict: str) -> None:
    assert said(reply) == verdict


def test_a_served_judge_is_asked_one_question_at_a_time_and_answers_each(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = {"a": (200, "Yes"), "b": (200, "No."), "c": (200, "perhaps"), "d": (200, None)}
    endpoint = serve(lambda question: replies[question])
    monkeypatch.setenv("RATCHET_JUDGE_KEY", "secret")
    judge = ServedJudge(endpoint.url)
    assert judge.verdicts(["a", "b", "c", "d"]) == ["yes", "no", "unclear", "unclear"]
    assert {body["model"] for body in endpoint.asked} == {"first"}  # none was named
    assert endpoint.keys == {"Bearer secret"}
    ServedJudge(endpoint.url, "second").verdicts(["a"])
    assert endpoint.asked[-1]["model"] == "second"
    assert endpoint.asked[-1]["temperature"] == 0


def test_a_judge_that_fails_once_refuses_one_text_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = serve(lambda q: (500, "overloaded") if q == "b" else (200, "yes"))
    judge = ServedJudge(endpoint.url)
    judge._client = judge._client.with_options(max_retries=0)
    assert judge.verdicts(["a", "b", "c"]) == ["yes", "silent", "yes"]


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b"<html>busy</html>", "silent"),
        (b"{", "silent"),
        (b"", "silent"),
        (b"null", "silent"),
        (b'{"choices": []}', "silent"),
        (b'{"choices": ["yes"]}', "silent"),
        (b'{"choices": [{"message": null}]}', "silent"),
        (b'{"choices": [{"message": {"content": [{"type": "text"}]}}]}', "unclear"),
        (b'{"choices": [{"message": {"content": null}}]}', "unclear"),
    ],
)
def test_an_answer_that_is_none_refuses_its_text_and_ends_nothing(
    serve: Serve, body: bytes, verdict: str
) -> None:
    endpoint = serve(lambda question: (200, "yes") if question == "a" else (0, body))
    judge = ServedJudge(endpoint.url, "first")
    judge._client = judge._client.with_options(max_retries=0)
    assert judge.verdicts(["a", "b", "a"]) == ["yes", verdict, "yes"]


def test_a_judge_that_is_not_there_is_given_up_with_the_way_out() -> None:
    judge = ServedJudge("http://127.0.0.1:9/v1")
    judge._client = judge._client.with_options(max_retries=0)
    with pytest.raises(ResourceError, match="does not answer") as found:
        judge.verdicts(["a"] * 5)
    assert "imagination.judge" in found.value.fix


def test_a_judge_that_is_silent_from_call_to_call_is_given_up_too() -> None:
    judge = ServedJudge("http://127.0.0.1:9/v1")
    judge._client = judge._client.with_options(max_retries=0)
    assert judge.verdicts(["a", "b"]) == ["silent", "silent"]
    with pytest.raises(ResourceError, match="does not answer"):
        judge.verdicts(["a"])


@pytest.mark.parametrize(
    ("status", "told", "fix"),
    [
        (401, "refuses its key", "RATCHET_JUDGE_KEY"),
        (403, "refuses its key", "RATCHET_JUDGE_KEY"),
        (404, "does not know model 'first'", "imagination.judge_model"),
    ],
)
def test_a_judge_that_will_never_answer_says_why_at_once(
    serve: Serve, status: int, told: str, fix: str
) -> None:
    endpoint = serve(lambda question: (status, "no"))
    with pytest.raises(ResourceError, match=told) as found:
        ServedJudge(endpoint.url).verdicts(["a"])
    assert fix in found.value.fix and len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"imagination.judge": "ftp://host/v1"}, "no http address"),
        ({"imagination.judge": "http://"}, "no http address"),
        ({"imagination.judge": "http:///v1"}, "no http address"),
        ({"imagination.judge": "http://host:99999/v1"}, "no http address"),
        ({"imagination.judge": "http://me:s3cret@host/v1"}, "a name or a password"),
        ({"imagination.judge": "HTTPS://me:s3cret@host"}, "a name or a password"),
        ({"imagination.judge": "ftp://me:s3cret@host"}, "a name or a password"),
        ({"imagination.judge": "http://me:pa/s3cret@host"}, "a name or a password"),
        ({"imagination.judge": "http://host/v1?api_key=s3cret@"}, "a name or a password"),
        ({"imagination.judge": "http://host/v1?api_key=s3cret"}, "more behind its path"),
        ({"imagination.judge_model": "gpt"}, "only an endpoint"),
    ],
)
def test_a_judge_that_cannot_be_is_refused_before_a_model_is_loaded(
    flags: dict[str, str], told: str
) -> None:
    with pytest.raises(UsageError, match=told) as found:
        load_config({"task": "jsonl", "imagination.schemes": '["lamini"]'} | flags)
    assert "s3cret" not in str(found.value)


def test_the_key_of_a_judge_in_the_environment_is_no_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RATCHET_JUDGE_KEY", "secret")
    config, origins = load_config({})
    assert "secret" not in repr((config, origins))


def test_a_judge_without_anything_to_judge_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing is written"):
        load_config({"imagination.judge": "http://host/v1"})


def test_a_model_at_hand_judges_with_its_own_tokens(tmp_path: Path) -> None:
    policy = verify_checkpoint(write_checkpoint(tmp_path / "p", seed=1)).ref("policy")
    path = write_checkpoint(tmp_path / "j", seed=2)
    config, _ = load_config({})
    hosts = InlineHosts(HostSettings())
    models = Models(hosts, ModelSet({"policy": policy}), Expressions(), ModelSettings.of(config))
    judge = opened_judge(str(path), "", models, policy)
    assert isinstance(judge, ModelJudge) and judge.model.path == str(path)
    own = opened_judge("", "", models, policy)
    assert isinstance(own, ModelJudge) and own.model is policy
    with pytest.raises(CheckpointError):
        opened_judge(str(tmp_path / "nowhere"), "", models, policy)


def test_a_question_that_a_model_cannot_hold_has_no_answer(tmp_path: Path) -> None:
    class Words:
        def encode(self, text: str, is_start: bool = True) -> list[int]:
            return [3] * len(text.split())

    policy = verify_checkpoint(write_checkpoint(tmp_path / "p", seed=1)).ref("policy")
    config, _ = load_config({})
    hosts = InlineHosts(HostSettings())
    models = Models(hosts, ModelSet({"policy": policy}), Expressions(), ModelSettings.of(config))
    judge = ModelJudge(models, policy)
    judge.tokenizer = Words()  # type: ignore[assignment]
    assert judge.verdicts(["word " * 5000, "word word"]) == ["silent", "no"]
    assert judges.MARGIN == 0.0
