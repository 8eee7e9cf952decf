"""What tells two states apart."""

from dataclasses import replace

from search.state import Option, State

TEXT = State("p", (1, 2), "prompt", (Option((3,), "a", -0.5, "boundary"),))


def test_the_key_of_a_state_without_attachments_is_that_of_its_tokens() -> None:
    assert TEXT.key == "4636993d3e1da4e9"


def test_two_images_behind_equal_placeholders_are_two_states() -> None:
    one, other = (replace(TEXT, attachments=(name,)) for name in ("a", "b"))
    assert len({TEXT.key, one.key, other.key}) == 3
    assert one.tokens == other.tokens
    assert replace(TEXT, attachments=("a", "b")).key != replace(TEXT, attachments=("b", "a")).key


def test_an_extended_state_keeps_its_attachments() -> None:
    state = replace(TEXT, attachments=("a",)).extended(Option((4,), "b", -0.1, "end"))
    assert state.attachments == ("a",) and state.tokens == (1, 2, 3, 4)
