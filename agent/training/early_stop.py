"""Early stopping: the weights that did best on texts that no step learned from."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from agent.networks.device import LARGE
from agent.training.ranks import least
from agent.training.sharding import put_back

MOST_MEASURED, MOST_OF_LARGE = 512, 128
"""Held-out rows looked at each time, and those of a model that takes long to look."""
OVERFITTED = 1.1
"""A policy's last weights are kept unless their loss is this many times the best one's."""


SEEN = ("first_loss", "best_loss", "best_step", "last_loss", "last_step")


def most_measured(model: nn.Module) -> int:
    size = sum(parameter.numel() for parameter in model.parameters())
    return MOST_OF_LARGE if size >= LARGE else MOST_MEASURED


class Snapshot:
    """Measures a model a few times while it trains and remembers its best weights."""

    def __init__(
        self,
        model: nn.Module,
        measure: Callable[[], float] | None,
        num_steps: int,
        num_looks: int = 4,
        may_stay: bool = True,
    ) -> None:
        """`measure` gives a loss; None turns the snapshot off. The start is looked at too, and is
        one of the candidates if the model `may_stay` as it was.

        A policy may not: texts that it found itself are likeliest under the weights that wrote
        them, so their loss would always call it best untrained; that is for the gate to say. And
        its last weights, which the falling rate has settled, answer better than earlier ones of
        about the same loss (LOG.md): only clear overfitting brings those back.
        """
        self.model = model
        self.measure = measure
        self.every = max(1, math.ceil(num_steps / num_looks))
        self.best_loss = math.inf
        self.best_step = 0
        self.last_loss = math.inf
        self.last_step = 0
        self.first_loss = math.nan
        self.tolerance = 1.0 if may_stay else OVERFITTED
        self._best: dict[str, torch.Tensor] = {}
        if measure is not None:
            self.look(0)
            self.first_loss = self.best_loss
            if not may_stay:
                self.best_loss, self._best = math.inf, {}

    def after(self, step: int, num_steps: int) -> None:
        """Look when it is time; `step` counts from 1."""
        if self.measure is not None and (step % self.every == 0 or step == num_steps):
            self.look(step)

    def look(self, step: int) -> None:
        assert self.measure is not None
        was_training = self.model.training
        self.model.eval()
        # Ranks measure the same texts: one number for all, so that all keep the same step.
        with torch.no_grad():  # what is made whole in inference mode cannot train afterwards
            loss = least(self.measure())
        self.model.train(was_training)
        put_back(self.model)
        self.last_loss, self.last_step = loss, step
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, step
            self._best = {
                name: parameter.detach().clone()
                for name, parameter in self.model.named_parameters()
                if parameter.requires_grad
            }

    def restore(self) -> None:
        """Give the model its best weights back; without a finite look it stays as it is."""
        if self.last_loss <= self.tolerance * self.best_loss:
            self.best_loss, self.best_step = self.last_loss, self.last_step
        elif self._best:
            self.model.load_state_dict(self._best, strict=False)

    def state(self) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """What it has seen, and the best weights so far."""
        return {name: getattr(self, name) for name in SEEN}, self._best

    def load(self, seen: Mapping[str, float], best: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` gave."""
        for name in SEEN:
            setattr(self, name, seen[name])
        self._best = dict(best)

    def report(self, losses: Sequence[float]) -> dict[str, float]:
        """Last training loss, held-out loss before and of the weights kept, and their step."""
        last = losses[-10:]
        found = {"loss": sum(last) / max(1, len(last))}
        if self.measure is not None:
            found |= {
                "held_out_loss_before": self.first_loss,
                "held_out_loss": self.best_loss,
                "kept_step": self.best_step,
            }
        return found
