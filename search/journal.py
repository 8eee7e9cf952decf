"""What a search was told, as plain values: enough to take it up again where it was left.

A search is a pure function of its root, its settings, its seed and the answers it was told. So the
answers are the whole of its state: told again in the same order, they give the same tree.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from search.errors import StoreError
from search.interfaces import Evaluation, Proposal, Rollout
from search.mcts import Expansion, Leaf, Search
from search.score import Score
from search.state import Option, State

Entry = dict[str, Any]
"""One answer in JSON's types; `ix` is the node it was for."""


def entry_of(request: Expansion | Leaf, answer: Proposal | Evaluation) -> Entry:
    """The answer as an entry. Texts are told from the root on, so nothing else is needed."""
    if isinstance(answer, Proposal):
        return {
            "ix": request.node.ix,
            "options": [_pack(o) for o in answer.options],
            "unsound": list(answer.unsound),
            "tokens": answer.num_tokens,
            "calls": answer.num_calls,
        }
    return {
        "ix": request.node.ix,
        "value": answer.value,
        "scores": [_pack_score(s) for s in answer.scores],
        "rollouts": [_pack_rollout(r) for r in answer.rollouts],
        "tokens": answer.num_tokens,
        "calls": answer.num_calls,
    }


def resume(search: Search, entries: Iterable[Entry]) -> None:
    """Tell a new search what an earlier one with the same root, settings and seed was told.

    Requests are asked for as `Frontier.step` does, all of them before the first is answered.
    Raises StoreError when the entries are not this search's.
    """
    open_requests: dict[tuple[bool, int], Expansion | Leaf] = {}
    for n, entry in enumerate(entries):
        if not open_requests:
            while (request := search.ask()) is not None:
                open_requests[isinstance(request, Expansion), request.node.ix] = request
        found = open_requests.pop(("options" in entry, entry["ix"]), None)
        if isinstance(found, Expansion):
            search.tell_options(found, _proposal(entry))
        elif isinstance(found, Leaf):
            search.tell_evaluation(found, _evaluation(entry, found.node.state))
        else:
            raise StoreError(
                f"journal entry {n} is for node {entry['ix']}, which the search did not ask about",
                "the journal is of another version; run the search anew",
            )
    if open_requests:
        raise StoreError(
            f"the journal ends with {len(open_requests)} requests unanswered",
            "the journal is cut off; run the search anew",
        )


def _pack(option: Option) -> list[Any]:
    return [list(option.tokens), option.text, option.logprob, option.stop]


def _option(raw: list[Any]) -> Option:
    return Option(tuple(raw[0]), raw[1], raw[2], raw[3])


def _pack_score(score: Score) -> list[Any]:
    return [score.critic, score.version, score.value, score.reason]


def _pack_rollout(rollout: Rollout) -> dict[str, Any]:
    return {
        "options": [_pack(o) for o in rollout.state.options],
        "given": rollout.num_given,
        "sound": rollout.num_sound,
        "is_sound": rollout.is_sound,
        "outcome": _pack_score(rollout.outcome),
        "answer": rollout.answer,
    }


def _proposal(entry: Entry) -> Proposal:
    options = tuple(_option(o) for o in entry["options"])
    return Proposal(options, tuple(entry["unsound"]), entry["tokens"], entry["calls"])


def _evaluation(entry: Entry, state: State) -> Evaluation:
    rollouts = tuple(
        Rollout(
            replace(state, options=tuple(_option(o) for o in raw["options"])),
            raw["given"],
            raw["sound"],
            raw["is_sound"],
            Score(*raw["outcome"]),
            raw["answer"],
        )
        for raw in entry["rollouts"]
    )
    scores = tuple(Score(*s) for s in entry["scores"])
    return Evaluation(entry["value"], scores, rollouts, entry["tokens"], entry["calls"])
