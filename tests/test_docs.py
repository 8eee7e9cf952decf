"""The documents say what is the case: commands exist, settings and words are the code's own."""

import re
from pathlib import Path

import pytest

from agent.cli.app import app, config_app, inspect_app, store_app
from store.schema import Base

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "DESIGN.md", "GLOSSARY.md", "PAPERS.md", "LOG.md", "CHANGELOG.md"]


def known_commands() -> set[str]:
    top = {c.name for c in app.registered_commands} | {"inspect", "config", "store"}
    inner = {f"inspect {c.name}" for c in inspect_app.registered_commands}
    inner |= {f"store {c.name}" for c in store_app.registered_commands}
    return {
        str(n) for n in top | inner | {f"config {c.name}" for c in config_app.registered_commands}
    }


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_in_a_document_exists(name: str) -> None:
    for command in re.findall(
        r"\bratchet ((?:inspect |config |store )?[a-z]+)", (ROOT / name).read_text()
    ):
        assert command in known_commands() or command.split()[0] in known_commands(), command


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_in_a_document_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    for path in re.findall(
        r"`((?:agent|search|critics|kernels|store|tests|scripts)/[\w./]+)", text
    ):
        assert (ROOT / path.rstrip(".:")).exists(), path


def test_every_test_that_the_design_names_exists() -> None:
    names = set(re.findall(r"`(test_\w+)`", (ROOT / "DESIGN.md").read_text()))
    code = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    assert names and all(f"def {name}(" in code for name in names)


def test_the_readme_names_every_table() -> None:
    text = (ROOT / "README.md").read_text()
    for table in Base.metadata.tables:
        assert re.search(rf"\b{table}\b", text), table


def test_no_placeholder_is_left() -> None:
    for name in DOCUMENTS:
        assert "@@" not in (ROOT / name).read_text(), name


def test_the_scripts_of_the_readme_can_be_run() -> None:
    for script in re.findall(r"scripts/(?:\w+/)?[\w.]+", (ROOT / "README.md").read_text()):
        path = ROOT / script
        assert path.is_file(), script
        assert path.stat().st_mode & 0o100 or path.suffix == ".py", script
