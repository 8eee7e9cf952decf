"""Fast rollouts: a completion cut into steps, checked by the tool, scored by the ORM."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from search.interfaces import Rollout
from search.score import Finding, Score
from search.state import Option, State, Stop

UNSCORED = Score("outcome", "", None, "not scored yet")


def cut_into_options(
    before: Sequence[int],
    tokens: Sequence[int],
    logprobs: Sequence[float],
    stop: Stop,
    ends: Callable[[Sequence[int]], bool],
    decode: Callable[[Sequence[int], Sequence[int]], str],
) -> list[Option]:
    """Options of a text that follows `before`: each is whole as `ends` says of its tokens, the last
    as the text was. `decode` gives what tokens add to those before them."""
    known = [*before, *tokens]
    options: list[Option] = []
    start = 0
    for i in range(len(tokens)):
        is_last = i + 1 == len(tokens)
        part = tuple(tokens[start : i + 1])
        if is_last or ends(part):
            options.append(
                Option(
                    part,
                    decode(known[: len(before) + start], part),
                    float(sum(logprobs[start : i + 1])),
                    stop if is_last else "boundary",
                )
            )
            start = i + 1
    return options


def checked_rollout(
    state: State,
    new: Sequence[Option],
    check: Callable[[State], Finding],
    answer_of: Callable[[State], str | None],
) -> Rollout:
    """The completed state with what the tool finds of its steps, still without a score."""
    num_given = state.depth
    full = replace(state, options=(*state.options, *new))
    verdicts: list[bool | None] = []
    for end in range(1, full.depth + 1):
        verdicts.append(check(replace(full, options=full.options[:end])).is_sound)
        if verdicts[-1] is False:
            break
    is_sound = False if False in verdicts else None if None in verdicts else bool(verdicts) or None
    num_sound = 0
    for option, verdict in zip(new, verdicts[num_given:], strict=False):
        if verdict is not True or option.stop == "length":
            break
        num_sound += 1
    answer = answer_of(full) if full.is_finished else None
    return Rollout(full, num_given, num_sound, is_sound, UNSCORED, answer)


def scored(rollout: Rollout, score: Score) -> Rollout:
    """The rollout with its outcome score; a text that the tool found unsound scores 0."""
    if rollout.is_sound is False and score.value is not None:
        score = replace(score, value=0.0, reason="tool: unsound step")
    return replace(rollout, outcome=score)
