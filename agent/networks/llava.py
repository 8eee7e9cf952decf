"""LLaVA's layout (Liu et al., arXiv 2304.08485) for training: a SigLIP tower, a projector, and one
of our decoders, whose blocks see the projected patches in the places of placeholders.

Parameter names are those that transformers writes.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from agent.networks.architecture import Architecture
from agent.networks.decoder import copied_weights
from agent.networks.language_model import LanguageModel
from agent.networks.llama import Decoder
from agent.networks.pictures import FIRST_WORD, Source, no_pictures, pictures_in
from agent.networks.shapes import LANGUAGE
from agent.networks.siglip import Projector, SiglipTower


class LlavaModel(LanguageModel):
    """A policy or a scalar critic that reads pictures.

    Which pictures a text has its tokens say (`pictures`); what else it is asked is its language
    model's.
    """

    def __init__(self, arch: Architecture, is_critic: bool = False) -> None:
        super().__init__(arch, is_critic)
        if arch.vision is None:
            raise ValueError("a network that reads pictures needs the shape of its tower")
        self.language_model = Decoder(arch.language, is_critic)
        self.vision_tower = SiglipTower(arch.vision)
        self.multi_modal_projector = Projector(arch.vision, arch.hidden_size)
        self.vision = arch.vision
        self.source: Source = no_pictures
        """Where the pixels of a digest come from."""

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """What stands in the places of pictures, [B, P, E]."""
        found: Tensor = self.multi_modal_projector(self.vision_tower(pixels_BCHW))
        return found

    def embedded(self, tokens_BT: Tensor) -> Tensor:
        """What the blocks begin with, [B, T, E]."""
        places = (self.vision.num_tokens, self.vision.image_token)
        shown = [
            (b, start, digest)
            for b, row in enumerate(tokens_BT.tolist())
            if max(row) >= FIRST_WORD
            for start, digest in pictures_in(row, *places)
        ]
        words_BT = tokens_BT.masked_fill(tokens_BT >= FIRST_WORD, self.vision.image_token)
        x_BTE = self.language_model.embedded(words_BT)
        if not shown:
            return x_BTE
        digests = list(dict.fromkeys(digest for _, _, digest in shown))
        weight = self.multi_modal_projector.linear_1.weight
        pixels = torch.stack([self.source(digest) for digest in digests]).to(weight)
        of = dict(zip(digests, self.features(pixels).to(x_BTE.dtype), strict=True))
        is_picture = torch.zeros(tokens_BT.shape, dtype=torch.bool, device=x_BTE.device)
        for b, start, _ in shown:
            is_picture[b, start : start + self.vision.num_tokens] = True
        features = torch.cat([of[digest] for _, _, digest in shown])
        return x_BTE.masked_scatter(is_picture[..., None], features)

    def lower(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        return self.language_model.frozen_states(self.embedded(tokens_BT), positions_BT)

    def upper(self, x_BTE: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        self.language_model.is_checkpointed = self.is_checkpointed
        return self.language_model.upper(x_BTE, positions_BT)

    def freeze(self, num_tuned: int, dtype: torch.dtype = torch.float32) -> None:
        """As any network; the tower and the projector stay as the embeddings do."""
        super().freeze(num_tuned, dtype)
        self.language_model.num_frozen = self.num_frozen

    def block_of(self, name: str) -> int:
        """The tower and the projector come before the blocks, as embeddings do."""
        if not name.startswith(LANGUAGE):
            return -1
        return self.language_model.block_of(name.removeprefix(LANGUAGE))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.language_model.blocks

    def tie(self) -> None:
        self.language_model.tie()

    @property
    def head(self) -> Tensor:
        return self.language_model.head

    def as_critic(self) -> Self:
        """A scalar critic on a copy of the weights, which sees pictures, too."""
        return self._around(self.language_model.as_critic(), is_critic=True)

    def first_layers(self, num_layers: int) -> LanguageModel:
        """The language model's first layers: a drafter is told only what is written (Gagrani et
        al., arXiv 2404.08856)."""
        return self.language_model.first_layers(num_layers)

    def _around(self, language_model: Decoder, is_critic: bool) -> Self:
        with torch.device("meta"):
            found = type(self)(self.arch, is_critic)
        found.language_model = language_model
        found.adapter, found.base_version = self.adapter, self.base_version
        for name in ("vision_tower", "multi_modal_projector"):
            own = getattr(found, name)
            own.load_state_dict(copied_weights(getattr(self, name), own.state_dict()), assign=True)
        found.source = self.source
        return found
