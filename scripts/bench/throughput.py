"""Tokens a second of our engine, of transformers' generate, and of vLLM in its own environment."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from agent.engine.requests import CompletionRequest
from agent.engine.torch_engine import TorchEngine

PROMPT, NEW = 32, 96
"""Tokens of each text: given, and generated."""

Arm = Callable[[int], float]
"""Tokens a second for a number of texts at once."""


def prompts(num: int, vocab_size: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(num)
    rows = torch.randint(3, vocab_size, (num, PROMPT), generator=generator)
    return [tuple(row) for row in rows.tolist()]


def ours(engine: TorchEngine) -> Arm:
    """Whole texts of a fixed length; nothing is known of the prompts."""

    def run(num: int) -> float:
        engine.forget()
        ends, engine.ends = engine.ends, frozenset()
        rows = prompts(num, engine.network.arch.vocab_size)
        start = time.perf_counter()
        texts = engine.completions(
            [CompletionRequest(row, NEW, 1.0, i) for i, row in enumerate(rows)]
        )
        seconds = time.perf_counter() - start
        engine.ends = ends
        assert all(len(t.generated.tokens) == NEW for t in texts)
        return num * NEW / seconds

    return run


def generate(path: Path) -> Arm:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.generation_config.pad_token_id = 0

    def run(num: int) -> float:
        rows = torch.tensor(prompts(num, model.config.vocab_size))
        torch.manual_seed(0)
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                rows,
                attention_mask=torch.ones_like(rows),
                do_sample=True,
                top_k=0,
                min_new_tokens=NEW,
                max_new_tokens=NEW,
            )
        seconds = time.perf_counter() - start
        assert out.shape == (num, PROMPT + NEW)
        return num * NEW / seconds

    return run


VLLM = """
import json, os, sys, time
os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind",
                  VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR")
def main():
    from vllm import LLM, SamplingParams
    path, prompts, new, repeats = json.loads(sys.stdin.read())
    llm = LLM(model=path, dtype="float32", enforce_eager=True, max_model_len=512, seed=0)
    rates = []
    for _ in range(repeats):
        for rows in prompts:
            llm.reset_prefix_cache()
            parameters = [SamplingParams(temperature=1.0, seed=i, max_tokens=new, ignore_eos=True,
                                         detokenize=False) for i in range(len(rows))]
            start = time.perf_counter()
            llm.generate([{"prompt_token_ids": r} for r in rows], parameters, use_tqdm=False)
            rates.append(len(rows) * new / (time.perf_counter() - start))
    print("RATES " + json.dumps(rates))
main()
"""


def vllm_rates(
    python: str, path: Path, batches: list[int], vocab_size: int, repeats: int
) -> dict[int, list[float]]:
    """Tokens a second by number of texts, measured by vLLM in the environment of `python`."""
    rows = [prompts(num, vocab_size) for num in batches]
    done = subprocess.run(
        [python, "-c", VLLM],
        input=json.dumps([str(path), rows, NEW, repeats]),
        text=True,
        capture_output=True,
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("RATES ")), None)
    if line is None:
        print(done.stderr[-2000:], file=sys.stderr)
        return {}
    rates = json.loads(line.removeprefix("RATES "))
    return {num: rates[i :: len(batches)] for i, num in enumerate(batches)}
