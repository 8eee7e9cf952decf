"""What runs inside an actor: one role, its models by version, and its batched calls.

A call names the weights it wants (`ModelRef`), so a host that was restarted, or that has not seen
a promotion yet, loads them by itself: calls are idempotent and hosts hold nothing that is not in a
checkpoint. Two versions are kept, so that old and new can be compared without reloading.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agent.engine.batch import padded
from agent.engine.checkpoint import Checkpoint, inspect_checkpoint, load_decoder
from agent.engine.decoder import Decoder
from agent.engine.requests import LineRequest, Lines, Text, TextRequest
from agent.engine.speculative import Costs, Drafter, DraftSource, measure
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from kernels import dispatch
from search.errors import CheckpointError, ResourceError

ROLES = ("policy", "drafter", "value", "process", "outcome")
KEPT_MODELS = 2


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which weights: role, digest, and where they lie."""

    role: str
    version: str
    path: str


@dataclass(frozen=True, slots=True)
class HostSettings:
    threads: int = 1
    device: str = "auto"
    """`auto` takes cuda where there is one."""
    batch_rows: int = 512
    draft_tokens: int = 4
    workers: int = 1
    """Hosts of the policy; each answers whole calls, so how many there are changes no answer."""

    def chosen_device(self) -> str:
        """Raises ResourceError for a device that this machine lacks."""
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ResourceError(
                f"device {self.device!r} is asked for, but this machine has no CUDA device",
                "leave hosting.device at auto, or set it to cpu",
            )
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


class Host:
    """Loads models on demand and keeps the last two."""

    def __init__(self, role: str, settings: HostSettings) -> None:
        torch.set_num_threads(settings.threads)
        self.role = role
        self.settings = settings
        self.device = settings.chosen_device()
        self.started = time.monotonic()
        self.num_calls = 0
        self._models: dict[str, tuple[Checkpoint, Any]] = {}

    def load(self, ref: ModelRef) -> str:
        """Make the weights ready; returns their version. Raises CheckpointError."""
        self._model(ref)
        return ref.version

    def health(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "versions": list(self._models),
            "device": self.device,
            "calls": self.num_calls,
            "up_s": round(time.monotonic() - self.started, 1),
        }

    def _model(self, ref: ModelRef) -> Any:
        self.num_calls += 1
        if ref.version in self._models:
            self._models[ref.version] = self._models.pop(ref.version)
            return self._models[ref.version][1]
        checkpoint = inspect_checkpoint(ref.path)
        if checkpoint.version != ref.version:
            raise CheckpointError(
                f"the weights in {ref.path} are {checkpoint.version}, not {ref.version}",
                "the files changed after they were registered; restore them",
            )
        dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        model = self._wrap(checkpoint, load_decoder(checkpoint, dtype, self.device))
        self._models[ref.version] = (checkpoint, model)
        while len(self._models) > KEPT_MODELS:
            self._models.pop(next(iter(self._models)))
        return model

    def _wrap(self, checkpoint: Checkpoint, decoder: Decoder) -> Any:
        return decoder


