"""vLLM behind the same door as our own engine. Needs the extra `vllm`.

vLLM keeps prefixes by token ids alone, so its cache is emptied at every change of weights: without
that it goes on answering from the old weights' keys and values. Log-probabilities of generated
tokens are asked for with the tokens, never by reading a generated path again. Drafts, where a
drafter is given, are drawn probabilistically, and above temperature 0 nothing is drafted unless
the self-test passes: the CPU build of vLLM 0.32 writes the temperature into a copy that it then
discards, and fails.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent.checkpoints.checkpoint import Checkpoint
from agent.engine.backend import Capabilities
from agent.engine.draft_choice import Drafter, SelfTest
from agent.engine.enumeration import Enumeration, Partial
from agent.engine.option_ends import Steps
from agent.engine.options import CONTINUATIONS, LEAST_LOGPROB
from agent.engine.requests import (
    Completion,
    CompletionRequest,
    Generated,
    Likeliest,
    OptionRequest,
    Options,
    ScoreRequest,
    refuse_pictures,
)
from agent.engine.selftest import run_selftest
from search.boundary import Boundary
from search.errors import CheckpointError, ResourceError, TaskError, UsageError
from search.settings import ProposalRule
from search.state import Stop

CPU_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class VllmEngine:
    """One policy, and one drafter at most, in a vLLM engine of this process."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        steps: Callable[[Boundary], Steps],
        end_ids: Sequence[int],
        drafter: Checkpoint | None = None,
        draft_tokens: int = 4,
        device: str = "cpu",
    ) -> None:
        """Raises ResourceError where vLLM is not installed, UsageError for another vocabulary."""
        if drafter and drafter.architecture.vocab_size != checkpoint.architecture.vocab_size:
            raise UsageError(
                f"the drafter in {drafter.path} has {drafter.architecture.vocab_size} tokens, "
                f"the policy {checkpoint.architecture.vocab_size}",
                "use a drafter with the policy's own vocabulary",
            )
        self.steps = steps
        self.ends = frozenset(end_ids)
        self.device = device
        self.draft_tokens = draft_tokens
        self.drafter = drafter
        self._open(checkpoint)

    def _open(self, checkpoint: Checkpoint) -> None:
        if checkpoint.adapter is not None:
            raise CheckpointError(
                f"{checkpoint.path} holds adapters, and vLLM is given whole weights here",
                "merge them (`ratchet models merge`), or set hosting.engine to torch",
            )
        if self.device == "cpu":
            for name, value in CPU_SETTINGS.items():
                os.environ.setdefault(name, value)
        try:
            import vllm
        except ImportError as error:
            raise ResourceError(
                "hosting.engine is vllm, but vLLM is not installed",
                "install the extra: pip install '.[vllm]', or set hosting.engine to torch",
            ) from error
        self._vllm = vllm
        self.checkpoint, self.version = checkpoint, checkpoint.version
        self.verdict: SelfTest | None = None
        speculative = None
        if self.drafter is not None:
            speculative = {
                "method": "draft_model",
                "model": str(self.drafter.path),
                "num_speculative_tokens": self.draft_tokens,
                "draft_sample_method": "probabilistic",
            }
        is_cpu = self.device == "cpu"
        self.llm = vllm.LLM(
            model=str(checkpoint.path),
            seed=0,
            enable_prefix_caching=True,
            max_logprobs=-1,
            dtype="float32" if is_cpu else "bfloat16",
            enforce_eager=is_cpu,
            max_model_len=checkpoint.architecture.max_positions,
            speculative_config=speculative,
        )

    @property
    def capabilities(self) -> Capabilities:
        modes: frozenset[ProposalRule] = frozenset(("distinct", "sampled"))
        return Capabilities("vllm", modes, self.checkpoint.architecture.max_positions)

    def update_weights(self, source: Checkpoint, version: str) -> None:
        """Go on with other weights, and with an empty cache.

        The engine is built anew where weights cannot be changed in place: with a drafter, which
        changes too, and on a CPU, where vLLM 0.32 goes on multiplying by packed copies of the old.
        """
        is_fixed = self.device == "cpu" or self.drafter is not None
        if is_fixed or source.architecture != self.checkpoint.architecture:
            del self.llm
            self._open(source)
            return
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(source.path)})
        if not self.llm.reset_prefix_cache():
            raise ResourceError(
                "vLLM did not empty its cache after the change of weights",
                "requests are still under way; send the call again when they have ended",
            )
        self.checkpoint, self.version = source, version
        self.verdict = None

    def _generate(self, rows: Sequence[Sequence[int]], parameters: Sequence[Any]) -> list[Any]:
        prompts = [{"prompt_token_ids": list(row)} for row in rows]
        return list(self.llm.generate(prompts, list(parameters), use_tqdm=False))

    def _room(self, prefix: Sequence[int], max_tokens: int) -> int:
        longest = self.checkpoint.architecture.max_positions
        if not prefix or len(prefix) >= longest:
            raise TaskError(
                f"the prompt has {len(prefix)} tokens; this policy's context holds {longest} "
                "with the answer",
                "shorten the problem or use a policy with a longer context",
            )
        return min(max_tokens, longest - len(prefix))

    def completions(
        self, requests: Sequence[CompletionRequest], drafter: Drafter | None = None
    ) -> list[Completion]:
        """Complete prefixes to the end of the text; drafts are the engine's own.

        Raises UsageError above temperature 0 when there is a drafter and the self-test fails.
        """
        refuse_pictures(r.prefix for r in requests)
        if self.drafter is not None and any(r.temperature for r in requests):
            self._prove()
        return [Completion(g) for g in self._texts(requests, self.ends)]

    def _texts(
        self, requests: Sequence[CompletionRequest], ends: frozenset[int]
    ) -> list[Generated]:
        parameters = [
            self._vllm.SamplingParams(
                temperature=r.temperature,
                top_k=r.top_k,
                top_p=r.top_p,
                min_p=r.min_p,
                seed=r.seed % 2**63,
                max_tokens=self._room(r.prefix, r.max_tokens),
                logprobs=0,
                ignore_eos=True,
                stop_token_ids=sorted(ends),
                detokenize=False,
            )
            for r in requests
        ]
        return [
            self._generated(out.outputs[0], request)
            for out, request in zip(
                self._generate([r.prefix for r in requests], parameters), requests, strict=True
            )
        ]

    def _generated(self, output: Any, request: CompletionRequest) -> Generated:
        tokens = tuple(output.token_ids)
        logprobs = tuple(
            float(found[t].logprob) for t, found in zip(tokens, output.logprobs, strict=True)
        )
        is_raw = request.temperature == 1 and (request.top_k, request.top_p, request.min_p) == (
            0,
            1.0,
            0.0,
        )
        distribution = (
            logprobs if is_raw else (0.0,) * len(tokens) if not request.temperature else ()
        )
        stop: Stop = "end" if tokens and tokens[-1] in self.ends else "length"
        return Generated(tokens, logprobs, stop, distribution, self.version)

    def _prove(self) -> None:
        if self.verdict is None:
            self.verdict = self.selftest()
        if not self.verdict.is_passed:
            raise UsageError(
                "vLLM may not draft above temperature 0: its self-test failed, "
                + self.verdict.describe(),
                "leave the drafter out (hosting.speculation never) or use hosting.engine torch",
            )

    def selftest(self, drafter: Drafter | None = None) -> SelfTest:
        """Texts after one token against their exact distribution, drafted if there is a drafter."""
        own, self.drafter = self.drafter, None  # the test itself may draft
        try:
            return run_selftest(self, (max(self.ends),))
        finally:
            self.drafter = own

    def next_logprobs(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """log p(next token | row) at temperature 1, [N, V]."""
        size = self.checkpoint.architecture.vocab_size
        found = torch.full((len(rows), size), float("-inf"))
        for i, top in enumerate(self._tops(rows, -1)):
            for token, logprob in top:
                found[i, token] = logprob
        return found

    def _tops(self, rows: Sequence[Sequence[int]], num: int) -> list[list[tuple[int, float]]]:
        """Most probable next tokens and their log-probabilities, best first; -1: all."""
        one = self._vllm.SamplingParams(
            temperature=0, max_tokens=1, logprobs=num, detokenize=False, ignore_eos=True
        )
        return [
            sorted(
                ((t, float(x.logprob)) for t, x in out.outputs[0].logprobs[0].items()),
                key=lambda pair: -pair[1],
            )
            for out in self._generate(rows, [one] * len(rows))
        ]

    def options(self, requests: Sequence[OptionRequest]) -> list[Options]:
        """Answer requests; `drawn` ones need noise on the whole vocabulary and are refused."""
        refuse_pictures(r.prefix for r in requests)
        answers: dict[int, Options] = {}
        groups: dict[tuple[str, str], list[int]] = {}
        for i, r in enumerate(requests):
            groups.setdefault((r.mode, r.boundary.name), []).append(i)
        for (mode, _), chosen in groups.items():
            if mode not in self.capabilities.modes:
                raise UsageError(
                    f"search.proposal is {mode!r}, which vLLM cannot answer",
                    "set search.proposal to distinct or sampled, or hosting.engine to torch",
                )
            ask = self._distinct if mode == "distinct" else self._sampled
            found = ask([requests[i] for i in chosen])
            answers.update(zip(chosen, found, strict=True))
        return [answers[i] for i in range(len(requests))]

    def _distinct(self, requests: Sequence[OptionRequest]) -> list[Options]:
        """One enumeration a request, fed together; vLLM's cache keeps what they share."""
        works = [Enumeration(self._limit(r), self._stop_of(r)) for r in requests]
        fed: list[tuple[int, Partial]] = [(i, Partial((), (), 0.0, 0)) for i in range(len(works))]
        while fed:
            rows = [(*requests[i].prefix, *partial.tokens) for i, partial in fed]
            tops = self._tops(rows, min(CONTINUATIONS, self.checkpoint.architecture.vocab_size))
            for (i, partial), top in zip(fed, tops, strict=True):
                kept = [(t, lp) for t, lp in top if partial.score + lp >= LEAST_LOGPROB]
                logprobs = np.array([lp for _, lp in kept])
                tokens = np.array([t for t, _ in kept], np.int64)
                works[i].fed(partial, partial.score + logprobs, tokens, logprobs)
            fed = [
                (i, partial)
                for i, (work, r) in enumerate(zip(works, requests, strict=True))
                for partial in work.next(r.count)
            ]
        return [
            Options(
                tuple(
                    Generated(option.tokens, option.logprobs, option.stop, version=self.version)
                    for option in work.best(r.count, by_logprob=True)
                ),
                work.spent(r.count) - work.spent(r.known),
            )
            for work, r in zip(works, requests, strict=True)
        ]

    def _limit(self, request: OptionRequest) -> int:
        return self.steps(request.boundary).limit(self._room(request.prefix, request.max_tokens))

    def _stop_of(self, request: OptionRequest) -> Callable[[Sequence[int]], Stop | None]:
        steps = self.steps(request.boundary)

        def stop_of(tokens: Sequence[int]) -> Stop | None:
            if tokens[-1] in self.ends:
                return "end"
            return "boundary" if steps.ends(tokens) else None

        return stop_of

    def _sampled(self, requests: Sequence[OptionRequest]) -> list[Options]:
        asked = [
            CompletionRequest(r.prefix, self._limit(r), r.temperature, r.seed + 7919 * k)
            for r in requests
            for k in range(r.count)
        ]
        steps = self.steps(requests[0].boundary)
        # A token that may end an option but need not must not end the text.
        ends = self.ends | (steps.ids if steps.boundary.ends is None else frozenset())
        texts = iter(self._texts(asked, ends))
        answers: list[Options] = []
        for request in requests:
            stop_of = self._stop_of(request)
            group = [self._cut(next(texts), stop_of) for _ in range(request.count)]
            spent = sum(len(g.tokens) for g in group[request.known :])
            answers.append(Options(tuple(group), spent))
        return answers

    @staticmethod
    def _cut(text: Generated, stop_of: Callable[[Sequence[int]], Stop | None]) -> Generated:
        """The text up to its first whole option."""
        for end in range(1, len(text.tokens) + 1):
            if (stop := stop_of(text.tokens[:end])) is not None:
                return Generated(
                    text.tokens[:end],
                    text.logprobs[:end],
                    stop,
                    text.processed_logprobs[:end],
                    text.version,
                )
        return text

    def score(self, requests: Sequence[ScoreRequest]) -> list[tuple[float, ...]]:
        """Log-probability of each token after the first `num_given`, given those before it."""
        refuse_pictures(r.tokens for r in requests)
        one = self._vllm.SamplingParams(
            temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False
        )
        outs = self._generate([r.tokens for r in requests], [one] * len(requests))
        return [
            tuple(
                float(out.prompt_logprobs[k][r.tokens[k]].logprob)
                for k in range(max(1, r.num_given), len(r.tokens))
            )
            for out, r in zip(outs, requests, strict=True)
        ]

    def likeliest(self, requests: Sequence[ScoreRequest], num: int) -> list[Likeliest]:
        """In the place of each token that `score` would score the `num` most probable tokens."""
        refuse_pictures(r.tokens for r in requests)
        one = self._vllm.SamplingParams(
            temperature=0, max_tokens=1, prompt_logprobs=num, detokenize=False
        )
        outs = self._generate([r.tokens for r in requests], [one] * len(requests))
        return [
            tuple(
                _most_probable(out.prompt_logprobs[k], num)
                for k in range(max(1, r.num_given), len(r.tokens))
            )
            for out, r in zip(outs, requests, strict=True)
        ]


def _most_probable(found: Any, num: int) -> tuple[tuple[int, float], ...]:
    """Of what vLLM tells of one place, which has the given token besides."""
    pairs = sorted(((int(t), float(x.logprob)) for t, x in found.items()), key=lambda p: -p[1])
    return tuple(pairs[:num])
