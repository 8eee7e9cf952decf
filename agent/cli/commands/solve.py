"""`ratchet solve`: one question, searched."""

from dataclasses import asdict
from typing import Any

from rich.console import Console

from agent.checkpoints.model_refs import CHECKER
from agent.cli.output import emit
from agent.config.settings import Config
from agent.open_models import open_models
from agent.solve import Solution, solve
from agent.tasks.registry import open_task
from agent.visible import shown


def run(config: Config, question: str, as_json: bool) -> None:
    open_task(config).read(question)  # refused before a model is loaded
    with open_models(config) as models:
        found = solve(models, question, config.seed)
    if as_json:
        emit(_document(found) | {"seed": config.seed, "config_sha": config.digest()})
    else:
        _show(found)


def _document(found: Solution) -> dict[str, Any]:
    steps = [
        {"text": s.text, "n": s.visits, "q": s.q, "prior": s.prior, "critics": s.scores}
        for s in found.steps
    ]
    return asdict(found) | {"steps": steps}


def checked(found: Solution) -> str:
    """Who checked the steps of the answer, for people."""
    if found.is_sound is not None:
        by = found.checked_by
        return (
            f"every step checked by the {by}" if found.is_sound else f"a step refuted by the {by}"
        )
    if found.checked_by == CHECKER and found.answer is not None:
        return "worked out again by the checker, which found nothing wrong"
    return "unchecked"


def _show(found: Solution) -> None:
    console = Console(highlight=False, soft_wrap=True)

    def number(value: float | None) -> str:
        return "   -" if value is None else f"{value:.2f}"

    console.print(f"[bold]{shown(str(found.answer or 'no answer found'))}[/]")
    if found.wording is not None:
        console.print(f"  in other words: {shown(found.wording)}")
    for step in found.steps:
        visits = "-" if step.visits is None else step.visits
        critics = " ".join(f"{critic} {score:.2f}" for critic, score in step.scores.items())
        console.print(
            f"  {shown(step.text):<28} N {visits:>3}  Q {number(step.q)}  "
            f"P {number(step.prior)}  {critics}"
        )
    console.print(
        f"confidence {number(found.confidence).strip()} · {checked(found)} · "
        f"runner-up {found.runner_up or 'none'} · {found.simulations} simulations, "
        f"{found.tokens} tokens, stopped: {found.stop_reason}"
    )
