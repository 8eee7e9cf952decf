"""Batched generation in plain torch: many prefixes, many rows of each, one forward a token.

Shapes: N prefixes, K rows of a prefix (beams), Q tokens a step, T prefix tokens, V vocabulary.
Rows that end are dropped from the batch, so long texts do not keep short ones waiting.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agent.engine.batch import padded
from agent.engine.decoder import Decoder, Prefix, Suffix
from agent.engine.requests import Generated, LineRequest, Lines, Text, TextRequest
from agent.engine.speculative import Drafter, accept, draft_length
from kernels.noise import gumbel
from search.errors import TaskError
from search.state import Stop

_NEVER = float("-inf")
LEAST_LOGPROB = -12.0
"""Lines less probable than this (6 in a million) are not proposed: a beam is not fed for them."""


class TorchEngine:
    """Generation by one decoder. Stops a line at `boundary_ids`, a text at `end_ids`."""

    def __init__(
        self,
        decoder: Decoder,
        boundary_ids: Sequence[int],
        end_ids: Sequence[int],
        batch_rows: int = 512,
    ) -> None:
        self.decoder = decoder
        self.device = decoder.model.norm.weight.device
        self.batch_rows = batch_rows
        size = decoder.arch.vocab_size
        self._is_boundary = torch.zeros(size, dtype=torch.bool, device=self.device)
        self._is_boundary[list(boundary_ids)] = True
        self._is_end = torch.zeros(size, dtype=torch.bool, device=self.device)
        self._is_end[list(end_ids)] = True
        self._end_ids = frozenset(end_ids)
        self.boundary = frozenset(boundary_ids)

    def check_length(self, prefix: Sequence[int], max_tokens: int) -> int:
        """Tokens that may follow the prefix. Raises TaskError when none may."""
        room = self.decoder.arch.max_positions - len(prefix)
        if room < 1 or not prefix:
            raise TaskError(
                f"the prompt has {len(prefix)} tokens; this policy's context holds "
                f"{self.decoder.arch.max_positions} with the answer",
                "shorten the problem or use a policy with a longer context",
            )
        return min(room, max_tokens)

    @torch.inference_mode()
    def lines(self, requests: Sequence[LineRequest]) -> list[Lines]:
        """Answer line requests, in batches of at most `batch_rows` rows."""
        answers: dict[int, Lines] = {}
        for temperature in sorted({r.temperature for r in requests}):
            for count in sorted({r.count for r in requests if r.temperature == temperature}):
                group = [i for i, r in enumerate(requests)
                         if r.count == count and r.temperature == temperature]  # fmt: skip
                size = max(1, self.batch_rows // count)
                for start in range(0, len(group), size):
                    part = group[start : start + size]
                    chosen = [requests[i] for i in part]
                    found = (
                        self._beams(chosen, count)
                        if temperature == 0
                        else self._sampled_lines(chosen, count)
                    )
                    answers.update(zip(part, found, strict=True))
        return [answers[i] for i in range(len(requests))]

    def _prefill(self, prefixes: Sequence[Sequence[int]]) -> tuple[Prefix, Tensor]:
        """Keys and values of all but each prefix's last token; that token [N] starts decoding."""
        tokens_NT, lengths_N = padded(prefixes)
        tokens_NT, lengths_N = tokens_NT.to(self.device), lengths_N.to(self.device)
        last_N = tokens_NT.gather(1, lengths_N[:, None] - 1)[:, 0]
        width = max(1, tokens_NT.shape[1] - 1)
        return self.decoder.prefill(tokens_NT[:, :width], lengths_N - 1), last_N

    def _beams(self, requests: Sequence[LineRequest], count: int) -> list[Lines]:
        """Beam search over the tokens of one line: the `count` most probable that it finds.

        Log-probabilities only fall as a line grows, so a prefix is done when its count-th best
        finished line is at least as probable as its best unfinished one.
        """
        N, K = len(requests), count
        V = self.decoder.arch.vocab_size
        limit = max(self.check_length(r.prefix, r.max_tokens) for r in requests)
        prefix, last_N = self._prefill([r.prefix for r in requests])
        suffix = self.decoder.new_suffix(N, K)
        tokens_NK1 = last_N[:, None, None].expand(N, K, 1)
        score_NK = torch.full((N, K), _NEVER, device=self.device)
        score_NK[:, 0] = 0.0
        history = torch.empty((N, K, 0), dtype=torch.long, device=self.device)
        steps = torch.empty((N, K, 0), device=self.device)
        finished: list[list[tuple[float, Generated]]] = [[] for _ in range(N)]
        spent = [0] * N
        live = torch.arange(N, device=self.device)
        for step in range(limit):
            logits_NKV = self.decoder.decode(tokens_NK1, prefix, suffix)[:, :, 0].float()
            logprob_NKV = torch.log_softmax(logits_NKV, dim=-1).nan_to_num(_NEVER)
            suffix.position_NK += 1
            rows = len(live)
            total = (score_NK[:, :, None] + logprob_NKV).view(rows, K * V)
            # Up to K ended candidates may stand before the K that go on.
            score_NC, flat_NC = total.topk(min(2 * K, K * V), dim=1)
            score_NC = score_NC.masked_fill(score_NC < LEAST_LOGPROB, _NEVER)
            beam_NC, token_NC = flat_NC // V, flat_NC % V
            stops_NC = self._is_boundary[token_NC] | self._is_end[token_NC]
            is_last = step + 1 == limit
            self._collect(
                live, score_NC, beam_NC, token_NC, stops_NC, is_last, K, history, steps,
                logprob_NKV, finished,
            )  # fmt: skip
            for n in live.tolist():
                spent[n] += int(K if step else 1)
            score_NK, place_NK = score_NC.masked_fill(stops_NC, _NEVER).topk(K, dim=1)
            beam_NK, token_NK = beam_NC.gather(1, place_NK), token_NC.gather(1, place_NK)
            suffix.reorder(beam_NK)
            picked = logprob_NKV.view(rows, K * V).gather(1, beam_NK * V + token_NK)
            history = torch.cat(
                (history.gather(1, beam_NK[..., None].expand(-1, -1, step)), token_NK[..., None]), 2
            )
            steps = torch.cat(
                (steps.gather(1, beam_NK[..., None].expand(-1, -1, step)), picked[..., None]), 2
            )
            best_open = score_NK[:, 0].tolist()
            keep = [
                i for i, n in enumerate(live.tolist())
                if best_open[i] > _NEVER and (
                    len(finished[n]) < K or sorted(s for s, _ in finished[n])[-K] < best_open[i]
                )
            ]  # fmt: skip
            if not keep:
                break
            index = torch.tensor(keep, device=self.device)
            if len(keep) < rows:
                prefix, suffix, live = prefix.take(index), suffix.take(index), live[index]
                score_NK, token_NK = score_NK[index], token_NK[index]
                history, steps = history[index], steps[index]
            tokens_NK1 = token_NK[..., None]
        return [
            Lines(tuple(g for _, g in sorted(f, key=lambda x: -x[0])[:K]), spent[n])
            for n, f in enumerate(finished)
        ]

    def _collect(
        self, live: Tensor, score_NC: Tensor, beam_NC: Tensor, token_NC: Tensor, stops_NC: Tensor,
        is_last: bool, count: int, history: Tensor, steps: Tensor, logprob_NKV: Tensor,
        finished: list[list[tuple[float, Generated]]],
    ) -> None:  # fmt: skip
        """Note the candidates that end here, unless `count` better ones have ended already."""
        ends = (stops_NC | is_last) & (score_NC > _NEVER)
        # A line that `count` better ones of the same step outrank can still be wanted, one that
        # `count` finished ones outrank cannot.
        for i, c in ends.nonzero().tolist():
            n, beam, token = int(live[i]), int(beam_NC[i, c]), int(token_NC[i, c])
            score = float(score_NC[i, c])
            better = sum(s >= score for s, _ in finished[n])
            if better >= count:
                continue
            stop = self._stop_of(token) or "length"
            finished[n].append((
                score,
                Generated(
                    (*history[i, beam].tolist(), token),
                    (*steps[i, beam].tolist(), float(logprob_NKV[i, beam, token])),
                    stop,
                ),
            ))  # fmt: skip

    def _stop_of(self, token: int) -> Stop | None:
        if token in self._end_ids:
            return "end"
        return "boundary" if token in self.boundary else None

    def _sampled_lines(self, requests: Sequence[LineRequest], count: int) -> list[Lines]:
        texts = self._generate(
            [
                TextRequest(r.prefix, r.max_tokens, r.temperature, r.seed + 7919 * k)
                for r in requests
                for k in range(count)
            ],
            None,
            stops_at_boundary=True,
        )
        groups = [texts[i : i + count] for i in range(0, len(texts), count)]
        return [
            Lines(
                tuple(t.generated for t in group if not t.error),
                sum(len(t.generated.tokens) for t in group),
            )
            for group in groups
        ]

    @torch.inference_mode()
    def texts(self, requests: Sequence[TextRequest], drafter: Drafter | None = None) -> list[Text]:
        """Complete prefixes to the end of the text. A drafter changes the speed, not the text."""
        found: list[Text] = []
        for start in range(0, len(requests), self.batch_rows):
            found += self._generate(requests[start : start + self.batch_rows], drafter)
        return found

    def _generate(
        self,
        requests: Sequence[TextRequest],
        drafter: Drafter | None,
        stops_at_boundary: bool = False,
    ) -> list[Text]:
        N = len(requests)
        limits = [self.check_length(r.prefix, r.max_tokens) for r in requests]
        prefix, last_N = self._prefill([r.prefix for r in requests])
        suffix: Suffix = self.decoder.new_suffix(N, 1)
        seeds_N = torch.tensor([r.seed for r in requests], device=self.device)
        heat_N = torch.tensor([r.temperature for r in requests], device=self.device)
        done: list[list[int]] = [[] for _ in range(N)]
        logprobs: list[list[float]] = [[] for _ in range(N)]
        errors, drafted, accepted = [""] * N, [0] * N, [0] * N
        live = list(range(N))
        tokens_N1 = last_N[:, None]
        while live:
            drafts: list[list[int]] = [[] for _ in live]
            if drafter is not None and (g := draft_length(drafter, len(live))):
                drafts = drafter.draft(
                    [requests[n] for n in live], [done[n] for n in live],
                    [min(g, limits[n] - len(done[n]) - 1) for n in live],
                )  # fmt: skip
            Q = 1 + max(len(d) for d in drafts)
            step_NQ = torch.zeros((len(live), Q), dtype=torch.long, device=self.device)
            step_NQ[:, 0] = tokens_N1[:, 0]
            for i, draft in enumerate(drafts):
                step_NQ[i, 1 : 1 + len(draft)] = torch.tensor(draft, dtype=torch.long)
            logits_NQV = self.decoder.decode(step_NQ[:, None], prefix, suffix)[:, 0].float()
            logprob_NQV = torch.log_softmax(logits_NQV, dim=-1)
            choice_NQ = choose(logprob_NQV, heat_N, seeds_N, suffix.position_NK)
            counts = accept(drafts, choice_NQ)
            picked_NQ = logprob_NQV.gather(2, choice_NQ[..., None])[..., 0].tolist()
            is_bad = (~torch.isfinite(logits_NQV).all(dim=(1, 2))).tolist()
            choices = choice_NQ.tolist()
            keep: list[int] = []
            for i, n in enumerate(live):
                drafted[n] += len(drafts[i])
                accepted[n] += counts[i]
                if is_bad[i]:
                    errors[n] = "the policy's logits are not finite"
                    continue
                is_over = False
                for token, logprob in zip(choices[i][: counts[i] + 1], picked_NQ[i], strict=False):
                    done[n].append(token)
                    logprobs[n].append(logprob)
                    stop = self._stop_of(token)
                    is_over = (
                        stop == "end"
                        or (stops_at_boundary and stop == "boundary")
                        or len(done[n]) >= limits[n]
                    )
                    if is_over:
                        break
                if not is_over:
                    keep.append(i)
            if not keep:
                break
            suffix.position_NK[:, 0] += torch.tensor(counts, device=self.device) + 1
            last = [done[live[i]][-1] for i in keep]
            if len(keep) < len(live):
                index = torch.tensor(keep, device=self.device)
                prefix, suffix = prefix.take(index), suffix.take(index)
                seeds_N, heat_N = seeds_N[index], heat_N[index]
                live = [live[i] for i in keep]
            tokens_N1 = torch.tensor(last, device=self.device)[:, None]
        return [
            Text(
                Generated(
                    tuple(done[n]), tuple(logprobs[n]),
                    self._text_stop(done[n]),
                ),
                drafted[n], accepted[n], errors[n],
            )
            for n in range(N)
        ]  # fmt: skip

    def _text_stop(self, tokens: Sequence[int]) -> Stop:
        stop = self._stop_of(tokens[-1]) if tokens else None
        return stop or "length"

    def continue_texts(
        self, requests: Sequence[TextRequest], done: Sequence[tuple[int, ...]], length: int
    ) -> list[list[int]]:
        """Exactly `length` more tokens of each text, ends not heeded: drafts."""
        prefix, last_N = self._prefill(
            [(*r.prefix, *d) for r, d in zip(requests, done, strict=True)]
        )
        suffix = self.decoder.new_suffix(len(requests), 1)
        seeds_N = torch.tensor([r.seed for r in requests], device=self.device)
        heat_N = torch.tensor([r.temperature for r in requests], device=self.device)
        offset_N1 = torch.tensor([len(d) for d in done], device=self.device)[:, None]
        columns: list[Tensor] = []
        for _ in range(length):
            logits = self.decoder.decode(last_N[:, None, None], prefix, suffix)[:, 0].float()
            position = offset_N1 + suffix.position_NK
            last_N = choose(torch.log_softmax(logits, -1), heat_N, seeds_N, position)[:, 0]
            columns.append(last_N)
            suffix.position_NK += 1
        return torch.stack(columns, dim=1).tolist()

    def step_runner(self, requests: Sequence[TextRequest], num_tokens: int) -> Callable[[], None]:
        """A callable that runs one decoding step of so many tokens a row: for cost tables."""
        prefix, last_N = self._prefill([r.prefix for r in requests])
        suffix = self.decoder.new_suffix(len(requests), 1, num_tokens + 1)
        tokens = last_N[:, None, None].expand(-1, 1, num_tokens)

        def step() -> None:
            with torch.inference_mode():
                self.decoder.decode(tokens, prefix, suffix)

        return step


def choose(
    logprob_NQV: Tensor, temperature_N: Tensor, seeds_N: Tensor, position_N1: Tensor
) -> Tensor:
    """The policy's token at each of Q places, [N, Q]: argmax(log p / T + Gumbel noise).

    The noise depends on (seed, position, token) only. A drafter that adds the same noise to its
    own log-probabilities proposes the same token wherever the two laws agree (Gumbel coupling;
    Daliri, Musco, Suresh, arXiv 2408.07978), so drafting can never change what is written.
    """
    N, Q, V = logprob_NQV.shape
    position_NQ = position_N1 + torch.arange(Q, device=logprob_NQV.device)
    if not bool((temperature_N > 0).any()):
        return logprob_NQV.argmax(dim=-1)
    noise = gumbel(
        seeds_N[:, None].expand(N, Q).reshape(-1), position_NQ.reshape(-1), V
    ).view(N, Q, V)  # fmt: skip
    heat = temperature_N[:, None, None]
    return (logprob_NQV + heat * noise).argmax(dim=-1)
