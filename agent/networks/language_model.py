"""A language model in the form for training: what training, publishing and the engine rely on.

Shapes: B rows, T tokens, E hidden width, V vocabulary.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from agent.networks.architecture import Architecture


class LanguageModel(nn.Module, ABC):
    """A decoder with a head over the vocabulary or, as a critic, with a scalar one.

    Its parameters carry the names that they have in a checkpoint.
    """

    def __init__(self, arch: Architecture, is_critic: bool) -> None:
        super().__init__()
        self.arch = arch
        self.is_critic = is_critic

    @abstractmethod
    def forward(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """Hidden states [B, T, E] after the last norm; rows are right-padded and causal."""

    @property
    @abstractmethod
    def head(self) -> Tensor:
        """Weight of the last product: [V, E], or [1, E] of a critic."""

    @abstractmethod
    def as_critic(self) -> "LanguageModel":
        """A scalar critic on a copy of the weights; its head starts at zero."""

    @abstractmethod
    def first_layers(self, num_layers: int) -> "LanguageModel":
        """A copy with the first layers alone, between the same embeddings and head."""

    @property
    def device(self) -> torch.device:
        return self.head.device

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] (a critic's: [..., 1]) of hidden states [..., E]."""
        return nn.functional.linear(hidden, self.head)
