"""The documents say what is the case: commands, settings, files and tests are the code's own."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from agent.cli.app import app
from agent.config.meanings import defaults, meanings
from store.schema import Base

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "DESIGN.md",
    "GLOSSARY.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
HISTORY = ["PAPERS.md", "LOG.md", "CHANGELOG.md"]
"""Dated entries may name what is gone; the files and commands that they name are checked less."""
SECTIONS = {key.partition(".")[0] for key in meanings() if "." in key}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- commands ---


def commands_in(text: str) -> Iterator[str]:
    """What stands behind `ratchet` in code blocks, one a line, and in inline code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S)
    for line in (line for block in blocks for line in block.splitlines()):
        if found := re.match(r"\s*(?:\S+/)?ratchet (.+)", line):
            yield found[1].partition("  #")[0].strip()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    yield from (found[1] for found in re.finditer(r"`ratchet\s+([^`]+)`", prose))


def refusal(command: str) -> str:
    """Why a command line cannot be typed; empty when it can. Only its shape is looked at."""
    found: Any = typer.main.get_command(app)
    words = shlex.split(command.replace("|", " ").replace("...", ""))
    while words and hasattr(found, "commands") and not words[0].startswith("--"):
        name = words.pop(0)
        if name not in found.commands:
            return f"no command {name!r}"
        found = found.commands[name]
    options = {o: p for p in getattr(found, "params", ()) for o in (*p.opts, *p.secondary_opts)}
    num_arguments = sum(p.param_type_name == "argument" for p in found.params)
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            if word not in options and word != "--help":
                return f"no option {word!r}"
            is_flag = word == "--help" or getattr(options[word], "is_flag", False)
            del words[: 0 if is_flag else getattr(options.get(word), "nargs", 1)]
        else:
            num_arguments -= 1
    return "too many arguments" if num_arguments < 0 and not hasattr(found, "commands") else ""


@pytest.mark.parametrize("name", PAGES)
def test_every_command_in_a_document_can_be_typed(name: str) -> None:
    for command in commands_in(read(name)):
        assert not refusal(command), f"{command}: {refusal(command)}"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("inspect nonsense", "no command"),
        ("improve --roundz 3", "no option"),
        ("inspect tree 17 18", "too many"),
        ("inspect tree 17 --after 5", ""),
        ("evaluate --compare A B --json", ""),
        ('solve "1+1"', ""),
    ],
)
def test_a_wrong_command_in_a_document_would_be_seen(command: str, said: str) -> None:
    assert said in refusal(command) and bool(refusal(command)) == bool(said)


def test_the_readme_names_every_command() -> None:
    text = read("README.md") + read("docs/store.md")

    def leaves(found: Any, path: str = "") -> Iterator[str]:
        for name, inner in found.commands.items():
            yield from (
                leaves(inner, f"{path}{name} ") if hasattr(inner, "commands") else [path + name]
            )

    missing = [
        name
        for name in leaves(typer.main.get_command(app))
        if not re.search(rf"\b{name}\b", text) and name.split()[-1] not in text
    ]
    assert missing == []


# --- settings ---


def test_every_setting_says_what_it_means() -> None:
    assert len(meanings()) == len(defaults()) >= 124
    assert [key for key, text in meanings().items() if len(text) < 10] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_in_a_document_exists(name: str) -> None:
    spelled = re.findall(r"`(?:--set )?([a-z_]+\.[a-z_]+)(?:=[^`]*)?`", read(name))
    named = [key for key in spelled if key.partition(".")[0] in SECTIONS]
    columns = {f"{t.name}.{c.name}" for t in Base.metadata.tables.values() for c in t.columns}
    known = meanings().keys() | columns
    assert [k for k in named if k not in known and not k.endswith((".py", ".md", ".db"))] == []
    variables = re.findall(r"RATCHET_([A-Z]+__[A-Z_]+)", read(name))
    assert all(v.lower().replace("__", ".") in meanings() for v in variables)


def test_the_readme_says_where_each_section_of_settings_is_explained() -> None:
    table = read("README.md").partition("| to change | settings | more |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)\.\*`", table)) == SECTIONS


# --- files, tests, tables ---


@pytest.mark.parametrize("name", [*PAGES, *HISTORY])
def test_every_file_in_a_document_exists(name: str) -> None:
    folders = "agent|search|critics|kernels|store|tests|scripts|docs"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)", read(name)):
        if name == "LOG.md" and not path.startswith(("docs", "scripts")):
            continue
        assert (ROOT / path.rstrip(".:")).exists(), path
    for path in re.findall(r"\bdocs/[\w/.-]+\.(?:md|json|png)\b", read(name)):
        assert (ROOT / path).exists(), path


def test_every_test_that_the_design_names_exists() -> None:
    names = set(re.findall(r"`(test_\w+)`", read("DESIGN.md")))
    code = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    assert names and [n for n in sorted(names) if f"def {n}(" not in code] == []


def test_the_page_of_the_store_names_every_table() -> None:
    text = read("docs/store.md")
    assert [t for t in Base.metadata.tables if not re.search(rf"\b{t}\b", text)] == []


def test_the_design_names_every_room() -> None:
    named = set(re.findall(r"^\| `([\w/.]+)` \|", read("DESIGN.md"), flags=re.M))
    is_room = ("__init__.py", "expressions")
    rooms = {
        f"agent/{p.name}/"
        for p in (ROOT / "agent").iterdir()
        if any((p / name).exists() for name in is_room)
    }
    rooms |= {f"agent/{p.name}" for p in (ROOT / "agent").glob("*.py") if "__" not in p.name}
    rooms |= {"search/", "kernels/", "critics/", "store/"}
    assert named == rooms


def test_no_placeholder_is_left() -> None:
    results = [str(p.relative_to(ROOT)) for p in (ROOT / "docs/results").glob("*.md")]
    for name in (*PAGES, *HISTORY, *results):
        assert "@@" not in read(name), name


def test_the_scripts_of_the_readme_can_be_run() -> None:
    for script in re.findall(r"scripts/(?:\w+/)?[\w.]+", read("README.md")):
        path = ROOT / script
        assert path.is_file() and path.stat().st_mode & 0o100, script
    for module in re.findall(r"-m (scripts[\w.]+[a-z_])\b(?!\.NAME)", read("README.md")):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file() or module == "scripts.bench"
    table = read("README.md").partition("| NAME | what it measures |")[2].partition("\n\n")[0]
    for name in re.findall(r"^\| (\w+) \|", table, flags=re.M):
        assert (ROOT / f"scripts/bench/{name}.py").is_file(), name


@pytest.mark.parametrize("name", [*PAGES, *HISTORY])
def test_prose_is_wrapped(name: str) -> None:
    """At 100 characters; code, tables and headings are as long as they are."""
    is_code = False
    for number, line in enumerate(read(name).splitlines(), 1):
        is_code ^= line.startswith("```")
        assert len(line) <= 100 or is_code or line.startswith(("|", "#")), f"{name}:{number}"
