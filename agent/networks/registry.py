"""The families of networks by config.json's model_type.

A family that computes as these do is a line here and its name in `architecture.SUPPORTED`. One that
does not (another norm, capped logits, windows that alternate) is a file beside `llama.py` for
training and one beside `llama_inference.py`, its facts in `Architecture`; where weights are read
(`checkpoints/weights.py`), LoRA is put (`training/trl_trainer.py`) and layers are told apart from
embeddings (`training/optimizer.py`), parameters go by the names that llama's have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.networks.architecture import Architecture
from agent.networks.inference import InferenceNetwork
from agent.networks.language_model import LanguageModel
from agent.networks.llama import Decoder
from agent.networks.llama_inference import LlamaInference
from agent.networks.llava import LlavaModel
from agent.networks.llava_inference import LlavaInference
from agent.networks.megalodon import MegalodonDecoder
from agent.networks.megalodon_inference import MegalodonInference
from agent.networks.shared_blocks import SharedBlocks


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    """What transformers' class names begin with: `Llama` of LlamaForCausalLM."""
    build: Callable[[Architecture, bool], LanguageModel]
    """The network for training, its weights not set yet; True for a scalar critic."""
    lay_out: Callable[[Any, SharedBlocks | None], InferenceNetwork]
    """The same weights for inference."""


FAMILIES = {
    "llama": Family("Llama", Decoder, LlamaInference),
    "mistral": Family("Mistral", Decoder, LlamaInference),
    "qwen2": Family("Qwen2", Decoder, LlamaInference),
    "qwen3": Family("Qwen3", Decoder, LlamaInference),
    "llava": Family("Llava", LlavaModel, LlavaInference),
    "megalodon": Family("Megalodon", MegalodonDecoder, MegalodonInference),
}


def build(arch: Architecture, is_critic: bool = False) -> LanguageModel:
    """A network of this architecture; the caller sets its weights."""
    return FAMILIES[arch.model_type].build(arch, is_critic)


def laid_out(model: LanguageModel, shared: SharedBlocks | None = None) -> InferenceNetwork:
    """The model's weights as the engine uses them, those that others have too from `shared`."""
    return FAMILIES[model.arch.model_type].lay_out(model.in_one_type(), shared)


def class_name(model: LanguageModel) -> str:
    """Its class in transformers, for config.json's `architectures`."""
    writes = "ForCausalLM" if model.arch.vision is None else "ForConditionalGeneration"
    head = "ForSequenceClassification" if model.is_critic else writes
    return FAMILIES[model.arch.model_type].name + head
