"""The selecting stage of a round: which answers may be learned from, and what that is told by.

Where the user's own answers are known they decide. Where the tool proves a text it is taken.
Everything else is trusted only by a rule that reached `selection.min_precision` on labelled
problems, which were searched like the others and from which nothing is learned.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.checkpoints.model_refs import ModelRef
from agent.evaluation.intervals import mcnemar_p
from agent.rounds.context import RunContext
from agent.rounds.probes import has_unchecked
from agent.rounds.views import Views, ViewStage
from agent.tasks.rewards import own_reward
from critics.trust import Trial, tried
from search.state import Option, Problem, State
from store.selection import Evidence, Find, Judge, Selection, SelectionRule, evidence_of
from store.states import PROBE

More = tuple[float, tuple[float, ...], float]
"""Of a text: the least score of its steps, the task's own doubts, and what they have moved its
outcome score by, in log-odds."""
COLLAPSE_P = 0.01
"""From which a fall on the labelled problems is no chance."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a round may learn from."""

    rule: SelectionRule
    selection: Selection
    report: dict[str, Any]
    """Yield and precision, in all and by difficulty, what the rule was told by, and why the round
    should learn nothing, where searches agree more than before and are right less."""
    said: str
    """The same for people; empty where no rule had to be found."""


class SelectionStage:
    def __init__(self, context: RunContext, refs: dict[str, ModelRef]) -> None:
        self.context = context
        self.task = context.task
        self.refs = refs
        self.rule = SelectionRule(**context.config.selection.model_dump())

    def run(
        self,
        finds: Sequence[Find],
        searched: Sequence[Problem],
        before: Mapping[str, Any] | None = None,
    ) -> Chosen:
        """Choose from all finished texts of a round; probes among them are never kept.

        `searched` are all problems of the round; `before` is the report of the round before, which
        agreement and precision are compared to.
        """
        own = [f for f in finds if f.origin != PROBE]
        views = Views([], 0, ())
        judge = self._judge()
        trial = None
        if self._asks(own, judge):
            views = ViewStage(self.context, self.refs).run(searched)
            more = self._more_numbers([*finds, *views.finds])
            trial = self._tried(finds, views, judge, more)
            judge = replace(judge, trusts=Trusts(trial, more))
        selection = self.rule.select(own, judge, views.finds)
        report = self._report(finds, own, selection, trial, judge) | _told(views)
        report["rungs"] = rungs([p for p in searched if p.origin != PROBE], selection)
        if why := collapsed(before or {}, report):
            report["collapse"] = why
        return Chosen(self.rule, selection, report, self._said(trial))

    def _judge(self) -> Judge:
        """What the rule asks of the task, and of a reward of the user's own."""
        name = self.context.config.selection.reward
        origins = (PROBE, "given") if self.task.gives_answers else (PROBE,)
        is_proving = self.task.proves != "nothing" and self.context.config.critics.use_tool
        return Judge(
            self.task.same_answer,
            own_reward(name) if name else None,
            is_labelled=lambda f: f.origin in origins and f.reference is not None,
            is_proven=lambda f: is_proving and f.is_sound is True,
        )

    def _asks(self, own: Sequence[Find], judge: Judge) -> bool:
        """Whether there are answers that nothing checks. A text that a proving tool has refuted is
        none: the rule drops or takes it as it is set."""
        if not has_unchecked(self.context.config, self.task):
            return False
        checked = {f.search_id for f in own if judge.is_labelled(f) or judge.is_proven(f)}
        return any(f.search_id not in checked for f in own)

    def _tried(
        self, finds: Sequence[Find], views: Views, judge: Judge, more: Mapping[int, More]
    ) -> Trial:
        labelled = [f for f in finds if judge.is_labelled(f)]
        families = {f.family for f in labelled}
        labelled += [v for v in views.finds if v.family in families]
        evidence = [e for e in evidence_of(labelled, judge.same).values() if e.answer is not None]
        return tried(
            [e.numbers(*more[e.text]) for e in evidence],
            [bool(e.is_right) for e in evidence],
            self.rule.min_precision,
            self.rule.certainty,
        )

    def _more_numbers(self, finds: Sequence[Find]) -> dict[int, More]:
        """By text, of those that stand for their answers, what is asked of it alone."""
        wanted = {e.text for e in evidence_of(finds, self.task.same_answer).values()}
        texts = [f for f in finds if f.id in wanted]
        least = self._least_steps(texts)
        weights = self.refs["outcome"].header.calibration.doubts if "outcome" in self.refs else ()
        found: dict[int, More] = {}
        for text in texts:
            doubts = self.task.doubts(text.problem, text.steps)
            held = sum(w * d for w, d in zip(weights, doubts, strict=False))
            found[text.id] = (least.get(text.id, 1.0), doubts, held)
        return found

    def _least_steps(self, texts: Sequence[Find]) -> dict[int, float]:
        """The least score of the steps of each text; empty where no process critic is to be
        trusted."""
        models = self.context.models_for(self.refs)
        if "process" in models.distrusted:
            return {}
        scores = iter(models.process_scores([s for f in texts for s in _states(f)]))
        found: dict[int, float] = {}
        for text in texts:
            own = [next(scores).value for _ in text.steps]
            known = [score for score in own if score is not None]
            if known:
                found[text.id] = min(known)
        return found

    def _report(
        self,
        finds: Sequence[Find],
        own: Sequence[Find],
        selection: Selection,
        trial: Trial | None,
        judge: Judge,
    ) -> dict[str, Any]:
        if trial is None:
            return {}
        found: dict[str, Any] = {}
        evidence = evidence_of(own, judge.same)
        labelled = evidence_of([f for f in finds if judge.is_labelled(f)], judge.same)
        found["agreement"] = _mean([_agreement(e) for e in evidence.values()])
        found["answers"] = _mean(_num_answers(own))
        found["probes"] = {family: bool(e.is_right) for family, e in labelled.items()}
        found["trust"] = {
            "aim": self.rule.min_precision,
            "certainty": self.rule.certainty,
            "labelled": trial.num,
            "right": trial.num_right,
            "trusted": trial.num_trusted,
            "trusted_right": trial.num_trusted_right,
            "bound": round(trial.bound, 4),
            "threshold": trial.trust.threshold if trial.trust else None,
            "auc": trial.auc,
            "calibration_error": trial.calibration_error,
        }
        return found

    def _said(self, trial: Trial | None) -> str:
        if trial is None:
            return ""
        of = f"{trial.num_right} of {trial.num} labelled problems are answered right"
        if trial.trust is None:
            return f"no answer can be trusted: {of}; {_help(trial)}"
        return (
            f"{of}; of {trial.num_trusted} trusted ones {trial.num_trusted_right}: precision at "
            f"least {trial.bound:.3f} with certainty {self.rule.certainty:g}"
        )


