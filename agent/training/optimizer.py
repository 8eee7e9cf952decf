"""Optimisers and the learning-rate schedule that every training job shares."""

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.distributed.tensor import DTensor

MICRO_TOKENS = 512
BYTES_TRAINED = 16
"""Of a parameter that trains: weight, gradient and two moments of AdamW, in float32."""
ACTIVATION_BYTES = 84
"""Of a token, block and unit of width, kept for the backward pass; measured on a model of 135
million parameters (docs/results/real-2026-11-26.md)."""


GPU_ACTIVATION_BYTES = 40
"""The same on a GPU, where attention keeps no matrix: 35 and 39 by the peaks of two models
(docs/results/gpu-2026-11-27.md)."""


class TrainingSettings(BaseModel):
    """How a model is trained. Steps, not seconds: a busy machine must not change the result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str = Field("auto", pattern="^(auto|float32|bfloat16)$")
    """Of products; weights, gradients and the optimiser's state are float32 (autocast)."""
    micro_tokens: int = Field(0, ge=0)
    """Tokens, padding included, whose activations are in memory together; 0: `MICRO_TOKENS` for a
    model from `device.LARGE` parameters on, on a GPU as many as half of its part of the memory
    holds, else all of a batch."""
    num_steps: int = Field(400, ge=1)
    batch_size: int = Field(48, ge=1)
    optimizer: str = Field("adamw", pattern="^(adamw|muon)$")
    """`muon` orthogonalises the updates of the matrices and leaves the rest to AdamW."""
    learning_rate: float = Field(1e-5, gt=0)
    matrix_learning_rate: float = Field(6e-3, gt=0)
    """Muon's rate; unused with `adamw`."""
    warmup_share: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    position_span: int = Field(0, ge=0)
    """Range of the random positions a row is spread over; 0 keeps 0, 1, 2, ..."""
    sharding: str = Field("auto", pattern="^(auto|always|never)$")
    """Whether several processes share one copy of the weights; `auto`: from `device.LARGE`
    parameters on."""
    lora_rank: int = Field(0, ge=0, le=4_096)
    """Of the adapters that train in the place of all weights; 0: none."""
    max_epochs: float = Field(4.0, gt=0)
    """Fewer steps are taken when the rows would otherwise be seen more often than this."""


class Optimizer:
    """AdamW, or Muon for the matrices of the blocks with AdamW for the rest."""

    def __init__(self, model: nn.Module, settings: TrainingSettings, num_steps: int) -> None:
        self.settings = settings
        self.num_steps = num_steps
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        # The halves of an adapter are no matrices whose updates could be made orthogonal.
        uses_muon = settings.optimizer == "muon" and not settings.lora_rank
        matrices = [
            p
            for n, p in model.named_parameters()
            if p.requires_grad and p.ndim == 2 and ".layers." in n and uses_muon
        ]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in chosen]
        self.parts: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            rate = settings.matrix_learning_rate
            self.parts.append((torch.optim.Muon(matrices, lr=rate, weight_decay=0.0), rate))
        rate = settings.learning_rate
        self.parts.append(
            (
                torch.optim.AdamW(
                    rest, lr=rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
                ),
                rate,
            )
        )

    def step(self, index: int) -> float:
        """Clip, update at the rate of step `index`, clear. Returns the gradient norm."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.max_gradient_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        factor = self._factor(index)
        for part, rate in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return float(norm)

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that later steps depend on, by part, parameter and name."""
        return {
            f"{number}.{index}.{name}": value
            for number, (part, _) in enumerate(self.parts)
            for index, values in part.state_dict()["state"].items()
            for name, value in values.items()
        }

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` gave."""
        for number, (part, _) in enumerate(self.parts):
            values: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in state.items():
                of_part, index, name = key.split(".", 2)
                if int(of_part) == number:
                    values.setdefault(int(index), {})[name] = value
            part.load_state_dict(part.state_dict() | {"state": values})

    def _factor(self, index: int) -> float:
        warmup = max(1, round(self.settings.warmup_share * self.num_steps))
        if index < warmup:
            return (index + 1) / warmup
        return max(0.02, (self.num_steps - index) / max(1, self.num_steps - warmup))
