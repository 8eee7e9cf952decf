"""A language model in the form for training: what training, publishing and the engine rely on.

Shapes: B rows, T tokens, E hidden width, V vocabulary.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from agent.networks.adapter_shape import AdapterShape, is_of_adapter
from agent.networks.adapters import begin_adapters, merge_adapters, put_adapters
from agent.networks.architecture import Architecture

KEPT_BYTES = 2**28
"""Of the frozen blocks' states that are kept, for each model."""


class LanguageModel(nn.Module, ABC):
    """A decoder with a head over the vocabulary or, as a critic, with a scalar one.

    Its parameters carry the names that they have in a checkpoint.
    """

    def __init__(self, arch: Architecture, is_critic: bool) -> None:
        super().__init__()
        self.arch = arch
        self.is_critic = is_critic
        self.adapter: AdapterShape | None = None
        """Of the adapters that train in the place of all other weights; None: there are none."""
        self.base_version = ""
        """Of the checkpoint whose weights these are, adapters apart; empty where they may have
        changed."""
        self.num_frozen = 0
        """Lower blocks that training leaves as they are, and the embeddings with them."""
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._kept_bytes = 0
        self.is_checkpointed = False
        """Whether training keeps the states between blocks alone, and computes a block again for
        its gradient: a third more work in a tenth of the memory, and the same weights."""

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """Hidden states [B, T, E] after the last norm; rows are right-padded and causal."""
        return self.upper(self.lower(tokens_BT, positions_BT), positions_BT)

    @abstractmethod
    def lower(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """States [B, T, E] after the frozen blocks; the embeddings where none are frozen."""

    @abstractmethod
    def upper(self, x_BTE: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """What `forward` gives, from what `lower` gave."""

    def freeze(self, num_tuned: int, dtype: torch.dtype = torch.float32) -> None:
        """Leave all but the last `num_tuned` blocks, the last norm and a head of their own as they
        are from now on; the frozen blocks' matrices are held in `dtype`."""
        self.num_frozen = max(0, self.arch.num_layers - num_tuned)
        for name, parameter in self.frozen():
            parameter.requires_grad_(False)
            is_matrix = parameter.ndim == 2 and self.block_of(name) >= 0
            if is_matrix and not is_of_adapter(name) and dtype != torch.float32:
                parameter.data = parameter.data.to(dtype)

    def adapt(self, shape: AdapterShape) -> None:
        """Put an adapter on every linear map of the blocks, its numbers not set yet. From now on
        these train and, of a critic, its head; all other weights are the base's."""
        for block in self.blocks:
            put_adapters(block, shape)
        self.adapter = shape
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.is_own(name))

    def begin(self, seed: int) -> None:
        """Set the adapters to where their training begins: they change nothing yet."""
        generator = torch.Generator().manual_seed(seed)
        for block in self.blocks:
            begin_adapters(block, generator)

    def take_shape(self, other: "LanguageModel") -> None:
        """Have adapters where the other network has them."""
        if other.adapter is not None:
            self.adapt(other.adapter)

    def merge(self) -> None:
        """The same network without adapters, what they learned in its weights; all of it trains."""
        for block in self.blocks:
            merge_adapters(block)
        self.adapter, self.base_version = None, ""
        self.tie()
        self.requires_grad_(True)

    def is_own(self, name: str) -> bool:
        """Whether an adapted network has this parameter for itself: adapters, a critic's head."""
        return is_of_adapter(name) or (self.is_critic and self.get_parameter(name) is self.head)

    def reference(self) -> "LanguageModel":
        """A copy that never trains. Weights that do not train here are not copied."""
        shared = {id(p): p for p in self.parameters() if not p.requires_grad}
        found: LanguageModel = copy.deepcopy(self, shared)
        return found.eval().requires_grad_(False)

    def of_rows(
        self, rows: Sequence[Sequence[int]], tokens_BT: Tensor, positions_BT: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, T, E] of the right-padded `rows`. What the frozen blocks made of a row
        is kept, so that rows which training looks at again and again go through them once."""
        if not self.num_frozen or positions_BT is not None:
            return self(tokens_BT, positions_BT)
        # What a look without gradients kept must serve training, too.
        with torch.inference_mode(False), torch.no_grad():
            new = [i for i, row in enumerate(rows) if tuple(row) not in self._kept]
            made = self.lower(tokens_BT[new]) if new else tokens_BT.new_empty(0)
            found = {i: made[at, : len(rows[i])] for at, i in enumerate(new)}
            kind = self.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
            for i, state in found.items():
                found[i] = state = state.to(dtype or state.dtype)
                if self._kept_bytes + state.nbytes <= KEPT_BYTES:
                    self._kept[tuple(rows[i])] = state.clone()
                    self._kept_bytes += state.nbytes
            states = [
                found[i] if i in found else self._kept[tuple(row)] for i, row in enumerate(rows)
            ]
            x_BTE = nn.utils.rnn.pad_sequence(states, batch_first=True).float()
            missing = tokens_BT.shape[1] - x_BTE.shape[1]
            x_BTE = nn.functional.pad(x_BTE, (0, 0, 0, missing))
        return self.upper(x_BTE)

    def frozen(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the frozen blocks and of the embeddings."""
        if self.num_frozen:
            for name, parameter in self.named_parameters():
                if self.block_of(name) < self.num_frozen:
                    yield name, parameter

    @abstractmethod
    def block_of(self, name: str) -> int:
        """Number of the block that a parameter belongs to; -1 for the embeddings, and the number of
        blocks for what comes after them."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, from the embeddings up: each is called with the states as its first
        argument."""

    @abstractmethod
    def tie(self) -> None:
        """Let embeddings and head be one parameter again where the architecture has it so."""

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
        return nn.functional.linear(hidden.to(self.head.dtype), self.head)

    def in_one_type(self) -> "LanguageModel":
        """Itself or, where adapters train on weights of another type, a copy in the type of those;
        weights that have it already are not copied."""
        dtypes = {parameter.dtype for parameter in self.parameters()}
        if len(dtypes) == 1:
            return self
        frozen = next(p for n, p in self.named_parameters() if self.block_of(n) == -1)
        with torch.no_grad():
            cast = {
                id(p): p if p.dtype == frozen.dtype else nn.Parameter(p.to(frozen.dtype), False)
                for p in self.parameters()
            }
        found: LanguageModel = copy.deepcopy(self, cast)
        return found