@dataclass(frozen=True, slots=True)
class Trusts:
    """Whether an answer may be learned from, by the rule that was found."""

    trial: Trial
    more: Mapping[int, More]

    def __call__(self, evidence: Evidence) -> bool:
        trust = self.trial.trust
        if trust is None or evidence.answer is None:
            return False
        return trust.trusts(evidence.numbers(*self.more[evidence.text]))


def _states(find: Find) -> Iterator[State]:
    """The text after each of its steps."""
    options: tuple[Option, ...] = ()
    start = 0
    for size, text in zip(find.step_tokens, find.steps, strict=True):
        options = (*options, Option(find.tokens[start : start + size], text, 0.0, "boundary"))
        start += size
        yield State("", find.prompt_tokens, "", options, problem=find.problem)


def _told(views: Views) -> dict[str, Any]:
    if not views.finds:
        return {}
    figures = {"num": len(views.finds), "tokens": views.num_tokens}
    return {"views": figures | {"policies": list(views.policies)}}


def _agreement(evidence: Evidence) -> float:
    """Share of the searches behind an answer, or, of one search, of its candidates' weight."""
    return evidence.votes if evidence.searches > 1 else evidence.confidence


def _num_answers(finds: Sequence[Find]) -> list[float]:
    """Different answers of each problem: how much the searches still differ."""
    found: dict[str, set[str | None]] = {}
    for find in finds:
        found.setdefault(find.family, set()).add(find.answer)
    return [len(answers) for answers in found.values()]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def collapsed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Whether the searches of a round agree more than those of the round before and are right less
    often on the same labelled problems (one-sided exact McNemar): confident in errors, as
    self-rewarding loops end (Shafayat et al., arXiv 2505.21444). Empty where they are not."""
    if "probes" not in before or "probes" not in after:
        return ""
    more = after["agreement"] - before["agreement"]
    shared = before["probes"].keys() & after["probes"].keys()
    lost = sum(before["probes"][k] and not after["probes"][k] for k in shared)
    gained = sum(after["probes"][k] and not before["probes"][k] for k in shared)
    if more <= 0 or mcnemar_p(lost, gained) >= COLLAPSE_P:
        return ""
    return (
        f"the searches agree more than in the round before ({before['agreement']:.2f} to "
        f"{after['agreement']:.2f}) and are right on fewer labelled problems ({lost} lost, "
        f"{gained} gained of {len(shared)}): what they agree on is wrong; raise "
        "selection.min_precision, or go back to the base with a run of another name"
    )


def _help(trial: Trial) -> str:
    """What would help a round that may trust nothing."""
    if trial.num_trusted < trial.needed:
        share = max(0.1, trial.num_trusted / trial.num if trial.num else 0.0)
        more = math.ceil(trial.needed / share)
        return (
            f"{trial.needed} trusted ones, all of them right, are needed to show it, and there are "
            f"{trial.num_trusted}: search about {more} labelled problems (selection.probes)"
        )
    return (
        f"the best rule trusts {trial.num_trusted}, {trial.num_trusted_right} of them right: let a "
        "checker work steps out (critics.checker_steps), teach the critics more labels "
        "(critics.num_labelled), compare more wordings (imagination.wordings), or ask for less "
        "(selection.min_precision)"
    )


def rungs(searched: Sequence[Problem], selection: Selection) -> dict[str, dict[str, int]]:
    """By difficulty: searches, those that gave a text, and how many of the known answers of these
    are right."""
    found: dict[str, Counter[str]] = {}
    for problem in searched:
        found.setdefault(_rung(problem.difficulty), Counter())["searches"] += 1
    for item in selection.kept:
        if item.scores["rank"] == 1:
            tally = found[_rung(item.find.difficulty)]
            tally["kept"] += 1
            if item.find.is_correct is not None:
                tally["known"] += 1
                tally["right"] += item.find.is_correct
    return {rung: dict(tally) for rung, tally in sorted(found.items())}


def _rung(difficulty: float | None) -> str:
    return "-" if difficulty is None else f"{difficulty:g}"
