"""What a round may learn from: known answers decide, proofs are taken, the rest needs a rule that
labelled problems have shown to be right."""

import random
from dataclasses import replace
from typing import Any

import pytest

from agent.rounds.imagination_stage import top_rung
from agent.rounds.selection_stage import Trusts, collapsed, rungs
from critics.calibration import Calibration
from critics.trust import tried
from search.state import Problem
from store.selection import Find, Judge, SelectionRule, evidence_of
from store.states import PROBE

FIND = Find(1, "a", 1, "p", True, "7", 0.9, None, 0.8, ("x\n", "7"), 4, True, "7")
RULE = SelectionRule()
LABELLED = Judge(is_labelled=lambda f: f.origin in (PROBE, "given"))


def kept(judge: Judge, *finds: Find, rule: SelectionRule = RULE) -> list[int]:
    return [s.find.id for s in rule.select(finds, judge).kept]


def nobody(evidence: object) -> bool:
    return False


def test_a_known_answer_decides_whatever_the_critics_say() -> None:
    given = replace(FIND, origin="given")
    wrong = replace(given, answer="9", is_correct=False)
    right = replace(given, id=2, sha="b", is_chosen=False, outcome=0.1)
    judge = replace(LABELLED, trusts=nobody)
    assert kept(judge, given) == [1]
    assert kept(judge, wrong, right) == [2]  # though the search chose the other one
    selection = RULE.select([wrong], judge)
    assert not selection.kept and selection.refused == {"wrong answer": 1}
    # Who asks for no precision has the search's own answer, as ever.
    assert kept(judge, wrong, right, rule=replace(RULE, min_precision=0.0)) == []
    assert kept(LABELLED, wrong, right, rule=replace(RULE, min_precision=0.0)) == [1]


def test_what_is_proven_needs_no_trust_and_what_is_not_needs_it() -> None:
    judge = Judge(trusts=nobody, is_proven=lambda f: f.is_sound is True)
    assert kept(judge, replace(FIND, is_sound=True)) == [1]
    selection = RULE.select([FIND], judge)
    assert not selection.kept and selection.refused == {"not trusted": 1}
    assert kept(replace(judge, trusts=lambda e: e.outcome >= 0.9), FIND) == [1]


def test_who_is_vouched_for_needs_no_outcome_critic() -> None:
    silent = replace(FIND, outcome=None)
    assert kept(Judge(), silent) == []  # nobody judged it
    assert kept(Judge(trusts=lambda e: True), silent) == [1]
    assert kept(LABELLED, replace(silent, origin="given")) == [1]


def test_evidence_counts_wordings_and_takes_the_best_text() -> None:
    finds = [
        replace(FIND, id=i, search_id=s, answer=a, outcome=o, is_chosen=c, confidence=0.5 + i / 100)
        for i, (s, a, o, c) in enumerate(
            [(1, "7", 0.6, True), (1, "8", 0.9, False), (2, "7", 0.7, True), (3, "8", 0.3, True)], 1
        )
    ]
    (evidence,) = evidence_of(finds).values()
    assert (evidence.answer, evidence.is_right, evidence.searches) == ("7", True, 3)
    assert evidence.votes == pytest.approx(2 / 3) and evidence.support == pytest.approx(1.3)
    assert (evidence.outcome, evidence.text) == (0.7, 3)
    assert evidence.confidence == pytest.approx((0.51 + 0.53) / 2)
    plain, worst = evidence.numbers(), evidence.numbers(0.2)
    assert plain[:-1] == worst[:-1] and plain[-1] == plain[2] > worst[-1]
    unscored = [replace(f, outcome=None, is_sound=None) for f in finds]
    assert evidence_of(unscored)["p"].answer == "7"  # more searches decide where scores say nothing
    silent = evidence_of([replace(FIND, answer=None)])["p"]
    assert silent.answer is None and silent.searches == 1 and silent.votes == 0.0


def test_of_one_search_the_evidence_is_for_its_own_answer() -> None:
    """What is trusted must be what is learned, though a critic likes another candidate better."""
    own = replace(FIND, id=1, answer="7", outcome=0.4, is_chosen=True)
    other = replace(FIND, id=2, answer="8", outcome=0.9, is_chosen=False)
    evidence = evidence_of([own, other])["p"]
    assert (evidence.answer, evidence.text, evidence.votes) == ("7", 1, 1.0)
    (selected,) = RULE.select([own, other], Judge(trusts=lambda e: e.answer == "7")).kept
    assert selected.find.answer == "7"
    elsewhere = replace(other, search_id=2, is_chosen=True)  # another wording
    assert evidence_of([own, elsewhere])["p"].answer == "8"


