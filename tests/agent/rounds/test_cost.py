"""What rounds of a large model would cost: by its rates, under the names that timings have."""

from dataclasses import replace

import pytest

from agent.config.load import load_config
from agent.lengths import Lengths
from agent.rounds import cost
from agent.rounds.inputs import RunInputs, checked_inputs
from agent.trial import Rates

LIMITS = Lengths(24, 96, "set", usual_text=40)
RATES = Rates(decoded=100.0, proposed=50.0, read=400.0, trained=150.0, serving_bytes=1_000_000)


@pytest.fixture
def inputs() -> RunInputs:
    flags = {"hosting.hosting": "inline", "problems_per_round": 20, "tokens_per_problem": 200}
    return checked_inputs(load_config(flags)[0])


def told(inputs: RunInputs, rates: Rates, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    monkeypatch.setattr(cost, "measured", lambda *_: rates)
    seconds: dict[str, int] = cost.cost_by_trial(inputs.config, inputs, LIMITS, 1)["seconds_about"]
    return seconds


def test_stages_have_the_names_of_a_rounds_timings_and_add_up(
    inputs: RunInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = told(inputs, RATES, monkeypatch)
    assert set(seconds) == {"starting", "searching", "training", "evaluating", "all"}
    assert seconds["all"] == sum(seconds.values()) - seconds["all"]
    # 20 searches of 200 tokens at 50 a second in thinner batches, and three critics that read them.
    assert seconds["searching"] == round(1.4 * 4000 / 50 + 3 * 4000 / 400)
    assert seconds["starting"] == 0  # its critics come with it


def test_a_machine_twice_as_fast_takes_half_as_long(
    inputs: RunInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = Rates(200.0, 100.0, 800.0, 300.0, 1_000_000)
    slow, half = (told(inputs, rates, monkeypatch) for rates in (RATES, fast))
    assert all(abs(slow[stage] - 2 * half[stage]) <= 2 for stage in slow)


def test_first_critics_are_counted_where_the_policy_comes_without(
    inputs: RunInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = replace(inputs, base={"policy": inputs.base["policy"]})
    assert told(alone, RATES, monkeypatch)["starting"] > 0


def test_critics_that_share_a_file_take_less_disk(inputs: RunInputs) -> None:
    alone = replace(inputs, base={"policy": inputs.base["policy"]})
    whole = cost.checkpoint_bytes(alone.config, alone, 2)
    tuned = load_config({"critics.tuned_layers": 1})[0]
    num_layers = inputs.policy.architecture.num_layers
    shared = cost.checkpoint_bytes(tuned, alone, 2)
    assert whole == 20 * inputs.policy.num_bytes
    t = 1 / num_layers
    assert shared == round(inputs.policy.num_bytes * (0.6 + 1 - t + 6 * t + 2 * (1.6 + 3 * t)))


def test_the_memory_follows_the_type_that_weights_are_held_in(inputs: RunInputs) -> None:
    size = inputs.policy.num_parameters
    low, high = (
        cost._memory(inputs.config, inputs, replace(RATES, serving_bytes=itemsize * size))
        for itemsize in (2, 4)
    )
    assert high > low
