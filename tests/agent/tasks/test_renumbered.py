"""Worked problems with other numbers: right where they were right, and left alone where unread."""

import random
from fractions import Fraction
from pathlib import Path

import pytest

from agent.tasks.jsonl import Files, Jsonl
from agent.tasks.renumbered import renumbered
from critics.answer import final_answer
from critics.claims import claims
from critics.grounding import grounding

SHARED = Path(__file__).parents[4] / "shared/data"


def variants(question: str, steps: list[str], num: int = 30) -> list[tuple[str, tuple[str, ...]]]:
    made = (renumbered(question, steps, random.Random(seed)) for seed in range(num))
    return [variant for variant in made if variant is not None]


def test_numbers_change_in_the_question_and_wherever_they_are_used() -> None:
    found = variants(
        "Ann had 43 eggs, 14 broke and she got 27 more.",
        ["43 - 14 = 29\n", "29 + 27 = 56\n", "#### 56"],
    )
    assert len({question for question, _ in found}) > 20
    for question, steps in found:
        had, broke, more = (int(word) for word in question.split() if word.isdigit())
        assert steps == (
            f"{had} - {broke} = {had - broke}\n",
            f"{had - broke} + {more} = {had - broke + more}\n",
            f"#### {had - broke + more}",
        )
        assert had > broke and question.startswith("Ann had ") and 21 < had < 87


def test_words_and_units_stay_where_they_are() -> None:
    found = variants(
        "5 boxes of 12 eggs cost $1,200.",
        [
            "The 5 boxes hold 5 * 12 = 60 eggs.\n",
            "That is $1,200/60 = $20 an egg.\n",
            "#### $20",
        ],
    )
    assert found
    for _, (first, second, last) in found:
        assert first.startswith("The ") and first.endswith(" eggs.\n") and first.count(" = ") == 1
        assert second.startswith("That is $") and second.endswith(" an egg.\n")
        assert last.startswith("#### $")
        assert all(claim.holds for claim in (*claims(first), *claims(second)))


def test_results_stay_positive_and_whole_where_they_were() -> None:
    for _, (step, _) in variants("84 pens are shared by 7.", ["84 / 7 = 12\n", "#### 12"]):
        assert Fraction(step.split("= ")[1]).denominator == 1
    for _, (step, _) in variants("Of 9 pens 8 are red.", ["9 - 8 = 1\n", "#### 1"]):
        assert int(step.split("= ")[1]) > 0
    # A result of two places may get others, but no more of them.
    for _, (step, _) in variants("15 dimes.", ["15 * 0.1 = 1.5\n", "#### 1.5"]):
        assert len(step.split("= ")[1].strip().partition(".")[2]) <= 2


@pytest.mark.parametrize(
    ("question", "steps"),
    [
        ("3 and 5.", ["3 + 5 = 9\n", "#### 9"]),  # a false equation
        ("3 and 5.", ["x + 5 = 9\n", "#### 9"]),
        ("3 and 5.", ["3 + 5 = 8\n", "#### 7"]),  # an answer from nowhere
        ("3 and 5.", ["3 + 5 = 8\n", "#### eight"]),
        ("three and five.", ["3 + 5 = 8\n", "#### 8"]),  # nothing to change
        ("1 of 100.", ["1 / 100 = 0.01\n", "#### 0.01"]),
        ("20% of 50.", ["20% of 50 = 10\n", "#### 10"]),
        ("2 and 3.", ["2 + 3 = 5 = 6\n", "#### 6"]),
        ("2 and 3.", ["2 + 3 = <<2+3=5>>5\n", "#### 5"]),
        ("18 and 3.", ["18 pieces/house * 3 houses = 54\n", "#### 54"]),
        # More than a count, or worked with more often than it is said:
        ("A $20 shirt is 20% off.", ["20 * 20 / 100 = 4\n", "#### 4"]),
        ("20 of them are 20 percent.", ["20 + 7 = 27\n", "#### 27"]),
        ("From the 3rd to the 8th.", ["8 - 3 = 5\n", "#### 5"]),
        ("1/3 of 9 is 3.", ["9 / 3 = 3\n", "#### 3"]),
        ("It is 9:45.", ["9 + 45 = 54\n", "#### 54"]),
        ("fifteen apples and 15 pears, 5 in all bad", ["15 + 15 = 30\n", "#### 30"]),
        ("twenty-five of 25.", ["25 + 4 = 29\n", "#### 29"]),
        ("7 miles a day, weeks on end.", ["7 + 2 = 9\n", "9 + 7 = 16\n", "#### 16"]),
        ("A square of 4, 12 less 8.", ["12 - 8 = 4\n", "4 * 4 = 16\n", "#### 16"]),
        ("24 hours in a day.", ["24 * 3 = 72\n", "#### 72"]),
        ("9 kg", ["9 + " + "1 + " * 200 + "1 = 210\n", "#### 210"]),
        ("", [""]),
        ("5", []),
        ("9" * 500, ["9 + 9 = 18\n", "#### 18"]),
        ("8 pens.", ["1" * 390 + " pens less 8 = 8\n", "#### 8"]),
        ("7 pens.", ["(" * 300 + "7" + ")" * 300 + " = 7\n", "#### 7"]),
    ],
)
def test_what_cannot_be_read_as_a_program_has_no_variant(question: str, steps: list[str]) -> None:
    for seed in range(20):
        assert renumbered(question, steps, random.Random(seed)) is None


