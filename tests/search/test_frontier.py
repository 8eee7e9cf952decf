"""Searches join and leave a frontier, share its batches, and are none the other for it."""

from collections.abc import Sequence

import pytest

from search import frontier
from search.errors import SearchSettingsError, TaskError
from search.frontier import Frontier
from search.interfaces import ExpandRequest, Proposal
from search.mcts import Search
from search.settings import SearchSettings
from tests.fakes import DigitWorld, root

SETTINGS = SearchSettings(leaves="states", simulations=8, stop_value=2.0)


def search(digits: str, seed: int = 0) -> Search:
    return Search(root(digits), SETTINGS, seed)


def shape(found: Search) -> list[tuple[tuple[int, ...], int, float]]:
    return [(n.state.tokens, n.visits, n.mean) for n in found.nodes]


def alone(digits: str) -> Search:
    world, found = DigitWorld(), search(digits)
    frontier.run([found], world, world)
    return found


def test_a_search_that_joins_later_comes_to_what_it_comes_to_alone() -> None:
    world = DigitWorld()
    open_ones = Frontier(world, world)
    first, second = search("31"), search("20")
    open_ones.add(first)
    open_ones.step()
    open_ones.add(second)
    ended = []
    while not open_ones.is_idle:
        ended += open_ones.step()
    assert {id(s) for s in ended} == {id(first), id(second)}
    assert shape(first) == shape(alone("31")) and shape(second) == shape(alone("20"))


def test_searches_of_one_step_share_a_batch() -> None:
    world = DigitWorld()
    open_ones = Frontier(world, world)
    for digits in ("31", "20", "12"):
        open_ones.add(search(digits))
    open_ones.step()
    open_ones.step()
    assert world.batches == [3] and world.num_evaluations == 3


def test_a_cancelled_search_keeps_what_it_found_and_the_others_go_on() -> None:
    world = DigitWorld()
    open_ones = Frontier(world, world)
    gone, stays = search("31"), search("20")
    open_ones.add(gone)
    open_ones.add(stays)
    open_ones.step()
    open_ones.step()
    simulations = gone.budget.simulations
    assert open_ones.cancel(gone) and not open_ones.cancel(gone)
    assert open_ones.searches == [stays]
    while not open_ones.is_idle:
        open_ones.step()
    assert gone.budget.simulations == simulations > 0 and not gone.is_done
    assert gone.result().budget.simulations == simulations
    assert shape(stays) == shape(alone("20"))


def test_a_step_of_a_small_batch_takes_the_searches_in_turn() -> None:
    world = DigitWorld()
    open_ones = Frontier(world, world, batch_target=1)
    searches = [search(digits) for digits in ("31", "20", "12")]
    for each in searches:
        open_ones.add(each)
    for _ in range(3):
        open_ones.step()
    assert all(s.budget.simulations == 1 for s in searches)


def test_seconds_count_from_when_a_search_joined() -> None:
    now = 0.0
    world = DigitWorld()
    open_ones = Frontier(world, world, clock=lambda: now)
    settings = SearchSettings(simulations=10_000, max_seconds=5.0, stop_value=2.0)
    early, late = Search(root("3123"), settings, 0), Search(root("2012"), settings, 0)
    open_ones.add(early)
    now = 4.0
    open_ones.add(late)
    open_ones.step()
    now = 6.0
    ended = open_ones.step()
    assert ended == [early] and early.stop_reason == "seconds"
    assert open_ones.searches == [late]


def test_a_bound_in_seconds_needs_a_clock() -> None:
    world = DigitWorld()
    with pytest.raises(SearchSettingsError, match="needs a clock"):
        Frontier(world, world).add(Search(root(), SearchSettings(max_seconds=1.0), 0))


def test_an_idle_frontier_steps_to_nothing() -> None:
    world = DigitWorld()
    open_ones = Frontier(world, world)
    assert open_ones.is_idle and open_ones.step() == [] and not world.batches


class Failing(DigitWorld):
    """Cannot answer while a search about "9" asks."""

    def propose(self, requests: Sequence[ExpandRequest]) -> list[Proposal]:
        if any("9" in r.state.prompt for r in requests):
            raise TaskError("no such digit", "leave it out")
        return super().propose(requests)


def test_searches_whose_requests_nobody_answered_leave_and_the_others_go_on() -> None:
    world = Failing()
    # What is asked together fails together; with a target of one, each asks by itself.
    open_ones = Frontier(world, world, batch_target=1)
    bad, good = search("93"), search("31")
    open_ones.add(bad)
    open_ones.add(good)
    num_raised = 0
    while not open_ones.is_idle:
        try:
            open_ones.step()
        except TaskError:
            num_raised += 1
    assert num_raised == 1 and not bad.is_done
    assert good.is_done and shape(good) == shape(alone("31"))
