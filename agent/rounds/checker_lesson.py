"""What a run's checker learns when the run begins: the claims of texts on labelled problems."""

from collections.abc import Mapping

from agent.checkpoints.model_refs import CHECKER, ModelRef
from agent.checkpoints.trained import Trained
from agent.config.settings import Config
from agent.evaluation.answering import sample_rollouts
from agent.rounds.context import RunContext, chunks, judged
from agent.rounds.critic_lessons import labelled_problems
from agent.rounds.label_sampling import is_measuring
from agent.tasks.task import Task
from agent.training.checker import CheckerJob, JudgedText
from agent.training.recipe import policy_settings
from critics.working import Question
from search.errors import RatchetError
from search.interfaces import Rollout
from search.randomness import derive_seed
from search.state import Problem

LEAST_QUESTIONS = 50
"""Fewer teach nothing that holds for others."""


def wants_checker(config: Config, task: Task) -> bool:
    """Whether the settings ask for a checker, and nothing else checks steps."""
    settings = config.critics
    has_tool = settings.use_tool and bool(task.tool)
    return bool(settings.checker_steps and settings.num_labelled) and not has_tool


class CheckerLesson:
    def __init__(self, context: RunContext, refs: Mapping[str, ModelRef]) -> None:
        self.context = context
        self.config = context.config
        self.task = context.task
        self.refs = refs

    def taught(self) -> Trained | None:
        """A checker made of the policy; None, with a warning, where too little can be asked."""
        questions, held_out = self._claims()
        say = self.context.progress.say
        if len(questions) < LEAST_QUESTIONS:
            say(
                f"warning: the policy's texts on labelled problems claim {len(questions)} things "
                f"that can be worked out in writing, and {LEAST_QUESTIONS} are needed: there is no "
                "checker (raise critics.num_labelled or critics.samples, or set "
                "critics.checker_steps to 0)"
            )
            return None
        steps = self.config.critics.checker_steps
        base = policy_settings(self.config.training, self.refs["policy"].header)
        job = CheckerJob(
            role=CHECKER,
            parent=self.refs["policy"].path,
            # Working out is learned by heart as far as it goes: there is nothing to over-learn.
            settings=base.model_copy(update={"num_steps": steps, "max_epochs": float(steps)}),
            seed=derive_seed(self.config.seed, "checker") % 2**31,
            questions=questions,
            held_out=held_out,
        )
        self.context.progress.stage("checker", steps, "steps")
        self.context.hosts.release()
        made = self.context.trainer.run([job], self.context.progress)[CHECKER]
        if isinstance(made, RatchetError):
            say(f"warning: there is no checker: {made.message}")
            return None
        say(_told(made, self.config.critics.min_auc))
        return made

    def _claims(self) -> tuple[list[str], list[JudgedText]]:
        """Questions to learn, and texts of problems that nothing learns from."""
        settings, task = self.config.critics, self.task
        problems = labelled_problems(self.context)
        models = self.context.models_for(self.refs)
        seed = derive_seed(self.config.seed, "checker", "label")
        questions: dict[str, None] = {}
        held_out: list[JudgedText] = []
        self.context.progress.stage("labelling", len(problems), "problems")
        done = 0
        for part in chunks(problems, self.config.hosting.cohort):
            groups = sample_rollouts(models, part, settings.samples, 1.0, seed)
            for problem, group in zip(part, groups, strict=True):
                for rollout in group:
                    claims = self._claims_of(problem, rollout)
                    if is_measuring(problem.id):
                        is_right = bool(judged(task, rollout.answer, problem.answer))
                        held_out.append(JudgedText(claims, is_right))
                    else:
                        questions |= dict.fromkeys(q.text for q in claims or ())
            done += len(part)
            self.context.progress.update(done)
        return list(questions), held_out

    def _claims_of(self, problem: Problem, rollout: Rollout) -> tuple[Question, ...] | None:
        """Of all steps of a text; None where one is no step from what stands before it."""
        steps = rollout.state.steps
        found: list[Question] = []
        for end in range(1, len(steps) + 1):
            asked = self.task.questions(problem.text, steps[:end])
            if asked is None:
                return None
            found += asked
        return tuple(found)


def _told(made: Trained, min_auc: float) -> str:
    report = made.report
    if report["auc"] is None:
        return "warning: no labelled texts of both kinds measure the checker; it is taken as it is"
    figures = (
        f"refutes {report['refuted_wrong']:.1%} of wrong labelled texts and "
        f"{report['refuted_right']:.1%} of right ones"
    )
    if report["auc"] < min_auc:
        return f"warning: the checker {figures}: it is not believed (critics.min_auc {min_auc:g})"
    return f"the checker {figures}"
