"""Rows of real data: every form, every file, and a stated rule or a named place for each fault."""

import json
import os
from pathlib import Path

import pytest

from agent.tasks.jsonl import Files, Jsonl
from agent.tasks.rows import Rows, read_rows
from search.errors import TaskError

SHARED = Path(__file__).parent.parent.parent.parent.parent / "shared"


def read(folder: Path, text: str, name: str = "rows.jsonl", **options: object) -> Rows:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return read_rows(str(file), **options)  # type: ignore[arg-type]


def test_a_json_array_and_an_object_with_one_are_read(tmp_path: Path) -> None:
    rows = [{"problem": "a?", "answer": 1.50}, {"problem": "b?", "answer": "2"}]
    for text in (json.dumps(rows), json.dumps({"version": 1, "data": rows})):
        found = read(tmp_path, text, "rows.json").rows
        assert [(r.text, r.answer) for r in found] == [("a?", "1.5"), ("b?", "2")]
        assert found[1].where.endswith("rows.json, row 2")
    lines = "\n".join(map(json.dumps, rows))
    assert len(read(tmp_path, lines, "rows.json").rows) == 2  # JSONL under the other name
    with pytest.raises(TaskError, match=r"rows\.json"):
        read(tmp_path, '[{"problem": ', "rows.json")


def test_csv_and_parquet_are_read_as_they_are_written(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    found = read(tmp_path, "question,answer\nWhat is 1+1?,2\nWhat is 1/4?,0.25\n", "rows.csv")
    assert [r.answer for r in found.rows] == ["2", "0.25"]
    assert found.rows[0].where.endswith("rows.csv, line 2")
    table = pyarrow.table({"problem": ["a?", "b?"], "answer": ["1", None]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    rows = read_rows(str(tmp_path / "rows.parquet")).rows
    assert [(r.text, r.answer) for r in rows] == [("a?", "1"), ("b?", None)]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(TaskError, match=r"bad\.parquet") as error:
        read_rows(str(tmp_path / "bad.parquet"))
    assert error.value.fix


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("problem,answer\np,None\nq,NA\n", ["None", "NA"]),
        (",problem,answer\n0,p,1\n", ["1"]),
        ("problem, answer\np,1\n", ["1"]),
        ('problem,answer\n"a, b\nc",\n', [None]),
    ],
)
def test_cells_of_a_table_are_text_and_an_empty_one_is_null(
    tmp_path: Path, text: str, answers: list[str | None]
) -> None:
    assert [r.answer for r in read(tmp_path, text, "rows.csv").rows] == answers


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("problem,answer\np,1,\n", "rows.csv", "line 2 has 3 cells, the header 2"),
        ("problem,answer,answer\np,1,2\n", "rows.csv", "'answer' twice"),
        (
            '{"problem":"p","answer":"1","answer":"2"}\n',
            "rows.jsonl",
            "'answer' stands there",
        ),
        ('{"problem":"p","answer":1e99999999999999999999}\n', "rows.jsonl", "line 1"),
        ('{"messages":[{"role":["user"],"content":"x"}]}\n', "rows.jsonl", "message 1"),
        ('{"qestion":"p"}\n', "rows.jsonl", "no 'question'"),
        ('["p"]\n', "rows.jsonl", "is a list"),
    ],
)
def test_what_would_corrupt_a_row_is_told_instead(
    tmp_path: Path, text: str, name: str, words: str
) -> None:
    with pytest.raises(TaskError, match=words) as error:
        read(tmp_path, text, name)
    assert error.value.fix


def test_a_tab_separated_file_keeps_its_quotes(tmp_path: Path) -> None:
    assert read(tmp_path, 'problem\tanswer\n"p" q\t1\n', "rows.tsv").rows[0].text == '"p" q'


def test_what_is_no_file_is_told_with_the_way_out(tmp_path: Path) -> None:
    for source, words in ((str(tmp_path), "is a folder"), ("none.jsonl", "is not there")):
        with pytest.raises(TaskError, match=words) as error:
            read_rows(source)
        assert error.value.fix
    with pytest.raises(TaskError, match="hf:"):
        read_rows("hf:a:b:c:d")