def test_the_tasks_own_doubts_are_weighed_beside() -> None:
    evidence = evidence_of([FIND])["p"]
    assert evidence.numbers(1.0, (0.5, 1.0)) == (*evidence.numbers(), 0.5, 1.0)
    rng = random.Random(2)
    numbers, labels = [], []
    for _ in range(300):
        is_right = rng.random() < 0.5
        unused = float(rng.random() < (0.05 if is_right else 0.7))
        numbers.append(evidence.numbers(1.0, (unused,)))
        labels.append(is_right)
    trial = tried(numbers, labels, 0.6, 0.9)
    assert trial.trust is not None
    assert Trusts(trial, {1: (1.0, (0.0,), 0.0)})(evidence)
    assert not Trusts(trial, {1: (1.0, (1.0,), 0.0)})(evidence)


def test_what_doubts_have_done_to_the_outcome_score_is_taken_out_before_the_rule_weighs_them() -> (
    None
):
    """Else probes would certify numbers that were fitted to their own labels."""
    calibration = Calibration(0.8, 0.3, True, (-2.0, -1.0))
    doubts = (0.5, 1.0)
    held = sum(w * d for w, d in zip(calibration.doubts, doubts, strict=True))
    told = replace(FIND, outcome=calibration.apply(2.0, doubts))
    plain = replace(FIND, outcome=replace(calibration, doubts=()).apply(2.0))
    found = evidence_of([told])["p"].numbers(0.9, doubts, held)
    wanted = evidence_of([plain])["p"].numbers(0.9, doubts)
    assert found[2] == pytest.approx(wanted[2]) and found[4] == pytest.approx(wanted[4])


def test_a_rule_from_probes_keeps_what_is_like_the_right_ones() -> None:
    rng = random.Random(0)
    evidence, labels = [], []
    for i in range(300):
        is_right = rng.random() < 0.6
        outcome = min(0.99, max(0.01, rng.gauss(0.9 if is_right else 0.3, 0.1)))
        find = replace(FIND, id=i, outcome=outcome, answer="7" if is_right else "9")
        evidence.append(evidence_of([find])["p"].numbers())
        labels.append(is_right)
    trial = tried(evidence, labels, 0.9, 0.9)
    assert trial.trust is not None
    judge = Judge(trusts=Trusts(trial, {1: (1.0, ())}))
    assert kept(judge, replace(FIND, outcome=0.95)) == [1]
    assert kept(judge, replace(FIND, outcome=0.2)) == []
    # A step that the process critic finds bad makes the pessimist doubt the whole text.
    assert trial.trust.weights[-1] > 0
    none = tried(evidence, [False] * 300, 0.9, 0.9)
    assert kept(Judge(trusts=Trusts(none, {1: (1.0, ())})), replace(FIND, outcome=0.95)) == []


def report(agreement: float, right: str) -> dict[str, Any]:
    return {"agreement": agreement, "probes": {str(i): c == "1" for i, c in enumerate(right)}}


def test_searches_that_agree_more_and_are_right_less_stop_the_round() -> None:
    before, worse = report(0.5, "1" * 30 + "0" * 10), report(0.7, "1" * 18 + "0" * 22)
    why = collapsed(before, worse)
    assert "12 lost, 0 gained of 40" in why and "0.50 to 0.70" in why
    assert not collapsed(before, report(0.4, "1" * 18 + "0" * 22))  # they do not agree more
    assert not collapsed(before, report(0.7, "1" * 27 + "0" * 13))  # a fall that may be chance
    assert not collapsed({}, worse) and not collapsed(before, {})


def test_yield_and_precision_are_told_by_difficulty() -> None:
    finds = [
        replace(FIND, id=i, search_id=i, family=str(i), difficulty=d, is_correct=c)
        for i, (d, c) in enumerate([(5.0, True), (5.0, False), (6.0, True), (6.0, None)], 1)
    ]
    selection = RULE.select(finds[:3])
    # The last problem's search came across no text: it counts all the same.
    searched = [Problem(str(i), "1+1", difficulty=d) for i, d in enumerate((5.0, 5.0, 6.0, 6.0))]
    assert rungs(searched, selection) == {
        "5": {"searches": 2, "kept": 2, "known": 2, "right": 1},
        "6": {"searches": 2, "kept": 1, "known": 1, "right": 1},
    }


def test_the_next_rung_is_tried_when_the_one_below_is_solved_reliably() -> None:
    rungs_found = {
        "5": {"searches": 100, "kept": 60},
        "6": {"searches": 100, "kept": 50},
        "7": {"searches": 100, "kept": 10},
        "8": {"searches": 2, "kept": 2},  # above one that is not
        "-": {"searches": 9},
    }
    assert top_rung(rungs_found, 5.0) == 6.0
    assert top_rung({}, 4.0) == 4.0 and top_rung({"5": {"searches": 10}}, 4.0) == 4.0
    assert top_rung({"5": {"searches": 10, "kept": 1}}, 5.0) == 5.0  # labelled problems go so far
