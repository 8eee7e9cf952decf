"""What runs inside an actor: one role, its models by version, and its batched calls.

A call names the weights it wants (`ModelRef`), so a host that was restarted, or that has not seen
a promotion yet, loads them by itself: calls are idempotent and hosts hold nothing that is not in a
checkpoint. Two versions are kept, so that old and new can be compared without reloading.
"""

import gc
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agent.checkpoints.checkpoint import Checkpoint, verify_ref
from agent.checkpoints.model_refs import CHECKER, ModelRef
from agent.checkpoints.weights import load_model
from agent.config.settings import HostingSettings
from agent.engine.backend import RolloutBackend
from agent.engine.draft_choice import Drafter
from agent.engine.drafting import ModelDrafts
from agent.engine.memory import return_freed
from agent.engine.option_ends import Steps
from agent.engine.requests import (
    Completion,
    CompletionRequest,
    Likeliest,
    OptionRequest,
    Options,
    ScoreRequest,
)
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.engine.vllm_engine import VllmEngine
from agent.hosting.work_clock import WorkClock, at_work
from agent.networks.device import LARGE, chosen_device, chosen_dtype, free_bytes
from agent.networks.language_model import LanguageModel
from agent.networks.shared_blocks import SharedBlocks
from agent.pictures.preprocessing import give_pictures
from critics.heads import log_odds

