"""The families of networks by config.json's model_type: a new family is a file and a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.networks.architecture import Architecture
from agent.networks.inference import InferenceNetwork
from agent.networks.language_model import LanguageModel
from agent.networks.llama import Decoder
from agent.networks.llama_inference import LlamaInference


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    """What transformers' class names begin with: `Llama` of LlamaForCausalLM."""
    build: Callable[[Architecture, bool], LanguageModel]
    """The network for training, its weights not set yet; True for a scalar critic."""
    lay_out: Callable[[Any], InferenceNetwork]
    """The same weights for inference."""


FAMILIES = {
    "llama": Family("Llama", Decoder, LlamaInference),
    "mistral": Family("Mistral", Decoder, LlamaInference),
    "qwen2": Family("Qwen2", Decoder, LlamaInference),
    "qwen3": Family("Qwen3", Decoder, LlamaInference),
}


def build(arch: Architecture, is_critic: bool = False) -> LanguageModel:
    """A network of this architecture; the caller sets its weights."""
    return FAMILIES[arch.model_type].build(arch, is_critic)


def laid_out(model: LanguageModel) -> InferenceNetwork:
    """The model's weights as the engine uses them."""
    return FAMILIES[model.arch.model_type].lay_out(model)


def class_name(model: LanguageModel) -> str:
    """Its class in transformers, for config.json's `architectures`."""
    head = "ForSequenceClassification" if model.is_critic else "ForCausalLM"
    return FAMILIES[model.arch.model_type].name + head
