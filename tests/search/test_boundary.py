"""Where options end: each boundary on texts whose cut is plain to see."""

import pytest

from search.boundary import Boundary, boundary_named
from search.errors import SearchSettingsError
from search.settings import SearchSettings

TEXT = "We add.\nSo x = 3\nThat is\nall.\n\nDone: 3.5 is it! Yes.\n"


def cut(boundary: Boundary, text: str) -> list[str]:
    """The text in options, its characters as tokens."""
    options, option, length = [], "", 0
    for i, token in enumerate(text, 1):
        option, length = option + token, length + 1
        is_whole = boundary.may_end(token) and (boundary.ends is None or boundary.ends(option))
        if is_whole or 0 < boundary.max_tokens <= length or i == len(text):
            options.append(option)
            option, length = "", 0
    return options


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("newline", ["We add.\n", "So x = 3\n", "That is\n", "all.\n", "\n",
                     "Done: 3.5 is it! Yes.\n"]),
        ("blank_line", ["We add.\nSo x = 3\nThat is\nall.\n\n", "Done: 3.5 is it! Yes.\n"]),
        ("formula_line", ["We add.\nSo x = 3\n", "That is\nall.\n\n", "Done: 3.5 is it! Yes.\n"]),
        ("sentence", ["We add.", "\nSo x = 3\n", "That is\n", "all.", "\n\nDone: 3.5 is it!",
                      " Yes.", "\n"]),
        ("tokens:40", [TEXT[:40], TEXT[40:]]),
    ],
)  # fmt: skip
def test_a_boundary_cuts_where_its_name_says(name: str, options: list[str]) -> None:
    found = cut(boundary_named(name), TEXT)
    assert found == options
    assert "".join(found) == TEXT


def test_token_level_is_one_token_an_option() -> None:
    assert cut(boundary_named("token"), "abc") == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["lines", "tokens:0", "tokens:x", "tokens:"])
def test_an_unknown_boundary_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SearchSettingsError, match="boundary") as error:
        SearchSettings(boundary=name)
    assert "formula_line" in error.value.fix
