"""Actors and training jobs are dealt to GPUs by what they take and do."""

import gc
import math
import weakref
from collections import Counter
from pathlib import Path

import pytest

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.engine.requests import CompletionRequest
from agent.hosting import model_host
from agent.hosting.placement import CONTEXT_BYTES, Needs, actor_places, hosted_roles, job_part
from agent.hosting.policy_host import PolicyHost, Speculation
from search.errors import ResourceError
from tests.agent.conftest import write_checkpoint

GIB = 2**30
CARD = 78 * GIB
EIGHT_B = Needs(16 * GIB)


def on_gpus(gpus: int, needs: Needs, workers: int = 1, card: int = CARD) -> dict[str, int | None]:
    return {
        role: place.gpu
        for place in actor_places(hosted_roles(workers), gpus, card, needs)
        for role in place.roles
    }


def test_without_gpus_each_role_has_an_actor_and_reserves_nothing() -> None:
    places = actor_places(hosted_roles(2), 0, 0, EIGHT_B)
    assert [place.name for place in places] == hosted_roles(2)
    assert all(place.gpu is None and place.part == 0 for place in places)


@pytest.mark.parametrize("gpus", [5, 8])
def test_where_there_are_enough_each_role_has_a_gpu(gpus: int) -> None:
    places = actor_places(hosted_roles(1), gpus, CARD, EIGHT_B)
    assert sorted(place.gpu or 0 for place in places) == [0, 1, 2, 3, 4]
    assert {place.part for place in places} == {1.0}


def test_the_policy_which_works_most_has_the_fewest_beside_it() -> None:
    found = on_gpus(2, EIGHT_B, card=140 * GIB)
    assert found["policy"] == 0 and {gpu for role, gpu in found.items() if role != "policy"} == {1}
    by_gpu = Counter(on_gpus(3, EIGHT_B, workers=2, card=140 * GIB).values())
    assert by_gpu == {0: 1, 1: 1, 2: 4}


def test_memory_goes_before_work() -> None:
    """Weights, a GiB of each process and a sixteenth of the card for keys and values: four take
    80.5 of 92 GiB and 79.5 of 88, of which 80.96 may be filled."""
    assert set(Counter(on_gpus(2, EIGHT_B, card=92 * GIB).values()).values()) == {1, 4}
    assert set(Counter(on_gpus(2, EIGHT_B, card=78 * GIB).values()).values()) == {2, 3}


@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_parts_fit_their_gpu(gpus: int, workers: int) -> None:
    places = actor_places(hosted_roles(workers), gpus, CARD, Needs())
    used: Counter[int | None] = Counter()
    for place in places:
        used[place.gpu] += round(place.part * 10_000)
    assert max(used.values()) <= 10_000 and len(used) == min(gpus, len(places))


def test_roles_on_one_base_go_into_one_actor_where_they_do_not_fit_apart() -> None:
    needs = Needs(16 * GIB, has_one_base=True)
    (one,) = actor_places(hosted_roles(1), 1, CARD, needs)
    assert one.roles == tuple(hosted_roles(1)) and (one.gpu, one.part) == (0, 1.0)
    first, second = actor_places(hosted_roles(2), 2, 60 * GIB, needs)
    assert set(first.roles) == set(hosted_roles(1)) and second.roles == ("policy-1",)
    assert (first.gpu, second.gpu) == (0, 1)
    apart = actor_places(hosted_roles(1), 1, 160 * GIB, needs)
    assert len(apart) == 5


@pytest.mark.parametrize(
    ("needs", "workers", "card", "fix"),
    [
        (EIGHT_B, 1, CARD, "training.lora_rank=16"),
        (Needs(16 * GIB, True), 2, CARD, "fewer hosting.workers"),
        (Needs(16 * GIB, True), 1, 16 * GIB, "larger GPUs"),
    ],
)
def test_what_fits_in_no_way_is_refused_with_numbers(
    needs: Needs, workers: int, card: int, fix: str
) -> None:
    with pytest.raises(ResourceError, match=r"models of 16.0 GiB do not fit 1 GPUs") as told:
        actor_places(hosted_roles(workers), 1, card, needs)
    assert fix in told.value.fix


def test_memory_that_nobody_knows_is_taken_to_do() -> None:
    assert len(actor_places(hosted_roles(1), 1, 0, EIGHT_B)) == 5


@pytest.mark.parametrize(
    ("num_jobs", "gib", "gpus", "part"),
    [
        (4, 3, 1, 0.25),  # all at once
        (4, 30, 1, 0.5),  # two at a time
        (4, 70, 1, 1.0),  # one after the other
        (4, 90, 1, 1.0),  # refused elsewhere, before anything is loaded
        (4, 30, 8, 1.0),
        (5, 3, 2, 0.3333),
        (4, 3, 0, 0.0),
    ],
)
def test_jobs_run_together_as_far_as_they_fit(
    num_jobs: int, gib: int, gpus: int, part: float
) -> None:
    assert job_part(num_jobs, gib * GIB, gpus, CARD) == part


def test_a_drafter_takes_half_and_every_process_its_context() -> None:
    assert EIGHT_B.bytes_of(["policy-1", "drafter"]) == 24 * GIB + 2 * CONTEXT_BYTES
    assert EIGHT_B.bytes_of(["value"], 80 * GIB) == 16 * GIB + CONTEXT_BYTES + 5 * GIB
    assert Needs().bytes_of(["value"], 80 * GIB) == 0  # not known
    assert math.isclose(job_part(3, 0, 1, 0) * 3, 1, abs_tol=1e-3)


def test_an_older_version_leaves_where_a_gpu_has_no_room_for_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (verify_checkpoint(write_checkpoint(tmp_path / str(s), seed=s)) for s in (1, 2))
    needed = model_host.LOADING * new.num_parameters * 4
    monkeypatch.setattr(model_host, "LARGE", 0)
    for free, kept in ((needed, [old, new]), (needed - 1, [new])):
        monkeypatch.setattr(model_host, "free_bytes", lambda _, free=free: free)
        host = model_host.CriticHost("value", model_host.HostSettings())
        for checkpoint in (old, new):
            host.load(checkpoint.ref("value"))
        assert host.health()["versions"] == [checkpoint.version for checkpoint in kept]


def test_what_drafts_and_what_is_drafted_for_let_go_of_the_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (verify_checkpoint(write_checkpoint(tmp_path / str(s), seed=s)) for s in (1, 2))
    monkeypatch.setattr(model_host, "LARGE", 0)
    monkeypatch.setattr(model_host, "free_bytes", lambda _: 0.0)
    settings = model_host.HostSettings()
    policy, drafter = PolicyHost("policy", settings), model_host.GeneratorHost("drafter", settings)
    asked = [CompletionRequest((4, 13, 5, 2), 6, 1.0, 7)]
    alive = []
    for checkpoint in (old, new):
        ref = checkpoint.ref("policy")
        policy.drafted_completions(ref, ref, asked, Speculation(), drafter.draft)
        alive.append([weakref.ref(host._model(ref).network) for host in (policy, drafter)])
    gc.collect()
    assert [ref() for ref in alive[0]] == [None, None]
    assert all(ref() is not None for ref in alive[1])
