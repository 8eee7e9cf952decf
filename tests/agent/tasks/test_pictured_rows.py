"""Rows of files with pictures."""

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agent.config.load import load_config
from agent.config.settings import PromptSettings
from agent.engine.tokenizer import Tokenizer
from agent.networks.pictures import pictures_in
from agent.prompts import Prompts
from agent.tasks.jsonl import Files, Jsonl
from agent.tasks.pictured import MOST, marked, picture_parts
from agent.tasks.registry import open_task
from search.errors import TaskError
from tests.agent.networks.pictured import IMAGE, PLACES, write_llava

QUESTION = {"question": "12 and 3 are", "answer": "15"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, grey in (("a.png", 10), ("b.png", 200)):
        Image.new("L", (8, 8), grey).save(tmp_path / name)
    (tmp_path / "c.jpg").write_bytes(b"broken")
    return tmp_path


def jsonl(folder: Path, *rows: dict[str, Any], skip: bool = False) -> Jsonl:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = Files(str(file), on_bad="skip" if skip else "refuse")
    return Jsonl(files, pictures=folder / "kept")


def test_one_question_about_two_pictures_is_two_problems(folder: Path) -> None:
    task = jsonl(folder, *(QUESTION | {"image": name} for name in ("a.png", "b.png")), QUESTION)
    problems = [task.new_problem(row.text, row.answer, "given") for row in task.rows]
    assert len({p.id for p in problems}) == 3
    assert [len(p.pictures) for p in problems] == [1, 1, 0]
    assert {task.question(p.text) for p in problems} == {"Problem: 12 and 3 are\nSolution:\n"}
    assert len(list((folder / "kept").rglob("*.png"))) == 2


def test_a_picture_may_be_a_path_or_stand_in_the_row_and_there_may_be_several(
    folder: Path,
) -> None:
    inline = "data:image/png;base64," + base64.b64encode((folder / "a.png").read_bytes()).decode()
    task = jsonl(folder, QUESTION | {"images": ["b.png", inline]}, QUESTION | {"image": "a.png"})
    two, one = (task.pictures(row.text) for row in task.rows)
    assert len(two) == 2 and two[1] == one[0]


def test_a_prompt_has_the_pictures_before_the_words(folder: Path, tmp_path: Path) -> None:
    task = jsonl(folder, {"question": "3+4", "answer": "7", "image": "a.png"})
    task.instruction = ""
    text = task.rows[0].text
    tokenizer = Tokenizer(write_llava(tmp_path / "policy"))

    class Plain(Jsonl):
        def question(self, text: str) -> str:  # the toy's vocabulary has no letters
            return picture_parts(text)[1] + "\n"

    plain = Plain(task.files, pictures=folder / "kept")
    plain.instruction = ""
    tokens = Prompts(plain, tokenizer, PromptSettings()).tokens(text)
    assert list(pictures_in(tokens)) == [(0, task.pictures(text)[0])]
    assert tokens[PLACES - 1] == IMAGE
    assert tokens[PLACES:] == tokenizer.encode("3+4\n")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("no.png", "is no file"),
        ("../a.png", "lies outside of"),
        ("/etc/passwd", "lies outside of"),
        ("https://example.com/a.png", "is an address"),
        ("c.jpg", "none of PNG, JPEG, WEBP"),
        ("data:image/png;base64,AA", "none of PNG, JPEG, WEBP|is broken"),
        ("", "a picture is ''"),
        (7, "a picture is 7"),
        (["a.png"] * (MOST + 1), f"more than {MOST}"),
    ],
)
def test_a_row_at_fault_is_named_and_stops_nothing_where_rows_may_be_skipped(
    folder: Path, image: object, told: str
) -> None:
    with pytest.raises(TaskError, match=told) as raised:
        jsonl(folder, QUESTION, QUESTION | {"question": "other", "image": image})
    assert "line 2" in raised.value.message and "bad_rows=skip" in raised.value.fix
    task = jsonl(folder, QUESTION, QUESTION | {"question": "x", "image": image}, skip=True)
    assert len(task.rows) == 1 and "left out" in task.notes()[0]


def test_words_that_pretend_to_be_a_picture_are_refused(folder: Path) -> None:
    text = marked(["0" * 31], "what is it?")
    with pytest.raises(TaskError, match="begins as a problem with a picture does"):
        jsonl(folder, {"question": text, "answer": "1"})
    task = jsonl(folder, QUESTION)
    with pytest.raises(TaskError, match="is not in"):
        task.read(text)
    assert picture_parts("[picture 00]\nhello") == ((), "[picture 00]\nhello")


def test_no_number_of_a_problem_with_a_picture_is_changed(folder: Path) -> None:
    task = jsonl(folder, QUESTION | {"image": "a.png"})
    (row,) = task.rows
    problem = task.new_problem(row.text, row.answer, "given")
    rng = random.Random(0)
    assert all(operator.apply(problem, rng) is None for operator in task.operators)
    assert task.variant(row.text, ("12 + 3 = 15", "#### 15"), rng) is None


def test_the_settings_name_the_folder(folder: Path) -> None:
    (folder / "rows.jsonl").write_text(json.dumps(QUESTION | {"image": "a.png"}) + "\n")
    flags = {"task": "jsonl", "problems": str(folder / "rows.jsonl")}
    open_task(load_config(flags | {"hosting.pictures": str(folder / "mine")})[0])
    assert list((folder / "mine").rglob("*.png"))