class GeneratorHost(Host):
    """Hosts the policy or the drafter."""

    def _wrap(self, checkpoint: Checkpoint, decoder: Decoder) -> TorchEngine:
        tokenizer = Tokenizer(checkpoint.path)
        if tokenizer.vocab_size > checkpoint.architecture.vocab_size:
            raise CheckpointError(
                f"the tokenizer in {checkpoint.path} has {tokenizer.vocab_size} tokens, the model "
                f"{checkpoint.architecture.vocab_size}",
                "use tokenizer and weights of the same model",
            )
        return TorchEngine(decoder, tokenizer.steps, tokenizer.end_ids, self.settings.batch_rows)

    def lines(self, ref: ModelRef, requests: Sequence[LineRequest]) -> list[Lines]:
        engine: TorchEngine = self._model(ref)
        return engine.lines(requests)

    def texts(
        self, ref: ModelRef, requests: Sequence[TextRequest], drafter: Drafter | None = None
    ) -> list[Text]:
        engine: TorchEngine = self._model(ref)
        texts = engine.texts(requests, drafter)
        if drafter is not None:
            drafted = sum(t.num_drafted for t in texts)
            accepted = sum(t.num_accepted for t in texts)
            if drafted:
                drafter.acceptance += 0.2 * (accepted / drafted - drafter.acceptance)
        return texts

    def draft(
        self,
        ref: ModelRef,
        requests: Sequence[TextRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
    ) -> list[list[int]]:
        """Guess how texts go on, with the same noise that the policy will use."""
        wanted = [i for i, length in enumerate(lengths) if length > 0]
        engine: TorchEngine = self._model(ref)
        found: list[list[int]] = [[] for _ in requests]
        if not wanted:
            return found
        with torch.inference_mode():
            rows = engine.continue_texts(
                [requests[i] for i in wanted],
                [tuple(done[i]) for i in wanted],
                max(lengths[i] for i in wanted),
            )
        for i, row in zip(wanted, rows, strict=True):
            found[i] = row[: lengths[i]]
        return found

    def measure_costs(
        self, ref: ModelRef, source: DraftSource, rows: Sequence[int]
    ) -> dict[int, Costs]:
        """Cost table for speculation: this policy against that drafter, by number of rows."""
        engine: TorchEngine = self._model(ref)
        length = min(32, engine.decoder.arch.max_positions // 2)
        start = tuple([max(engine.ends)] * length)
        table: dict[int, Costs] = {}
        for num in rows:
            requests = [TextRequest(start, 8, 1.0, i) for i in range(num)]
            done: list[list[int]] = [[] for _ in requests]
            g = self.settings.draft_tokens
            step, verify = engine.step_runner(requests, 1), engine.step_runner(requests, g + 1)

            def draft(r: Any = requests, d: Any = done, k: int = g) -> None:
                source.draft(r, d, [k] * len(r))

            table[num] = measure({"step": step, "verify": verify, "draft": draft})
        return table


class CriticHost(Host):
    """Hosts a scalar critic."""

    def scores(self, ref: ModelRef, rows: Sequence[tuple[int, ...]]) -> list[float]:
        """Raw logit at the last token of each row. Longer rows than the context give NaN."""
        decoder: Decoder = self._model(ref)
        if not decoder.is_critic:
            raise CheckpointError(
                f"{ref.path} is no critic", "give a checkpoint with a scalar score head"
            )
        results = [float("nan")] * len(rows)
        fitting = [i for i, r in enumerate(rows) if 0 < len(r) <= decoder.arch.max_positions]
        fitting.sort(key=lambda i: len(rows[i]))
        size = max(1, self.settings.batch_rows // 4)
        for start in range(0, len(fitting), size):
            part = fitting[start : start + size]
            tokens_BT, lengths_B = padded([rows[i] for i in part])
            with torch.inference_mode():
                hidden = decoder(tokens_BT.to(self.device))
                logits = dispatch.critic_head(
                    hidden,
                    decoder.score.weight[0],
                    torch.arange(len(part), device=self.device),
                    lengths_B.to(self.device) - 1,
                )
            for i, logit in zip(part, logits.float().tolist(), strict=True):
                results[i] = logit
        return results


def make_host(role: str, settings: HostSettings) -> Host:
    return (GeneratorHost if role in ("policy", "drafter") else CriticHost)(role, settings)


@dataclass(slots=True)
class CalledDrafter:
    """A drafter behind any callable: in this process, or another actor's method."""

    call: Callable[..., list[list[int]]]
    ref: ModelRef

    def draft(
        self, requests: Sequence[TextRequest], done: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> list[list[int]]:
        return self.call(self.ref, requests, done, lengths)


def reference(path: Path | str, role: str) -> ModelRef:
    """The ModelRef of a checkpoint directory. Raises CheckpointError."""
    checkpoint = inspect_checkpoint(path)
    return ModelRef(role, checkpoint.version, str(Path(path).resolve()))
