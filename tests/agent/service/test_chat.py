"""Chat completions as OpenAI's own client sees them."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from agent.service.requests import EFFORTS
from tests.agent.service.conftest import Running, until

pytestmark = pytest.mark.round

QUESTION = "7+2*3-4+5*6-1"
OTHERS = ["3+4*2-5", "9-2*3+8", "8*3-7+2", "6+6*6-6", "1+2+3*4", "5*5-5+5", "2*2*2+2", "9-8+7*6"]


def asked(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def ask(server: Running, question: str = QUESTION, model: str = "latest:mcts", **more: Any) -> Any:
    return server.client().chat.completions.create(model=model, messages=asked(question), **more)


def test_a_searched_answer_says_what_was_found_and_what_it_cost(server: Running) -> None:
    found = ask(server)
    choice = found.choices[0]
    assert choice.message.content.splitlines()[-1] == "38"
    assert (choice.finish_reason, choice.search["answer"]) == ("stop", "38")
    assert choice.search["is_sound"] is True
    assert found.search["stop_reason"] == "solved" and found.search["simulations"] >= 1
    usage = found.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens_details.reasoning_tokens == found.search["sampled_tokens"]


def test_the_policys_own_text_costs_no_search(server: Running) -> None:
    found = ask(server, model="latest")
    assert found.choices[0].message.content
    assert found.usage.completion_tokens_details.reasoning_tokens == 0
    assert "search" not in found.model_extra


def test_a_stream_holds_the_same_text_its_usage_and_its_end(server: Running) -> None:
    whole = ask(server)
    parts = list(ask(server, stream=True, stream_options={"include_usage": True}))
    text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    assert text == whole.choices[0].message.content
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].usage == whole.usage and parts[-1].choices == []
    assert [p.choices[0].finish_reason for p in parts if p.choices][-1] == "stop"
    assert len({p.id for p in parts}) == 1


def test_many_requests_at_once_have_the_answers_they_have_alone(server: Running) -> None:
    """Other requests' settings and batches change nothing."""
    efforts = ["low", "minimal", "medium", None]
    jobs = [(q, efforts[i % 4]) for i, q in enumerate([QUESTION, *OTHERS] * 3)]

    def one(job: tuple[str, str | None]) -> tuple[Any, ...]:
        more = {"reasoning_effort": job[1]} if job[1] else {}
        found = ask(server, job[0], **more)
        figures = found.search
        return (
            found.choices[0].message.content,
            figures["simulations"],
            figures["sampled_tokens"],
            figures["stop_reason"],
        )

    alone = [one(job) for job in jobs]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(one, jobs))
    assert together == alone


def test_several_answers_are_different_and_the_best_comes_first(slow_server: Running) -> None:
    found = ask(slow_server, n=3, extra_body={"search": {"simulations": 24}})
    answers = [c.search["answer"] for c in found.choices]
    shares = [c.search["confidence"] for c in found.choices]
    assert len(set(answers)) == len(answers) == 3
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1.0 + 1e-9


@pytest.mark.parametrize(("effort", "simulations"), EFFORTS.items())
def test_each_effort_is_a_number_of_simulations(
    server: Running, effort: str, simulations: int
) -> None:
    body: Any = {"model": "latest:mcts", "messages": asked(QUESTION), "reasoning_effort": effort}
    from agent.service.requests import ChatRequest

    parsed = ChatRequest.model_validate(body)
    models = server.service.newest()
    settings = server.service.settings_of(models, parsed.search, parsed.reasoning_effort)
    assert settings.simulations == simulations


def test_knobs_of_the_search_bind_this_request_alone(slow_server: Running) -> None:
    few = ask(slow_server, extra_body={"search": {"simulations": 3, "return_tree": "full"}})
    assert few.search["simulations"] == 3 and few.search["stop_reason"] == "simulations"
    assert len(few.search["tree"]) == few.search["nodes"]
    more = ask(slow_server, extra_body={"search": {"simulations": 5, "return_tree": "summary"}})
    assert more.search["simulations"] == 5
    assert all(node["principal"] for node in more.search["tree"])


def test_weights_of_critics_bind_this_request_alone(slow_server: Running) -> None:
    def values(**critics: float) -> list[float | None]:
        search: dict[str, Any] = {"simulations": 6, "return_tree": "full"}
        if critics:
            search["critics"] = critics
        return [n["q"] for n in ask(slow_server, extra_body={"search": search}).search["tree"]]

    plain = values()
    assert values(value=0.0, process=0.0, outcome=1.0) != plain
    assert values() == plain


def test_a_deadline_gives_the_best_so_far(slow_server: Running) -> None:
    found = ask(slow_server, extra_body={"search": {"time_limit_s": 0.5}})
    assert found.choices[0].finish_reason == "length"
    assert found.search["stop_reason"] == "deadline"
    assert found.choices[0].message.content
    assert found.search["seconds"] < 5


def test_an_answer_ends_at_a_stop_text_and_at_its_longest(server: Running) -> None:
    whole = ask(server).choices[0].message.content
    first = whole.split("\n")[0]
    found = ask(server, stop=["\n"], logprobs=True, extra_body={"return_token_ids": True})
    cut = found.choices[0]
    assert cut.message.content == first and cut.finish_reason == "stop"
    # Its tokens are those of the text that is left: the toys have a token a character.
    assert len(cut.token_ids) == len(cut.logprobs.content) == len(first)
    assert found.usage.completion_tokens == len(first)
    short = ask(server, max_completion_tokens=3).choices[0]
    assert short.message.content == whole[:3] and short.finish_reason == "length"


