"""The same training through TRL, PEFT and accelerate: for real checkpoints, full or with LoRA.

Rows are the store's token ids; nothing is tokenised again. What an adapter learned is merged into
the weights that are published, so every engine can load them, and the adapter itself is kept
beside them. QLoRA (Dettmers et al., arXiv 2305.14314) holds the weights under the adapter in four
bits while it trains; it is merged into the whole ones. Optional: `pip install -e '.[trl]'`.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from agent.checkpoints.checkpoint import inspect_checkpoint, load_decoder
from agent.checkpoints.publish import publish
from agent.engine.tokenizer import Tokenizer
from agent.training.examples import Example
from agent.training.fit import DivergedError, ends_of, planned_steps
from agent.training.jobs import Curve, Place, Trained
from agent.training.optimizer import TrainingSettings
from agent.training.preference import PairExample

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    rank: int = 0
    """Of the LoRA adapter; 0 trains all weights."""
    quantization: Literal["none", "nf4"] = "none"
    """Of the weights under the adapter."""


def trl_sft_job(
    parent_path: str,
    examples: Sequence[Example],
    settings: TrainingSettings,
    adapter: AdapterSettings,
    seed: int,
    place: Place,
) -> Trained:
    """Supervised fine-tuning on texts, their prompts masked. Raises DivergedError."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    def rows(texts: Sequence[Example]) -> Any:
        return Dataset.from_list(
            [
                {
                    "input_ids": list(e.tokens),
                    "labels": [-100] * e.num_prompt + list(e.tokens[e.num_prompt :]),
                }
                for e in texts
            ]
        )

    def trainer(model: Any, tokenizer: Any, scratch: str, common: dict[str, Any]) -> Any:
        config = SFTConfig(output_dir=scratch, max_length=None, **common)
        return SFTTrainer(
            model=model,
            args=config,
            train_dataset=rows(examples),
            processing_class=tokenizer,
            peft_config=_lora(adapter.rank),
        )

    steps = planned_steps(len(examples), settings)
    return _trained(parent_path, trainer, settings, steps, adapter, "sft", seed, place)


def trl_dpo_job(
    parent_path: str,
    pairs: Sequence[PairExample],
    settings: TrainingSettings,
    beta: float,
    adapter: AdapterSettings,
    seed: int,
    place: Place,
) -> Trained:
    """Direct preference optimisation on sibling pairs. Raises DivergedError."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class TokenTrainer(DPOTrainer):
        """Takes rows as they are: an option in mid-text must not be given an end of text."""

        def _prepare_dataset(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
            return dataset

    def trainer(model: Any, tokenizer: Any, scratch: str, common: dict[str, Any]) -> Any:
        data = Dataset.from_list(
            [
                {
                    "prompt_ids": list(p.given),
                    "chosen_ids": list(p.chosen),
                    "rejected_ids": list(p.rejected),
                }
                for p in pairs
            ]
        )
        config = DPOConfig(output_dir=scratch, beta=beta, max_length=None, **common)
        return TokenTrainer(
            model=model,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=_lora(adapter.rank),
        )

    steps = planned_steps(len(pairs), settings)
    return _trained(parent_path, trainer, settings, steps, adapter, "dpo", seed, place)


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


def _trained(
    parent_path: str,
    make: Callable[[Any, Any, str, dict[str, Any]], Any],
    settings: TrainingSettings,
    num_steps: int,
    adapter: AdapterSettings,
    method: str,
    seed: int,
    place: Place,
) -> Trained:
    """Run a trainer, read its loss, merge, publish."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(place.threads)
    import transformers

    parent = inspect_checkpoint(parent_path)
    device = place.chosen_device()
    transformers.set_seed(seed)
    transformers.utils.logging.disable_progress_bar()  # the command has one of its own
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_pretrained(
        parent.path,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        quantization_config=_quantization(adapter, dtype),
    )
    weight_bytes = model.get_memory_footprint()
    tokenizer = _tokenizer(parent.path)
    common = _common(settings, num_steps, device, seed)
    curve = Curve(place)
    with tempfile.TemporaryDirectory(prefix="ratchet-trl-") as scratch:
        trainer = make(model, tokenizer, scratch, common)
        trainer.remove_callback(transformers.PrinterCallback)  # stdout belongs to the command
        trainer.add_callback(_reporting(curve, num_steps))
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        if not losses or not all(torch.isfinite(torch.tensor(losses)).tolist()):
            raise DivergedError(
                f"the loss became {losses[-1] if losses else 'unknown'} in {num_steps} steps",
                "lower training.learning_rate",
            )
        first, last = ends_of(losses)
        report = {
            "method": method,
            "trainer": "trl",
            "lora_rank": adapter.rank,
            "quantization": adapter.quantization,
            "weight_bytes": weight_bytes,
            "num_steps": num_steps,
            "first_loss": first,
            "last_loss": last,
        }
        made = Path(scratch) / "adapter"
        trained = trainer.model
        if adapter.rank:
            trained.save_pretrained(made, safe_serialization=True)
            trained = _merged(parent.path, made)
        decoder = load_decoder(parent)
        wanted = dict(decoder.named_parameters())
        weights = {k: v for k, v in trained.state_dict().items() if k in wanted}
        decoder.load_state_dict(weights, strict=False)
        folder = Path(place.folder)
        child = publish(decoder, parent, folder, "policy", {"report": report, "seed": seed})
        if adapter.rank:
            _keep_adapter(made, folder / f"adapter-{child.version}")
    return Trained(
        "policy",
        child.version,
        str(child.path),
        parent.version,
        child.num_bytes,
        report,
        curve.points,
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
