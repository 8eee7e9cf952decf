"""The policy's own continuations, and log-probabilities of texts that somebody else wrote."""

from typing import Any

import openai
import pytest

from agent.engine.requests import ScoreRequest
from tests.agent.service.conftest import Running

pytestmark = pytest.mark.round

PROMPT = "7+2*3\n"


def complete(server: Running, prompt: Any = PROMPT, **more: Any) -> Any:
    return server.client().completions.create(
        model="latest", prompt=prompt, **({"max_tokens": 6, "temperature": 0} | more)
    )


def test_a_text_is_continued_as_the_policy_would(server: Running) -> None:
    found = complete(server)
    assert found.choices[0].text.startswith("7+6")
    assert found.usage.completion_tokens == 6 and found.choices[0].finish_reason == "length"


def test_tokens_are_continued_like_their_text(server: Running) -> None:
    tokens = server.service.newest().tokenizer.encode(PROMPT)
    assert complete(server, tokens).choices[0].text == complete(server).choices[0].text
    both = complete(server, [PROMPT, "1+1\n"])
    assert [c.text for c in both.choices] == [
        complete(server, p).choices[0].text for p in (PROMPT, "1+1\n")
    ]


def test_an_echo_without_new_tokens_scores_the_text_itself(server: Running) -> None:
    """How evaluators measure the likelihood of given answers."""
    text = "7+2*3\n7+6\n13"
    found = complete(server, text, max_tokens=0, echo=True, logprobs=1).choices[0]
    models = server.service.newest()
    tokens = tuple(models.tokenizer.encode(text))
    (expected,) = models.hosts.logprobs(models.policy, [ScoreRequest(tokens, 1)])
    assert found.text == text and "".join(found.logprobs.tokens) == text
    assert found.logprobs.token_logprobs[0] is None
    assert found.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-5)
    assert found.logprobs.text_offset == list(range(len(text)))
    tops = found.logprobs.top_logprobs[1:]
    assert all(len(top) == 1 for top in tops)
    likeliest = [max(top.values()) for top in tops]
    assert all(a >= b - 1e-3 for a, b in zip(likeliest, expected, strict=True))


def test_the_likeliest_tokens_are_those_of_the_whole_distribution(server: Running) -> None:
    models = server.service.newest()
    tokens = tuple(models.tokenizer.encode(PROMPT))
    (found,) = models.hosts.likeliest(models.policy, [ScoreRequest(tokens, 2)], 3)
    assert len(found) == len(tokens) - 2
    for place, top in zip(range(2, len(tokens)), found, strict=True):
        rows = [(*tokens[:place], t) for t in range(models.policy.vocab_size)]
        scores = models.hosts.logprobs(models.policy, [ScoreRequest(r, place) for r in rows])
        order = sorted(range(len(rows)), key=lambda t: -scores[t][0])[:3]
        assert [t for t, _ in top] == order
        assert [p for _, p in top] == pytest.approx([scores[t][0] for t in order], abs=1e-4)


def test_a_streamed_completion_is_the_same_text(server: Running) -> None:
    parts = list(complete(server, stream=True, stream_options={"include_usage": True}))
    text = "".join(p.choices[0].text for p in parts if p.choices)
    assert text == complete(server).choices[0].text and parts[-1].usage.completion_tokens == 6


def test_samples_of_a_seed_are_repeated_and_differ_among_themselves(server: Running) -> None:
    def texts(seed: int) -> list[str]:
        found = complete(server, temperature=2.0, seed=seed, n=6)
        return [c.text for c in found.choices]

    assert texts(3) == texts(3) and len(set(texts(3))) > 1


WRONG: list[dict[str, Any]] = [
    {"prompt": []},
    {"prompt": ""},
    {"prompt": [999_999]},
    {"prompt": [-1]},
    {"prompt": ["1+1"] * 65},
    {"prompt": "1+1", "max_tokens": 100_000},
    {"prompt": "1+" * 600, "max_tokens": 5},
    {"prompt": {"a": 1}},
    {"prompt": "1+1", "logprobs": 21},
    {"prompt": "1+1", "best_of": 3},
    {"prompt": "1+1", "suffix": "x"},
    {"prompt": "1+1", "model": "latest:mcts"},
]


@pytest.mark.parametrize("change", WRONG, ids=lambda c: str(c)[:40])
def test_a_prompt_that_cannot_be_read_is_a_bad_request(
    server: Running, change: dict[str, Any]
) -> None:
    body = {"model": "latest", "max_tokens": 4} | change
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().post("/completions", body=body, cast_to=object)
    assert caught.value.message
