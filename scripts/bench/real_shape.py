"""The loop on an ordinary checkpoint through TRL and PEFT: LoRA SFT and DPO, QLoRA, then serving.

    python -m scripts.bench.real_shape                       # generated GSM8K-form rows
    python -m scripts.bench.real_shape --problems train.jsonl --rows 200
    python -m scripts.bench.real_shape --json real.json

A Llama with random weights and a byte-level BPE of its own problems is taken through a whole round
for each arm: searches, stored trees, selection, 20 steps of TRL with a LoRA adapter, merged
weights published, evaluated, and asked for a text by the engine. It shows that the machinery
carries real checkpoints and that the loss falls; a random model learns nothing worth having here.
`qlora` is SFT with the weights under the adapter in four bits. About two minutes on one core;
`pip install -e '.[trl]'` first.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from agent.checkpoints.custody import stored_refs
from agent.config.load import load_config
from agent.engine.requests import CompletionRequest
from agent.hosting.model_host import GeneratorHost, HostSettings
from agent.networks.architecture import Architecture
from agent.networks.llama import Decoder
from agent.progress import Silent
from agent.rounds.run import Improver
from agent.tasks.stories import Stories
from scripts.bench.report import missing, show, write
from scripts.embedded_policy import bytes_tokenizer
from store.checkpoints import checkpoints_of
from store.schema import Round


def generated(file: Path, num: int) -> None:
    """Word problems in GSM8K's form."""
    lines = []
    for d in Stories().demonstrations(num, 7):
        worked = "".join(f"<<{s.strip()}>>\n" for s in d.steps[:-1])
        row = {"question": d.problem.text, "answer": f"{worked}#### {d.problem.answer}"}
        lines.append(json.dumps(row))
    file.write_text("\n".join(lines) + "\n")


def random_llama(path: Path, texts: list[str]) -> Path:
    """A transformers directory of a Llama with random weights."""
    path.mkdir(parents=True)
    fast = bytes_tokenizer(texts, 512)
    ends = [f"<end{i}>" for i in range(64)]
    fast.add_special_tokens(ends)
    fast.save(str(path / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fast.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": None,
        # Random texts would hardly ever end; with many ways to end, trees have whole texts.
        "eos_token_id": [1, *(fast.token_to_id(name) for name in ends)],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "dtype": "float32",
    }
    (path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    decoder = Decoder(Architecture.from_config(config))
    for parameter in decoder.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.08)
    tensors = {k: v.detach().clone() for k, v in decoder.named_parameters()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


ARMS: dict[str, dict[str, str]] = {
    "sft": {"training.method": "sft"},
    "dpo": {"training.method": "dpo"},
    "qlora": {"training.method": "sft", "training.quantization": "nf4"},
}


def one_round(arm: str, file: Path, policy: Path, folder: Path) -> dict[str, Any]:
    """A whole round by one arm; what its policy's job reported, and a text that it serves."""
    config, _ = load_config(
        {
            "task": "jsonl",
            "problems": str(file),
            "policy": str(policy),
            "store": f"sqlite:///{folder}/store.db",
            "checkpoints": f"{folder}/checkpoints",
            "hosting.hosting": "inline",
            "hosting.text_tokens": 40,
            "hosting.option_tokens": 16,
            "hosting.speculation": "never",
            "problems_per_round": 40,
            "num_seeds": 60,
            "search.simulations": 8,
            "search.rollout_temperature": 1.0,
            "tokens_per_problem": 400,
            "selection.must_answer": False,
            "selection.must_be_sound": False,
            "critics.num_labelled": 8,
            "critics.samples": 2,
            "critics.steps": 2,
            "critics.min_auc": 0.0,
            "training.trainer": "trl",
            "training.lora_rank": 8,
            "training.num_steps": 20,
            "training.batch_size": 8,
            "training.min_margin": 0.0,
            "training.learning_rate": 1e-2,
            "training.drafter_steps": 0,
            "training.max_epochs": 50,
            "evaluation.num_problems": 10,
            "evaluation.num_search_problems": 0,
        }
        | ARMS[arm]
    )
    started = time.monotonic()
    with Improver(config, Silent()).started() as improver:
        outcome = improver.run_round()
        with improver.store.session() as session:
            row = session.get_one(Round, 1)
            if not row.candidates:
                return {"why": outcome.verdict.get("reason", "no candidate")}
            version = row.candidates["policy"]
            report = dict(checkpoints_of(session, {"policy": version})["policy"].report)
        ref = stored_refs(improver.store, {"policy": version})["policy"]
    host = GeneratorHost("policy", HostSettings(device="cpu"))
    (text,) = host.completions(ref, [CompletionRequest((5, 6, 7), 8, 0.0)])
    adapters = list((folder / "checkpoints").glob(f"adapter-{ref.version}/*.safetensors"))
    return report | {
        "seconds": time.monotonic() - started,
        "served": len(text.generated.tokens),
        "adapters": len(adapters),
        "stage": outcome.stage,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=Path, help="JSONL in GSM8K's form; default: generated")
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file = folder / "problems.jsonl"
        if arguments.problems:
            lines = arguments.problems.read_text(encoding="utf-8").splitlines()[: arguments.rows]
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            generated(file, arguments.rows)
        policy = random_llama(folder / "policy", file.read_text().splitlines())
        for arm in ARMS:
            found = one_round(arm, file, policy, folder / arm)
            if "why" in found:
                rows.append(missing(f"{arm}_last_loss", found["why"]))
                show(rows[-1])
                continue
            rows += [
                {
                    "name": f"{arm}_last_loss",
                    "value": found["last_loss"],
                    "unit": "nats",
                    "n": found["num_steps"],
                    "baseline": f"first loss {found['first_loss']:.3f}",
                },
                {
                    "name": f"{arm}_weights",
                    "value": found["weight_bytes"],
                    "unit": "bytes",
                    "n": 1,
                    "baseline": "in training",
                },
                {
                    "name": f"{arm}_served",
                    "value": found["served"],
                    "unit": "tokens",
                    "n": 1,
                    "baseline": f"{found['adapters']} adapter kept, round {found['stage']}",
                },
                {
                    "name": f"{arm}_seconds",
                    "value": found["seconds"],
                    "unit": "s",
                    "n": 1,
                    "baseline": "a whole round",
                },
            ]
            for row in rows[-4:]:
                show(row)
    used = {"problems": arguments.problems.name if arguments.problems else "generated"}
    write(arguments.json, "real_shape", used, [0], rows)


if __name__ == "__main__":
    main()
