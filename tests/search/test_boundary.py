"""Where options end: each boundary on texts whose cut is plain to see."""

import pytest

from search.boundary import boundary_named
from search.errors import SearchSettingsError
from search.settings import SearchSettings

TEXT = "We add.\nSo x = 3\nThat is\nall.\n\nDone: 3.5 is it! Yes.\n"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "newline",
            ["We add.\n", "So x = 3\n", "That is\n", "all.\n", "\n", "Done: 3.5 is it! Yes.\n"],
        ),
        ("blank_line", ["We add.\nSo x = 3\nThat is\nall.\n\n", "Done: 3.5 is it! Yes.\n"]),
        ("formula_line", ["We add.\nSo x = 3\n", "That is\nall.\n\n", "Done: 3.5 is it! Yes.\n"]),
        (
            "sentence",
            ["We add.", "\nSo x = 3\n", "That is\n", "all.", "\n\nDone: 3.5 is it!", " Yes.", "\n"],
        ),
        ("tokens:40", [TEXT[:40], TEXT[40:]]),
    ],
)
def test_a_boundary_cuts_where_its_name_says(name: str, options: list[str]) -> None:
    found = boundary_named(name).cut(TEXT)
    assert found == options
    assert "".join(found) == TEXT


def test_token_level_is_one_token_an_option() -> None:
    assert boundary_named("token").cut("abc") == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["lines", "tokens:0", "tokens:x", "tokens:"])
def test_an_unknown_boundary_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SearchSettingsError, match="boundary") as error:
        SearchSettings(boundary=name)
    assert "formula_line" in error.value.fix