def test_a_data_set_that_cannot_be_fetched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def refuse(*arguments: object, **named: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(TaskError, match="hf:openai/gsm8k:main:test cannot be fetched") as error:
        read_rows("hf:openai/gsm8k:main:test")
    assert "download" in error.value.fix


def test_skipped_rows_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    text = '{"problem": "a?", "answer": "1"}\n{nope\n{"problem": "b?", "answer": NaN}\n'
    text += '{"problem": "c?", "answer": "3"}\n{"problem": "C?", "answer": "4"}\n'
    with pytest.raises(TaskError, match="line 2"):
        read(tmp_path, text)
    found = read(tmp_path, text, on_bad="skip")
    assert [r.text for r in found.rows] == ["a?"]
    assert [s.split(" ")[0] != "" for s in found.skipped] == [True] * 3
    task = Jsonl(Files(str(tmp_path / "rows.jsonl"), on_bad="skip"))
    assert "line 2" in task.notes()[0] and "3 rows" in task.notes()[0]


def test_rows_that_differ_in_case_and_spaces_are_one_problem(tmp_path: Path) -> None:
    text = '{"problem": "What is  X?", "answer": "1"}\n{"problem": "what is x?", "answer": null}\n'
    found = read(tmp_path, text)
    assert len(found.rows) == 1 and found.num_repeated == 1
    assert found.rows[0].answer == "1"


def test_chat_rows_hold_one_question(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a?"}, {"role": "user", "content": "b?"}]
    for messages, words in ((turns, "2 user messages"), ([{"role": "tool"}], "message 1")):
        with pytest.raises(TaskError, match=words) as error:
            read(tmp_path, json.dumps({"messages": messages}) + "\n")
        assert "line 1" in error.value.message and error.value.fix


def test_an_exported_rl_row_reads_back_as_the_problem_it_came_from(tmp_path: Path) -> None:
    from critics.reward import compute_score

    row = {
        "data_source": "ratchet/jsonl",
        "prompt": [{"role": "user", "content": "What is 1+1?"}],
        "ability": "jsonl",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"split": "train", "index": 7},
    }
    (found,) = read(tmp_path, json.dumps(row) + "\n").rows
    assert (found.text, found.answer) == ("What is 1+1?", "2")
    score = compute_score(row["data_source"], "1+1=2\n#### 2.0", "2", row["extra_info"])  # type: ignore[arg-type]
    assert score == 1.0
    assert compute_score("x", "#### 3", "2") == compute_score("x", "no answer", "2") == 0.0
    assert compute_score("x", r"\boxed{\sqrt{8}}", r"2\sqrt{2}") == 1.0


def test_math500_rows_are_taken_as_they_are() -> None:
    file = SHARED / "data/math500/test.jsonl"
    if not file.is_file():
        pytest.skip(f"MATH-500 is not at {file}")
    task = Jsonl(Files(str(file)))
    assert len(task.rows) == 500
    raw = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [r.answer for r in task.rows] == [r["answer"] for r in raw]
    # What a solution ends with is the answer of the same row.
    answers = [task.answer_of([r["solution"]]) for r in raw]
    right = [task.is_correct(a, r["answer"]) for a, r in zip(answers, raw, strict=True)]
    assert all(right)
    task.verifier.close()


def test_a_held_out_file_is_kept_out_and_all_of_it_is_asked(tmp_path: Path) -> None:
    lines = [json.dumps({"problem": f"What is {i}+1?", "answer": str(i + 1)}) for i in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:30]))
    (tmp_path / "test.jsonl").write_text("\n".join(lines[25:]))
    (tmp_path / "labelled.jsonl").write_text("\n".join(lines[20:28]))
    task = Jsonl(
        Files(
            str(tmp_path / "train.jsonl"),
            held_out=str(tmp_path / "test.jsonl"),
            labelled=str(tmp_path / "labelled.jsonl"),
        )
    )
    held_out = {p.text for p in task.held_out(10**6, 0)}
    assert len(held_out) == 15
    assert not held_out & {p.text for p in (*task.seeds(99, 0), *task.given(0))}
    assert {p.text for p in task.labelled(99, 0)} == {f"What is {i}+1?" for i in range(20, 25)}
    assert all(task.keeps_out(task.key(text.upper())) for text in held_out)


def test_the_environment_is_left_as_it_was(tmp_path: Path) -> None:
    before = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    read(tmp_path, '{"problem": "a?"}\n')
    assert {k: v for k, v in os.environ.items() if not k.startswith("HF_")} == before