def test_a_number_that_stands_for_two_things_changes_only_where_both_agree() -> None:
    # Nobody knows which 8 is added to which.
    for question, steps in variants(
        "3 and 5, then 8.", ["3 + 5 = 8\n", "8 + 8 = 16\n", "#### 16"], 200
    ):
        first, second, third = (int(w.strip(".,")) for w in question.split() if w[0].isdigit())
        assert third == first + second and steps[-1] == f"#### {2 * third}"


@pytest.mark.parametrize(
    ("question", "steps", "stays"),
    [
        ("a 12.5% tax on 80.", ["80 + 10 = 90\n", "#### 90"], "a 12.5% tax on "),
        ("3.5kg and 8 bags.", ["3.5 * 8 = 28\n", "#### 28"], "3.5kg and "),
        ("12,000km and 8 bags.", ["12000 + 8 = 12008\n", "#### 12008"], "12,000km and "),
        ("A 7 by 2 field.", ["7 + 2 = 9\n", "9 * 2 = 18\n", "#### 18"], " by 2 field."),
        ("Marks of 3, 5, 10.", ["3 + 5 + 10 = 18\n", "18 / 3 = 6\n", "#### 6"], "Marks of 3, "),
    ],
)
def test_a_number_that_is_more_than_a_count_stays_and_the_others_change(
    question: str, steps: list[str], stays: str
) -> None:
    found = variants(question, steps)
    assert found and all(stays in text for text, _ in found)
    assert {text for text, _ in found} != {question}


def test_numbers_that_words_stand_for_stay() -> None:
    for question, steps in variants(
        "3 cats meow 12 times, a dog a third as often.", ["12 / 3 = 4\n", "#### 4"]
    ):
        assert question.startswith("3 cats meow ") and " / 3 = " in steps[0]


def test_the_same_seed_makes_the_same_variant() -> None:
    steps = ["43 - 14 = 29\n", "#### 29"]
    made = {renumbered("Of 43 eggs 14 broke.", steps, random.Random(5)) for _ in range(3)}
    assert len(made) == 1


@pytest.mark.skipif(not (SHARED / "mawps/train.jsonl").is_file(), reason="shared data not here")
@pytest.mark.parametrize(("name", "least"), [("mawps/train", 0.6), ("gsm8k/train", 0.2)])
def test_variants_of_worked_answers_hold_to_the_last_equation(name: str, least: float) -> None:
    lessons = Jsonl(Files(str(SHARED / f"{name}.jsonl"))).lessons()[:400]
    num = num_alike = 0
    for lesson in lessons:
        found = renumbered(lesson.problem.text, lesson.steps, random.Random(7))
        if found is None:
            continue
        num += 1
        assert not [c.text for step in found[1] for c in claims(step) if c.holds is False]
        answer = final_answer("".join(found[1]))
        assert answer is not None
        num_alike += grounding(*found) == grounding(lesson.problem.text, lesson.steps)
    assert num > least * len(lessons)
    # Two different numbers may become equal to each other's results.
    assert num_alike > 0.9 * num