def test_token_ids_and_logprobs_belong_to_the_text(server: Running) -> None:
    found = ask(server, logprobs=True, top_logprobs=2, extra_body={"return_token_ids": True})
    choice = found.choices[0]
    content = choice.logprobs.content
    assert len(content) == len(choice.token_ids) and found.prompt_token_ids
    assert "".join(c.token for c in content).startswith(choice.message.content)
    assert all(c.logprob <= 0 and len(c.top_logprobs) == 2 for c in content)
    likeliest = [c.top_logprobs[0].logprob for c in content]
    assert all(top >= c.logprob - 1e-3 for top, c in zip(likeliest, content, strict=True))


def test_a_json_answer_is_one_object(server: Running) -> None:
    found = ask(server, response_format={"type": "json_object"})
    assert json.loads(found.choices[0].message.content)["answer"] == "38"


def test_equal_seeds_give_equal_samples(server: Running) -> None:
    def texts(seed: int) -> list[str]:
        found = ask(server, model="latest", temperature=1.5, seed=seed, n=8)
        return [c.message.content for c in found.choices]

    assert texts(1) == texts(1) != texts(2)


def test_what_is_not_read_is_named(server: Running) -> None:
    raw = server.client().chat.completions.with_raw_response.create(
        model="latest:mcts",
        messages=[{"role": "system", "content": "be brief"}, *asked(QUESTION)],
        temperature=0.5,
        extra_body={"nonsense": 1},
    )
    assert raw.headers["x-ratchet-ignored"] == "nonsense, messages[0], temperature"
    assert raw.headers["x-request-id"].startswith("req-")


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": 1}, "frequency_penalty"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
    ({"web_search_options": {}}, "web_search_options"),
]


@pytest.mark.parametrize(("more", "name"), UNSUPPORTED)
def test_what_would_change_the_answer_is_refused_by_name(
    server: Running, more: dict[str, Any], name: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, **more)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)


WRONG: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": [{"role": "assistant", "content": "hi"}]},
    {"messages": asked("")},
    {"messages": asked("not a sum")},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    {"n": 0},
    {"n": 9},
    {"n": "2"},
    {"temperature": 3},
    {"top_p": 0},
    {"stop": ["a", "b", "c", "d", "e"]},
    {"stop": ""},
    {"max_tokens": 0},
    {"seed": 2**63},
    {"top_logprobs": 3},
    {"reasoning_effort": "lots"},
    {"stream_options": {"include_usage": True}},
    {"search": {"simulations": 0}},
    {"search": {"simulations": 5000}},
    {"search": {"unknown": 1}},
    {"search": {"critics": {"taste": 1.0}}},
    {"search": {"critics": {"value": -1.0}}},
    {"search": {"time_limit_s": 0}},
    {"model": "latest", "search": {"simulations": 4}},
    {"model": "latest", "reasoning_effort": "high"},
    {"model": ""},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_wrong_value_is_a_bad_request_that_says_so(
    server: Running, change: dict[str, Any]
) -> None:
    body = {"model": "latest:mcts", "messages": asked(QUESTION)} | change
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().post("/chat/completions", body=body, cast_to=object)
    assert caught.value.type == "invalid_request_error" and caught.value.message


@pytest.mark.parametrize("model", ["latest", "latest:mcts"])
def test_a_stream_of_a_bad_question_has_the_status_of_one(server: Running, model: str) -> None:
    for text in ("no sum", "1+1\x00"):
        with pytest.raises(openai.BadRequestError):
            ask(server, text, model=model, stream=True)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, "1+" * 500 + "1", model=model, stream=True)
    assert caught.value.code in ("context_length_exceeded", "invalid_value")


def test_an_unknown_model_is_not_found(server: Running) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(server, model="gpt-5")
    assert caught.value.code == "model_not_found" and "latest" in caught.value.message


def test_a_full_queue_says_when_to_come_back(slow_server: Running) -> None:
    def hang(_: int) -> str:
        try:
            ask(slow_server, extra_body={"search": {"time_limit_s": 3}})
        except openai.RateLimitError as error:
            return str(error.response.headers["retry-after"])
        return ""

    with ThreadPoolExecutor(8) as pool:
        refused = [text for text in pool.map(hang, range(8)) if text]
    assert refused and all(int(text) >= 1 for text in refused)
    until(lambda: slow_server.service.worker.num_active == 0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_hangs_up_ends_its_search(slow_server: Running, is_streamed: bool) -> None:
    worker = slow_server.service.worker
    host, port = slow_server.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "latest:mcts", "messages": asked(QUESTION), "stream": is_streamed})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall((head + body).encode())
        until(lambda: worker.num_active == 1)
        ticket = list(slow_server.service.tickets.values())[-1]
    until(lambda: worker.num_active == 0, 3)
    assert str(ticket.standing) == "cancelled"


def test_the_same_idempotency_key_is_the_same_search(server: Running) -> None:
    once = {"Idempotency-Key": "abc"}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ask(server, extra_headers=once), range(4)))
    assert len({f.search["id"] for f in found}) == 1
    with pytest.raises(openai.ConflictError) as caught:
        ask(server, OTHERS[0], extra_headers=once)
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_failed_search_is_not_tried_again(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client would pay for it three times."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("secret text of the inside")

    monkeypatch.setattr(server.service.newest(), "propose", broken)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(server)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "secret" not in caught.value.message and "req-" in caught.value.message
    monkeypatch.undo()
    assert ask(server).choices[0].search["answer"] == "38"
