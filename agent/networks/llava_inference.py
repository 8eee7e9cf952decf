"""A network that reads pictures, laid out for inference: a Llama whose embeddings are features
where a token is a place of a picture."""

import copy
from collections import OrderedDict

import torch
from torch import Tensor

from agent.networks.llama_inference import LlamaInference
from agent.networks.llava import LlavaModel
from agent.networks.shared_blocks import SharedBlocks
from kernels.dispatch import IGNORED

KEPT = 512
"""Pictures whose features are kept; what is dropped is computed again."""


class LlavaInference(LlamaInference):
    reads_attachments = True

    def __init__(self, model: LlavaModel, shared: SharedBlocks | None = None) -> None:
        super().__init__(model.language_model, shared)
        self.arch = model.arch
        self.pictures = model.pictures
        self.tower = copy.deepcopy(model.vision_tower).eval().requires_grad_(False)
        self.projector = copy.deepcopy(model.multi_modal_projector).eval().requires_grad_(False)
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def _embedded(self, tokens_R: Tensor) -> Tensor:
        is_picture = tokens_R >= self.arch.vocab_size
        x_RE = super()._embedded(tokens_R.masked_fill(is_picture, 0))
        if bool(is_picture.any()):
            found = [self.pictures.of(i) for i in tokens_R[is_picture].tolist()]
            features = {digest: self._seen(digest) for digest in dict.fromkeys(d for d, _ in found)}
            x_RE[is_picture] = torch.stack([features[digest][place] for digest, place in found])
        return x_RE

    def _seen(self, digest: str) -> Tensor:
        """Features [P, E] of a picture, alone in its forward: its bits do not depend on others."""
        if digest in self._features:
            self._features.move_to_end(digest)
            return self._features[digest]
        weight = self.tower.embeddings.position_embedding.weight
        pixels = self.pictures.pixels(digest)[None].to(weight)
        features: Tensor = self.projector(self.tower(pixels))[0]
        self._features[digest] = features.to(self.dtype)
        while len(self._features) > KEPT:
            self._features.popitem(last=False)
        return self._features[digest]

    def logprobs_of(self, hidden_RE: Tensor, target_M: Tensor, rows_M: Tensor) -> Tensor:
        """As any network; a place of a picture is never written, and its log-probability is 0."""
        is_picture = target_M >= self.arch.vocab_size
        return super().logprobs_of(hidden_RE, target_M.masked_fill(is_picture, IGNORED), rows_M)
