"""Variants of what a round learns from: as many as set, never a held-out problem, in each training
set with the texts that they were made of."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config.load import load_config
from agent.progress import Silent
from agent.rounds.run import Improver
from agent.rounds.training_stage import Kept, TrainingStage
from agent.rounds.variation import Variation
from search.state import Option, State
from store.datasets import StoredText
from tests.agent.chat import write_chat_model
from tests.agent.rounds.small import SMALL, places

pytestmark = pytest.mark.round

QUESTION = "{} cats and {} more. How many cats?"
STEPS = ("9 + 4 = 13\n", "#### 13")
HELD_OUT = {(i, j) for i in range(2, 13) for j in range(2, 13) if (i + j) % 2}
"""Half of what 9 and 4 may become."""


def rows(pairs: set[tuple[int, int]]) -> str:
    return "".join(
        json.dumps({"question": QUESTION.format(i, j), "answer": f"#### {i + j}"}) + "\n"
        for i, j in sorted(pairs)
    )


@pytest.fixture
def improver(tmp_path: Path) -> Iterator[Improver]:
    (tmp_path / "train.jsonl").write_text(rows({(i, i + 20) for i in range(30, 90)}))
    (tmp_path / "test.jsonl").write_text(rows(HELD_OUT))
    flags = SMALL | {
        "task": "jsonl",
        "problems": str(tmp_path / "train.jsonl"),
        "held_out": str(tmp_path / "test.jsonl"),
        "policy": str(write_chat_model(tmp_path / "model")),
        "evaluation.num_problems": None,
        "critics.steps": 0,
        "critics.num_labelled": 0,
        "training.variants": 12,
        "training.replay_share": 0.0,
    }
    config, _ = load_config(flags | places(tmp_path))
    with Improver(config, Silent()).started() as started:
        yield started


def test_each_text_gets_its_variants_and_none_is_held_out_or_made_twice(
    improver: Improver,
) -> None:
    context = improver.context()
    worked = [(QUESTION.format(9, 4), STEPS), (QUESTION.format("nine", "four"), STEPS)]
    found = Variation(context, 1).of(worked * 2)
    assert 0 < len(found) < 12 and len({e.tokens for e in found}) == len(found)
    texts = [context.prompts.tokenizer.decode(e.tokens) for e in found]
    held_out = [QUESTION.format(*pair) for pair in HELD_OUT]
    assert not [text for text in texts if any(question in text for question in held_out)]
    for example, text in zip(found, texts, strict=True):
        answer = context.prompts.tokenizer.decode(example.tokens[example.num_prompt :])
        first, _, second, _, total = answer.splitlines()[0].split()
        assert QUESTION.format(first, second) in text and int(total) == int(first) + int(second)
    assert Variation(context, 1).of(worked) == Variation(context, 1).of(worked)
    assert Variation(context, 1).of(worked) != Variation(context, 2).of(worked)


def test_a_lesson_holds_texts_and_their_variants(improver: Improver) -> None:
    context = improver.context()
    question = QUESTION.format(9, 4)
    prompt = tuple(context.prompts.tokens(question))
    tokens = tuple(context.prompts.tokenizer.encode("".join(STEPS), is_start=False))
    stored = StoredText(prompt, tokens, question, STEPS)
    options = (Option(tokens, STEPS[0], 0.0, "boundary"), Option((1,), STEPS[1], 0.0, "end"))
    right = State("id", prompt, "", options, problem=question)
    stage = TrainingStage(context, improver.models, 1)
    lesson = stage.lesson(Kept(0, [stored], []), [right])
    (first, second), variants = lesson.texts, lesson.variants
    assert first.tokens == prompt + tokens and second.tokens == right.tokens
    assert 0 < len(variants) < 12
    # Both have the same words: what was made of one is not made of the other again.
    assert len(set(variants)) == len(variants)
