"""Training through TRL, PEFT and accelerate: for real checkpoints, full or with LoRA.

Rows are the store's token ids; nothing is tokenised again. What an adapter learned is merged into
the weights that are published, so every engine can load them, and the adapter itself is kept
beside them. QLoRA (Dettmers et al., arXiv 2305.14314) holds the weights under the adapter in four
bits while it trains; it is merged into the whole ones. Optional: `pip install -e '.[trl]'`.
"""

import os
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.trained import Trained
from agent.checkpoints.weights import load_model
from agent.config.settings import PolicyTraining
from agent.engine.tokenizer import Tokenizer
from agent.networks.device import chosen_device
from agent.networks.language_model import LanguageModel
from agent.scratch import scratch_folder
from agent.training.fit import DivergedError, ends_of, planned_steps
from agent.training.job import Curve, Place, TrainingJob
from agent.training.optimizer import TrainingSettings

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    rank: int = 0
    """Of the LoRA adapter; 0 trains all weights."""
    quantization: Literal["none", "nf4"] = "none"
    """Of the weights under the adapter."""

    @classmethod
    def of(cls, config: PolicyTraining) -> "AdapterSettings":
        return cls(config.lora_rank, config.quantization)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a trainer of TRL is made with."""

    model: Any
    tokenizer: Any
    folder: str
    """Scratch."""
    common: Mapping[str, Any]
    """Of every trainer's configuration."""
    peft_config: Any
    """The adapter's shape; None trains all weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrlJob(TrainingJob):
    adapter: AdapterSettings

    method: ClassVar[str]

    @property
    @abstractmethod
    def num_examples(self) -> int: ...

    @abstractmethod
    def trainer(self, opened: Opened) -> Any:
        """TRL's trainer on this job's rows."""

    def run(self, place: Place) -> Trained:
        """Run the trainer, read its loss, merge, publish."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        torch.set_num_threads(place.threads)
        import transformers

        parent = verify_checkpoint(self.parent)
        device = chosen_device(place.device)
        num_steps = planned_steps(self.num_examples, self.settings)
        transformers.set_seed(self.seed)
        transformers.utils.logging.disable_progress_bar()  # the command has one of its own
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = transformers.AutoModelForCausalLM.from_pretrained(
            parent.path,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            quantization_config=_quantization(self.adapter, dtype),
        )
        weight_bytes = model.get_memory_footprint()
        curve = Curve(place)
        with scratch_folder("trl") as scratch:
            common = _common(self.settings, num_steps, device, self.seed)
            peft_config = _lora(self.adapter.rank)
            trainer = self.trainer(
                Opened(model, _tokenizer(parent.path), str(scratch), common, peft_config)
            )
            trainer.remove_callback(transformers.PrinterCallback)  # stdout belongs to the command
            trainer.add_callback(_reporting(curve, num_steps))
            trainer.train()
            first, last = ends_of(_losses(trainer, num_steps))
            report = {
                "method": self.method,
                "trainer": "trl",
                "lora_rank": self.adapter.rank,
                "quantization": self.adapter.quantization,
                "weight_bytes": weight_bytes,
                "num_steps": num_steps,
                "first_loss": first,
                "last_loss": last,
            }
            adapter = Path(scratch) / "adapter"
            trained = trainer.model
            if self.adapter.rank:
                trained.save_pretrained(adapter, safe_serialization=True)
                trained = _merged(parent.path, adapter)
            made = self.published(_with_weights(parent, trained), parent, report, curve)
            if self.adapter.rank:
                _keep_adapter(adapter, Path(place.folder) / f"adapter-{made.version}")
        return made


def _losses(trainer: Any, num_steps: int) -> list[float]:
    """Loss of each step. Raises DivergedError when one is no number."""
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    if not losses or not all(torch.isfinite(torch.tensor(losses)).tolist()):
        raise DivergedError(
            f"the loss became {losses[-1] if losses else 'unknown'} in {num_steps} steps",
            "lower training.learning_rate",
        )
    return losses


def _with_weights(parent: Checkpoint, trained: Any) -> LanguageModel:
    """Our network with what transformers' model of the same checkpoint learned."""
    model = load_model(parent)
    wanted = dict(model.named_parameters())
    weights = {k: v for k, v in trained.state_dict().items() if k in wanted}
    model.load_state_dict(weights, strict=False)
    return model


def _lora(rank: int) -> Any:
    """The adapter's shape; None trains all weights."""
    if not rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=list(LORA_TARGETS),
        task_type="CAUSAL_LM",
    )


def _common(settings: TrainingSettings, num_steps: int, device: str, seed: int) -> dict[str, Any]:
    """What every trainer's configuration holds."""
    return {
        "max_steps": num_steps,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "warmup_steps": round(settings.warmup_share * num_steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_gradient_norm,
        "lr_scheduler_type": "linear",
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "bf16": device != "cpu",
        "fp16": False,
        "dataloader_pin_memory": False,
    }


def _quantization(adapter: AdapterSettings, dtype: torch.dtype) -> Any:
    if adapter.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=adapter.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _merged(path: Path, adapter: Path) -> Any:
    """The parent's whole weights with the adapter's added, however they were held in training."""
    import transformers
    from peft import PeftModel

    whole = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    return PeftModel.from_pretrained(whole, adapter).merge_and_unload()


def _tokenizer(path: Path) -> Any:
    """What the trainers want to see; they only ask it for the end of a text, which also pads."""
    from transformers import PreTrainedTokenizerFast

    end = Tokenizer(path).end_ids[0]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)
    return tokenizer


def _keep_adapter(source: Path, final: Path) -> None:
    """The adapter beside the merged weights, whole or not at all."""
    if final.exists():
        return
    scratch = final.with_name(f"{final.name}.{os.getpid()}")
    shutil.copytree(source, scratch)
    (scratch / "README.md").unlink(missing_ok=True)
    os.replace(scratch, final)


def _reporting(curve: Curve, num_steps: int) -> Any:
    from transformers import TrainerCallback

    class Reporting(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **named: Any
        ) -> None:
            if logs and "loss" in logs:
                curve.report(state.global_step, num_steps, float(logs["loss"]))

    return Reporting()