KEPT_MODELS = 2
LOADING = 1.2
"""Of a model's own bytes, to lay it out."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    threads: int = 1
    device: str = "auto"
    """`auto` takes cuda where there is one."""
    dtype: str = "auto"
    """float32, bfloat16, or `auto`: see `chosen_dtype`."""
    engine: str = "torch"
    """Of the policy: torch or vllm."""
    batch_rows: int = 512
    kv_bytes: int = 2**28
    """Of kept prefixes, for each set of weights."""
    shared_folder: str = ""
    """Where processes of this machine hold blocks of equal weights once; empty: each its own."""
    pictures: str = ""
    """Folder of the pictures that problems come with, by digest; empty: there are none."""
    workers: int = 1
    """Hosts of the policy; each answers whole calls, so how many there are changes no answer."""

    @classmethod
    def of(cls, hosting: HostingSettings) -> "HostSettings":
        return cls(
            threads=hosting.threads,
            device=hosting.device,
            dtype=hosting.dtype,
            engine=hosting.engine,
            batch_rows=hosting.batch_rows,
            kv_bytes=hosting.kv_mib * 2**20,
            pictures=str(hosting.pictures_folder),
            workers=hosting.workers,
        )


class Host(ABC):
    """Loads models on demand and keeps the last two."""

    def __init__(
        self, role: str, settings: HostSettings, shared: SharedBlocks | None = None
    ) -> None:
        torch.set_num_threads(settings.threads)
        self.role = role
        self.settings = settings
        self.device = chosen_device(settings.device)
        is_mapped = settings.shared_folder and self.device == "cpu"
        self.shared = shared or SharedBlocks(Path(settings.shared_folder) if is_mapped else None)
        self.clock = WorkClock()
        self.num_calls = 0
        self._models: dict[str, tuple[Checkpoint, Any]] = {}
        self.dtypes: dict[str, str] = {}
        """What each version's weights are held in."""

    @at_work
    def load(self, ref: ModelRef) -> str:
        """Make the weights ready; returns their version. Raises CheckpointError."""
        self._model(ref)
        return ref.version

    def health(self) -> dict[str, Any]:
        return {
            "versions": list(self._models),
            "device": self.device,
            "dtypes": dict(self.dtypes),
            "calls": self.num_calls,
            "busy_s": self.clock.seconds,
        }

    def _model(self, ref: ModelRef) -> Any:
        self.num_calls += 1
        if ref.version in self._models:
            self._models[ref.version] = self._models.pop(ref.version)
            return self._models[ref.version][1]
        checkpoint = verify_ref(ref)
        dtype = chosen_dtype(self.settings.dtype, self.device, ref.header.num_parameters)
        if checkpoint.architecture.megalodon is not None:
            dtype = torch.float32  # averages lose digits in fewer bits
        self._make_room(checkpoint, dtype)
        self.dtypes[ref.version] = str(dtype).removeprefix("torch.")
        loaded = load_model(checkpoint, dtype, self.device)
        loaded.base_version = checkpoint.whole.version
        give_pictures(loaded, checkpoint, self.settings.pictures)
        model = self._wrap(checkpoint, loaded)
        del loaded
        self._models[ref.version] = (checkpoint, model)
        while len(self._models) > KEPT_MODELS:
            self._drop_oldest()
        return_freed()
        return model

    def _make_room(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        """Drop older versions where a GPU cannot hold another beside them. Adapters take little."""
        if checkpoint.num_parameters < LARGE or checkpoint.adapter is not None:
            return
        needed = LOADING * checkpoint.num_parameters * dtype.itemsize
        while self._models and free_bytes(self.device) < needed:
            self._drop_oldest()
            gc.collect()  # engines and their drafters know each other

    def _drop_oldest(self) -> None:
        self._drop(next(iter(self._models)))

    def _drop(self, version: str) -> None:
        """Let go of a version and all that knows its weights."""
        self.dtypes.pop(version, None)
        self._models.pop(version)

    def _blocks(self, checkpoint: Checkpoint) -> SharedBlocks | None:
        """Where blocks are shared: those of large models. In a GPU's memory that is within this
        process, among adapters on one base."""
        return self.shared if checkpoint.num_parameters >= LARGE else None

    def release(self) -> None:
        """Drop large models and all that they have read."""
        if any(checkpoint.num_parameters >= LARGE for checkpoint, _ in self._models.values()):
            self.close()
            gc.collect()  # engines and their drafters know each other
            return_freed()

    def close(self) -> None:
        """Drop all models."""
        self._models.clear()
        self.dtypes.clear()

    @abstractmethod
    def _wrap(self, checkpoint: Checkpoint, model: LanguageModel) -> TorchEngine:
        """The engine that answers this role's calls."""


class GeneratorHost(Host):
    """Hosts the policy or the drafter."""

    def __init__(
        self, role: str, settings: HostSettings, shared: SharedBlocks | None = None
    ) -> None:
        super().__init__(role, settings, shared)
        self._sessions: dict[str, ModelDrafts] = {}
        self._vllm: VllmEngine | None = None

    def _wrap(self, checkpoint: Checkpoint, model: LanguageModel) -> TorchEngine:
        tokenizer = Tokenizer(checkpoint.path)
        settings = self.settings
        return TorchEngine(
            model,
            tokenizer.steps,
            tokenizer.end_ids,
            settings.batch_rows,
            checkpoint.version,
            settings.kv_bytes,
            self._blocks(checkpoint),
        )

    def _engine(self, ref: ModelRef) -> RolloutBackend:
        """The backend with these weights. vLLM keeps one set and changes it between calls; a
        checker, asked in turn with the policy, would have it changed each time."""
        if self.settings.engine != "vllm" or self.role != "policy" or ref.role == CHECKER:
            found: RolloutBackend = self._model(ref)
            return found
        self.num_calls += 1
        if self._vllm is None or self._vllm.version != ref.version:
            checkpoint = verify_ref(ref)
            if self._vllm is None:
                tokenizer = Tokenizer(checkpoint.path)
                self._vllm = VllmEngine(
                    checkpoint, tokenizer.steps, tokenizer.end_ids, device=self.device
                )
            else:
                self._vllm.update_weights(checkpoint, checkpoint.version)
        return self._vllm

    @at_work
    def load(self, ref: ModelRef) -> str:
        return self._engine(ref).version

    @at_work
    def options(self, ref: ModelRef, requests: Sequence[OptionRequest]) -> list[Options]:
        engine = self._engine(ref)
        return engine.options(requests)

    @at_work
    def completions(
        self, ref: ModelRef, requests: Sequence[CompletionRequest], drafter: Drafter | None = None
    ) -> list[Completion]:
        engine = self._engine(ref)
        return engine.completions(requests, drafter)

    @at_work
    def logprobs(self, ref: ModelRef, requests: Sequence[ScoreRequest]) -> list[tuple[float, ...]]:
        engine = self._engine(ref)
        return engine.score(requests)

    @at_work
    def likeliest(
        self, ref: ModelRef, requests: Sequence[ScoreRequest], num: int
    ) -> list[Likeliest]:
        return self._engine(ref).likeliest(requests, num)

    def close(self) -> None:
        super().close()
        self._sessions.clear()

    def _drop(self, version: str) -> None:
        super()._drop(version)
        self._sessions.pop(version, None)

    @at_work
    def draft(
        self,
        ref: ModelRef,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
    ) -> list[list[int]]:
        """Guess how texts go on, with the same noise that the policy will use."""
        engine: TorchEngine = self._model(ref)
        session = self._sessions.get(ref.version)
        if session is None:
            session = ModelDrafts(engine.network, ref.version, self.settings.kv_bytes)
            self._sessions = {ref.version: session}
        return session.draft(requests, done, lengths)


class CriticHost(Host):
    """Hosts a scalar critic. Beginnings of texts that it has read before are not read again."""

    def _wrap(self, checkpoint: Checkpoint, model: LanguageModel) -> TorchEngine:
        settings = self.settings
        return TorchEngine(
            model,
            Steps.none,
            (),
            settings.batch_rows,
            checkpoint.version,
            settings.kv_bytes,
            self._blocks(checkpoint),
        )

    @at_work
    def logits(self, ref: ModelRef, requests: Sequence[ScoreRequest]) -> list[float]:
        """Raw logit of each row: read at its last token, or the log-odds of its judged tokens.

        Rows longer than the context, or with nothing to judge, give NaN.
        """
        engine: TorchEngine = self._model(ref)
        results = [float("nan")] * len(requests)
        longest = engine.network.arch.max_positions
        fitting = (
            [i for i, r in enumerate(requests) if 0 < r.num_given < len(r.tokens) <= longest]
            if not engine.network.is_critic
            else [i for i, r in enumerate(requests) if 0 < len(r.tokens) <= longest]
        )
        if not fitting:
            return results
        if engine.network.is_critic:
            rows = [requests[i].tokens for i in fitting]
            logits = engine.last_logits(rows)[:, 0].tolist()
        else:
            logits = [log_odds(x) for x in engine.tail_logprobs([requests[i] for i in fitting])]
        for i, logit in zip(fitting, logits, strict=True):
            results[i] = logit
        return results
