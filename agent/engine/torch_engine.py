"""Batched generation in plain torch: many prefixes, many rows of each, one forward a token.

Rows that end are dropped from the batch, so long texts do not keep short ones waiting.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from agent.engine.batch import padded
from agent.engine.beams import Beams
from agent.engine.decoder import Decoder, Prefix
from agent.engine.requests import LineRequest, Lines, Text, TextRequest
from agent.engine.speculative import Drafter
from agent.engine.steps import Steps
from agent.engine.texts import Texts, choose
from search.boundary import Boundary
from search.errors import TaskError
from search.state import Stop


class TorchEngine:
    """Generation by one decoder. `steps` finds a boundary in its vocabulary."""

    def __init__(
        self, decoder: Decoder, steps: Callable[[Boundary], Steps], end_ids: Sequence[int],
        batch_rows: int = 512,
    ) -> None:  # fmt: skip
        self.decoder = decoder
        self.device = decoder.model.norm.weight.device
        self.batch_rows = batch_rows
        self.steps = steps
        self.ends = frozenset(end_ids)

    def room(self, prefix: Sequence[int], max_tokens: int) -> int:
        """Tokens that may follow the prefix. Raises TaskError when none may."""
        left = self.decoder.arch.max_positions - len(prefix)
        if left < 1 or not prefix:
            raise TaskError(
                f"the prompt has {len(prefix)} tokens; this policy's context holds "
                f"{self.decoder.arch.max_positions} with the answer",
                "shorten the problem or use a policy with a longer context",
            )
        return min(left, max_tokens)

    @torch.inference_mode()
    def lines(self, requests: Sequence[LineRequest]) -> list[Lines]:
        """Answer line requests, those of one mode, boundary and count in batches together."""
        groups: dict[tuple[str, str, int], list[int]] = {}
        for i, r in enumerate(requests):
            groups.setdefault((r.mode, r.boundary.name, r.count), []).append(i)
        answers: dict[int, Lines] = {}
        for (mode, _, count), group in sorted(groups.items()):
            size = max(1, self.batch_rows // count)
            for start in range(0, len(group), size):
                part = group[start : start + size]
                chosen = [requests[i] for i in part]
                ask = self._sampled_lines if mode == "sampled" else self._beam_lines
                found = ask(chosen)
                answers.update(zip(part, found, strict=True))
        return [answers[i] for i in range(len(requests))]

    def _beam_lines(self, requests: Sequence[LineRequest]) -> list[Lines]:
        steps = self.steps(requests[0].boundary)
        limits = [steps.limit(self.room(r.prefix, r.max_tokens)) for r in requests]
        prefix, last_N = self._prefill([r.prefix for r in requests])
        count = requests[0].count
        seeds = [r.seed for r in requests] if requests[0].mode == "drawn" else None
        beams = Beams(self.decoder, prefix, last_N, limits, count, steps, self.ends, seeds)
        return [self._bounded(r, found) for r, found in zip(requests, beams.run(), strict=True)]

    def _bounded(self, request: LineRequest, found: Lines) -> Lines:
        """A line that fills the context ends there, whatever its last token is."""
        room = self.decoder.arch.max_positions - len(request.prefix)
        lines = [
            replace(line, stop="length")
            if line.stop == "boundary" and len(line.tokens) >= room
            else line
            for line in found.lines
        ]
        return Lines(tuple(lines), found.num_tokens)

    def _sampled_lines(self, requests: Sequence[LineRequest]) -> list[Lines]:
        steps = self.steps(requests[0].boundary)

        def stop_of(tokens: Sequence[int]) -> Stop | None:
            return self._text_stop(tokens) or ("boundary" if steps.ends(tokens) else None)

        texts = self._generate(
            [
                TextRequest(
                    r.prefix, steps.limit(r.max_tokens), r.temperature, r.seed + 7919 * k
                )
                for r in requests
                for k in range(r.count)
            ],
            None,
            stop_of,
        )  # fmt: skip
        count = requests[0].count
        groups = [texts[i : i + count] for i in range(0, len(texts), count)]
        found = [
            Lines(
                tuple(t.generated for t in group if not t.error),
                sum(len(t.generated.tokens) for t in group),
            )
            for group in groups
        ]
        return [self._bounded(r, lines) for r, lines in zip(requests, found, strict=True)]

    @torch.inference_mode()
    def texts(self, requests: Sequence[TextRequest], drafter: Drafter | None = None) -> list[Text]:
        """Complete prefixes to the end of the text. A drafter changes the speed, not the text."""
        found: list[Text] = []
        for start in range(0, len(requests), self.batch_rows):
            part = requests[start : start + self.batch_rows]
            found += self._generate(part, drafter, self._text_stop)
        return found

    def _text_stop(self, tokens: Sequence[int]) -> Stop | None:
        return "end" if tokens[-1] in self.ends else None

    def _generate(
        self,
        requests: Sequence[TextRequest],
        drafter: Drafter | None,
        stop_of: Callable[[Sequence[int]], Stop | None],
    ) -> list[Text]:
        limits = [self.room(r.prefix, r.max_tokens) for r in requests]
        prefix, last_N = self._prefill([r.prefix for r in requests])
        return Texts(self.decoder, prefix, last_N, requests, limits, stop_of, drafter).run()

    def _prefill(self, prefixes: Sequence[Sequence[int]]) -> tuple[Prefix, Tensor]:
        """Keys and values of all but each prefix's last token; that token [N] starts decoding."""
        tokens_NT, lengths_N = padded(prefixes)
        tokens_NT, lengths_N = tokens_NT.to(self.device), lengths_N.to(self.device)
        last_N = tokens_NT.gather(1, lengths_N[:, None] - 1)[:, 0]
        width = max(1, tokens_NT.shape[1] - 1)
        return self.decoder.prefill(tokens_NT[:, :width], lengths_N - 1), last_N

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
