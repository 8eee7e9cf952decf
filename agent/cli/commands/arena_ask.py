"""`ratchet arena ask`: votes of a model."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.arena.automatic import cast_by_model
from agent.checkpoints.base_models import policy_at
from agent.cli.commands.arena import opened_box
from agent.cli.output import emit
from agent.config.endpoint import is_served
from agent.config.settings import Config
from agent.imagination.judge import Judge, ModelJudge, ServedJudge
from agent.open_models import opened_over
from agent.progress import make_progress


def run(
    config: Config,
    task: str | None,
    contestants: Sequence[str],
    judge: str,
    model: str,
    num_votes: int,
    as_json: bool,
) -> None:
    with _asked(config, judge, model) as (asked, which):
        name = f"model:{which}"
        num_cast = 0
        with opened_box(config, task, contestants, name) as box:
            progress = make_progress(quiet=as_json)
            try:
                progress.stage("asking", min(num_votes, box.num_open), "pairs")
                for num_shown, num_cast in cast_by_model(box, asked, num_votes):
                    progress.update(num_shown, votes=num_cast)
            finally:
                progress.close()
            told_task = box.task
    if as_json:
        emit({"task": told_task, "judge": name, "new_votes": num_cast})
    else:
        print(f"{num_cast} votes of {name}; see `ratchet arena standings`", file=sys.stderr)


@contextmanager
def _asked(config: Config, judge: str, model: str) -> Iterator[tuple[Judge, str]]:
    """The judge, and what names it in the store."""
    if is_served(judge):
        yield ServedJudge(judge, model), f"{judge} {model}".strip()
        return
    ref = policy_at(Path(judge).expanduser()).ref("policy")
    with opened_over(config, {"policy": ref}) as models:
        yield ModelJudge(models, ref), ref.version
