"""What tells two states apart."""

from dataclasses import replace

from search.state import Option, State

TEXT = State("p", (1, 2), "prompt", (Option((3,), "a", -0.5, "boundary"),))


def test_the_key_of_a_state_is_that_of_its_tokens() -> None:
    assert TEXT.key == "4636993d3e1da4e9"
    assert replace(TEXT, prompt="other", problem="words").key == TEXT.key


def test_states_with_other_pictures_are_two_though_their_words_are_one() -> None:
    """A picture's digest stands among the tokens: four ids behind any vocabulary."""
    one, other = (replace(TEXT, prompt_tokens=(2**31 + w, *TEXT.prompt_tokens)) for w in (5, 6))
    assert len({TEXT.key, one.key, other.key}) == 3


def test_an_extended_state_keeps_all_that_it_has() -> None:
    state = replace(TEXT, problem="words").extended(Option((4,), "b", -0.1, "end"))
    assert state.problem == "words" and state.tokens == (1, 2, 3, 4)
