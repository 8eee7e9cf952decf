"""What a trial of proposals says of them."""

from pathlib import Path

import pytest

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.weights import load_model
from agent.engine.requests import OptionRequest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.option_trial import OPTIONS, tried_options
from agent.tasks.stories import Stories


def test_a_trial_counts_different_claims_their_probability_and_what_was_read(
    tmp_path: Path,
) -> None:
    folder = EMBEDDED / "stories" / "policy"
    tokenizer, task = Tokenizer(folder), Stories()
    engine = TorchEngine(load_model(verify_checkpoint(folder)), tokenizer.steps, tokenizer.end_ids)
    problems = task.held_out(4, 0)
    asked = [
        OptionRequest(
            tuple(tokenizer.fast.encode(task.prompt(p.text)).ids), 2, 24, boundary=task.boundary
        )
        for p in problems
    ]
    found = tried_options(engine, asked, task.claim_of, tokenizer.decode_after)
    by_mode = {tried.proposal: tried for tried in found}
    distinct, drawn = by_mode["distinct"], by_mode["drawn"]
    assert found[0].mass_a_token >= found[1].mass_a_token
    assert 0.9 < distinct.mass <= 1.0  # eight lines hold nearly all that this policy would write
    assert distinct.mass >= drawn.mass - 1e-6  # no others hold more
    for tried in found:
        assert 1 <= tried.num <= OPTIONS and 0 <= tried.repeated < 1
        assert tried.mass_a_token == pytest.approx(tried.mass / (tried.read * tried.num))
    wanted = engine.options(
        [OptionRequest(r.prefix, OPTIONS, 24, boundary=r.boundary) for r in asked]
    )
    tokens = [len(o.tokens) for answer in wanted for o in answer.options]
    assert distinct.option_tokens == pytest.approx(sum(tokens) / len(tokens))
    same = tried_options(engine, asked, lambda step: None, tokenizer.decode_after)
    assert {t.proposal: t.mass for t in same} == pytest.approx({t.proposal: t.mass for t in found})
