"""Which settings an open round may go on under, and what a run says as it begins."""

from types import SimpleNamespace
from typing import Any

import pytest

from agent.config.load import load_config
from agent.rounds import run
from agent.rounds.run import Improver
from search.errors import UsageError


def going_on(monkeypatch: pytest.MonkeyPatch, began: dict[str, Any], now: dict[str, Any]) -> None:
    """A round that began with some settings goes on with others."""
    before, after = (load_config(flags)[0] for flags in (began, now))
    monkeypatch.setattr(run, "round_settings", lambda *_: before.model_dump(mode="json"))

    class Session:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    improver = SimpleNamespace(config=after, store=SimpleNamespace(session=Session))
    row = SimpleNamespace(config_sha=before.digest(), id=1, number=1)
    Improver._check_same_settings(improver, row)  # type: ignore[arg-type]


def test_what_a_result_depends_on_must_be_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"training.beta was 0.1, is 0.2"):
        going_on(monkeypatch, {}, {"training.beta": 0.2})
    going_on(monkeypatch, {}, {"hosting.threads": 2, "tracking": "tensorboard"})


def test_what_moves_a_reference_counts_where_one_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"training.reference_alpha": 0.6}
    going_on(monkeypatch, {}, other)
    follows = {"training.method": "tr-dpo"}
    with pytest.raises(UsageError, match=r"training.reference_alpha was 0.1, is 0.6"):
        going_on(monkeypatch, follows, follows | other)


def test_a_run_says_who_is_on_which_gpu() -> None:
    found = run._told({"policy": 0, "drafter": 1, "value": 1})
    assert found == "GPU 0: policy; GPU 1: drafter, value"
