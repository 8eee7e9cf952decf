"""A network that reads pictures, laid out for inference: a Llama whose embeddings are features
where a token is a place of a picture."""

import copy
from collections import OrderedDict

from torch import Tensor

from agent.networks.llama_inference import LlamaInference
from agent.networks.llava import LlavaModel
from agent.networks.pictures import FIRST_WORD, pictures_in
from agent.networks.shared_blocks import SharedBlocks
from kernels.dispatch import IGNORED

KEPT = 512
"""Pictures whose features are kept; what is dropped is computed again."""


class LlavaInference(LlamaInference):
    reads_pictures = True

    def __init__(self, model: LlavaModel, shared: SharedBlocks | None = None) -> None:
        super().__init__(model.language_model, shared)
        self.arch = model.arch
        self.vision, self.source = model.vision, model.source
        self.tower = copy.deepcopy(model.vision_tower).eval().requires_grad_(False)
        self.projector = copy.deepcopy(model.multi_modal_projector).eval().requires_grad_(False)
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def _embedded(self, tokens_R: Tensor) -> Tensor:
        """Rows of one text stand side by side, so that a picture's places do."""
        tokens = tokens_R.tolist()
        is_word_R = tokens_R >= FIRST_WORD
        x_RE = super()._embedded(tokens_R.masked_fill(is_word_R, self.vision.image_token))
        if max(tokens) >= FIRST_WORD:
            places = (self.vision.num_tokens, self.vision.image_token)
            for start, digest in pictures_in(tokens, *places):
                x_RE[start : start + self.vision.num_tokens] = self._seen(digest)
        return x_RE

    def _seen(self, digest: str) -> Tensor:
        """Features [P, E] of a picture, alone in its forward: its bits do not depend on others."""
        if digest in self._features:
            self._features.move_to_end(digest)
            return self._features[digest]
        weight = self.tower.embeddings.position_embedding.weight
        features: Tensor = self.projector(self.tower(self.source(digest)[None].to(weight)))[0]
        self._features[digest] = features.to(self.dtype)
        while len(self._features) > KEPT:
            self._features.popitem(last=False)
        return self._features[digest]

    def logprobs_of(self, hidden_RE: Tensor, target_M: Tensor, rows_M: Tensor) -> Tensor:
        """As any network; a place of a picture is never written, and its log-probability is 0."""
        is_picture = target_M >= FIRST_WORD
        return super().logprobs_of(hidden_RE, target_M.masked_fill(is_picture, IGNORED), rows_M)
