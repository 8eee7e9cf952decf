"""What networks of all families have in common: embeddings, blocks, a last norm, a head.

Parameters are named as transformers names Llama's: `model.embed_tokens`, `model.layers.N`,
`model.norm`, `lm_head` or, of a critic, `score`.
"""

from abc import abstractmethod
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn

from agent.networks.architecture import Architecture
from agent.networks.language_model import LanguageModel


class Backbone(Protocol):
    """Everything below the head."""

    embed_tokens: nn.Embedding
    layers: nn.ModuleList


class DecoderModel(LanguageModel):
    """A policy (`lm_head`) or, with `is_critic`, a scalar critic (`score`) on the same backbone."""

    def __init__(self, arch: Architecture, is_critic: bool = False) -> None:
        super().__init__(arch, is_critic)
        self.model = self.backbone_of(arch)
        if is_critic:
            self.score = nn.Linear(arch.hidden_size, 1, bias=False)
        else:
            self.lm_head = nn.Linear(arch.hidden_size, arch.vocab_size, bias=False)
            self.tie()

    @staticmethod
    @abstractmethod
    def backbone_of(arch: Architecture) -> nn.Module:
        """A backbone of the family, its weights not set yet."""

    @property
    def backbone(self) -> Backbone:
        return cast(Backbone, self.model)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.layers)

    def tie(self) -> None:
        if self.arch.is_tied and not self.is_critic:
            self.lm_head.weight = self.backbone.embed_tokens.weight

    @property
    def head(self) -> Tensor:
        """Weight of the last product: [V, E], or [1, E] of a critic."""
        return self.score.weight if self.is_critic else self.lm_head.weight

    def as_critic(self) -> Self:
        """A scalar critic on a copy of the backbone; its head starts at zero."""
        with torch.device("meta"):  # no random weights are made first
            critic = type(self)(self.arch, is_critic=True)
            critic.take_shape(self)
        wanted = critic.model.state_dict()
        critic.model.load_state_dict(copied_weights(self.model, wanted), assign=True)
        head_1E = torch.zeros((1, self.arch.hidden_size), dtype=self.head.dtype, device=self.device)
        critic.score.weight = nn.Parameter(head_1E)
        return critic

    def first_layers(self, num_layers: int) -> Self:
        """A smaller network: the first blocks, embeddings, last norm and head, copied."""
        with torch.device("meta"):
            cut = type(self)(replace(self.arch, num_layers=num_layers))
            cut.take_shape(self)
        cut.load_state_dict(copied_weights(self, cut.state_dict()), assign=True)
        cut.tie()
        return cut

    def block_of(self, name: str) -> int:
        if name.startswith("model.embed_tokens."):
            return -1
        if name.startswith("model.layers."):
            return int(name.split(".")[2])
        return self.arch.num_layers


def copied_weights(module: nn.Module, wanted: Container[str]) -> dict[str, Tensor]:
    """A copy of the wanted weights by name; those that do not train are the very same."""
    return {
        name: parameter.detach().clone() if parameter.requires_grad else parameter.detach()
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if name in wanted
    }
