"""Drafts by the policy itself over the few columns of a long text that its next token asks for.

The idea is TriForce's (Sun et al., arXiv 2404.11912): attention over thousands of columns falls on
few of them, so the policy's own weights over the best of them guess what it will say over all. The
columns are those of a text's first chunk, of the chunks whose mean key agrees best with the query,
for each layer and key head apart, and the last ones. Keys are kept after the rotary embedding at
their true places, so what is gathered needs nothing more.

Where this differs from the paper: what is kept of a draft is decided as for every source
(`draft_choice`), so that it is exact at every temperature; columns are chosen by the query of the
token that is answered, layer by layer as it passes, and again for every second drafted token: a
choice that more tokens are guessed by was right less often (LOG.md); chunks are short, for the mean
of more keys says little of them; heads that share keys ask together; any number of texts of any
lengths.

Shapes: N texts, L layers, G key heads, D head width, C chunks, K chunks chosen, M columns of one
choice.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agent.engine.draft_choice import DraftSource, Record
from agent.engine.feed import by_job, feed, within
from agent.engine.job_cache import Cache, Ids
from agent.engine.requests import CompletionRequest
from agent.engine.sampling import SamplingParameters
from agent.networks.inference import InferenceNetwork

CHUNK = 2
"""Columns with one mean key."""
RECENT = 16
"""Columns at the end of a text that are always seen, at least; up to a chunk more."""
BUDGET = 256
"""Columns of a choice and the last ones, at most."""
STRIDE = 2
"""Drafted tokens, or forwards with a source below, that one choice serves."""
SHORT_BUDGET = 32
"""Of a self-test, which has many texts at once."""


class RetrievalDrafts:
    """The policy over a part of its own cache, with a source of drafts of its own where given."""

    def __init__(
        self,
        network: InferenceNetwork,
        budget: int = BUDGET,
        below: DraftSource | None = None,
        below_length: int = 2,
        stride: int = STRIDE,
        choice: "type[Choice] | None" = None,
    ) -> None:
        """`below` drafts `below_length` tokens for each forward over the chosen columns. These are
        chosen at the start of a draft and again after `stride` forwards, by `choice`."""
        self.name = f"retrieval over {below.name}" if below else "retrieval"
        self.num_chunks = (budget - RECENT - CHUNK) // CHUNK - 1
        """Chosen beside the first one."""
        self.below, self.below_length = below, below_length
        self.below_record = Record()
        """Of the drafts below, as this source judges them."""
        self.stride = stride
        self.choice = choice or Choice
        self._begin(network)

    def _begin(self, network: InferenceNetwork) -> None:
        self.network = network
        self._small = Cache(network, has_room_ahead=False, has_even_blocks=False)
        """One job a text that is drafted for."""
        self._means = ChunkMeans(network)

    def for_short_texts(self) -> "RetrievalDrafts":
        """With a budget of a few columns: what decides of a draft is the same."""
        below = self.below.for_short_texts() if self.below else None
        return RetrievalDrafts(
            self.network, SHORT_BUDGET, below, self.below_length, self.stride, self.choice
        )

    @property
    def least_columns(self) -> int:
        """Of a text that has something to leave out."""
        return (self.num_chunks + 2) * CHUNK + RECENT

    @torch.inference_mode()
    def draft(
        self,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
        cache: Cache | None = None,
    ) -> list[list[int]]:
        """At most `lengths` tokens for each text, whose columns but that of its last token are
        those of job i of the cache. None for a text that has nothing to leave out."""
        drafts: list[list[int]] = [[] for _ in requests]
        if cache is not None and cache.network is not self.network:
            self._begin(cache.network)  # the engine goes on with other weights
        num = [len(r.prefix) + len(d) - 1 for r, d in zip(requests, done, strict=True)]
        # Of equal texts one, and none that has nothing to leave out.
        long = {r: i for i, r in enumerate(requests) if num[i] >= self.least_columns}
        self._means.keep(list(long))
        # In the order of their means, so that these need not be copied.
        rows = [row for row, text in enumerate(self._means.texts) if lengths[long[text]] > 0]
        wanted = [long[self._means.texts[row]] for row in rows]
        self._small.clear()
        if not wanted or cache is None:
            return drafts
        asked = [requests[i] for i in wanted]
        counts = np.array([num[i] for i in wanted])
        looking = self._laid_out(cache, rows, np.array(wanted), counts)
        written = [list(done[i]) for i in wanted]
        self._write(asked, written, counts, max(lengths[i] for i in wanted), looking)
        for i, text in zip(wanted, written, strict=True):
            drafts[i] = text[len(done[i]) :][: lengths[i]]
        # What is not finite in a column ends up in the last layer's keys and values.
        last = self._small.layers[-1][: len(wanted), : self._small.num_columns]
        if not torch.isfinite(last).all():
            self._begin(self.network)  # no bias hides it from later texts
        return drafts

    def _laid_out(self, cache: Cache, rows: Sequence[int], full: Ids, counts: Ids) -> "Choice":
        """Open a job for each text: room for a choice, then its last columns. The text whose means
        are at `rows[i]` is job `full[i]` of the cache, and has so many columns there."""
        first_recent = (counts - RECENT) // CHUNK * CHUNK
        num_chosen = (1 + self.num_chunks) * CHUNK
        num_recent = counts - first_recent
        self._small.open((num_chosen + num_recent).tolist())
        job_P = np.repeat(np.arange(len(full)), num_recent)
        place_P = within(num_recent)
        source = full[job_P], first_recent[job_P] + place_P
        target = job_P, num_chosen + place_P
        for small, kept in zip(self._small.layers, cache.layers, strict=True):
            small[target] = kept[source]
        means = self._means.of(rows, cache.layers, full, first_recent // CHUNK)
        return self.choice(
            means, first_recent // CHUNK, cache.layers, self._small.layers, full, self.num_chunks
        )

    def _write(
        self,
        requests: Sequence[CompletionRequest],
        written: list[list[int]],
        counts: Ids,
        longest: int,
        looking: "Choice",
    ) -> None:
        """Append `longest` tokens to each text, at least, as the policy would over what it sees."""
        parameters = SamplingParameters.of(requests, self.network.device)
        jobs = np.arange(len(requests))
        goals = [len(text) + longest for text in written]
        guesses: list[list[int]] = [[] for _ in requests]
        num_passes = 0
        while any(len(t) < goal for t, goal in zip(written, goals, strict=True)):
            if self.below is not None:
                guesses = self.below.draft(requests, written, [self.below_length] * len(requests))
            rows = [[text[-1], *guess] for text, guess in zip(written, guesses, strict=True)]
            sizes = np.array([len(row) for row in rows])
            looking.rows = torch.from_numpy(np.cumsum(sizes) - sizes)
            held = self._small.lengths[jobs]
            look = looking if num_passes % self.stride == 0 else None
            hidden = feed(self.network, self._small, jobs, rows, counts - held, look)
            num_passes += 1
            logits_NQV = by_job(self.network.logits(hidden), sizes)
            draft_NK = torch.full((len(rows), logits_NQV.shape[1] - 1), -1)
            for i, guess in enumerate(guesses):
                draft_NK[i, : len(guess)] = torch.tensor(guess, dtype=torch.int64)
            position = torch.tensor([len(text) for text in written])
            device = self.network.device
            found = parameters.choose(logits_NQV, draft_NK.to(device), position.to(device))
            kept = (found.num_accepted + 1).tolist() if self.below else [1] * len(rows)
            for i, (tokens, num) in enumerate(zip(found.tokens.tolist(), kept, strict=True)):
                written[i] += tokens[:num]
                if guesses[i]:
                    self.below_record.note(len(guesses[i]), num - 1, self.below_length)
            self._small.lengths[jobs] = held + kept
            counts = counts + kept


class ChunkMeans:
    """Mean keys of the full chunks of texts, kept while the texts are drafted for.

    A text is a function of its request, and its columns only grow, so a chunk that was full once
    keeps its mean.
    """

    def __init__(self, network: InferenceNetwork) -> None:
        self.network = network
        self.texts: list[CompletionRequest] = []
        self.num_known: list[int] = []
        """Chunks of each text whose means are there, in all layers."""
        self.layers: list[Tensor] = []
        """[texts, G, chunks, D] a layer, with room behind the last of each."""

    def keep(self, requests: Sequence[CompletionRequest]) -> None:
        """Have a place for each of these texts, and for no others."""
        kept = set(requests)
        rows = [row for row, text in enumerate(self.texts) if text in kept]
        if len(rows) < len(self.texts):
            self.texts = [self.texts[row] for row in rows]
            self.num_known = [self.num_known[row] for row in rows]
            self.layers = [layer[rows] for layer in self.layers]
        known = set(self.texts)
        new = [r for r in requests if r not in known]
        self.texts += new
        self.num_known += [0] * len(new)

    def of(
        self, rows: Sequence[int], layers: Sequence[Tensor], jobs: Ids, num: Ids
    ) -> list[Tensor]:
        """[N, G, C, D] a layer, of the first `num` chunks of the texts at these places, whose
        columns are those of jobs; what lies behind a text's last chunk means nothing."""
        most = int(num.max())
        self._reserve(most)
        for row, job, wanted in zip(rows, jobs.tolist(), num.tolist(), strict=True):
            known = self.num_known[row]
            if wanted > known:
                columns = slice(known * CHUNK, wanted * CHUNK)
                for means, kept in zip(self.layers, layers, strict=True):
                    keys = kept[job, columns, : means.shape[1]].unflatten(0, (-1, CHUNK))
                    means[row, :, known:wanted] = keys.mean(dim=1).transpose(0, 1)
                self.num_known[row] = wanted
        if list(rows) == list(range(len(self.texts))):
            return [means[: len(rows), :, :most] for means in self.layers]
        return [means[list(rows), :, :most] for means in self.layers]

    def _reserve(self, num_chunks: int) -> None:
        """Room for all texts, and for so many chunks of each."""
        network, num_texts = self.network, len(self.texts)
        have = (self.layers[0].shape[0], self.layers[0].shape[2]) if self.layers else (0, 0)
        if num_texts <= have[0] and num_chunks <= have[1]:
            return
        room = max(have[1], num_chunks + num_chunks // 8 + 1)
        heads, width = network.kv_shape
        grown = [
            torch.zeros(
                (max(num_texts, have[0]), heads // 2, room, width),
                dtype=network.dtype,
                device=network.device,
            )
            for _ in range(network.arch.num_layers)
        ]
        for new, old in zip(grown, self.layers, strict=False):
            new[: have[0], :, : have[1]] = old
        self.layers = grown


class Choice:
    """Chooses the columns of texts, layer by layer as their tokens pass, and puts them first in
    their jobs of the small cache."""

    def __init__(
        self,
        means: Sequence[Tensor],
        num_chunks: Ids,
        full_layers: Sequence[Tensor],
        small_layers: Sequence[Tensor],
        full: Ids,
        num_chosen: int,
    ) -> None:
        """Text i has `num_chunks[i]` chunks to choose from in job `full[i]` of the full cache, and
        is job i of the small one."""
        self.means, self.num_chosen = means, num_chosen
        self.full_layers, self.small_layers = full_layers, small_layers
        device = means[0].device
        self.full_N11 = torch.from_numpy(full).to(device)[:, None, None]
        self.rows = torch.arange(len(full))
        """The row whose query chooses, of each text."""
        chunk_C = np.arange(means[0].shape[2])
        is_hidden_NC = (chunk_C == 0) | (chunk_C >= num_chunks[:, None])
        self.is_hidden_N1C = torch.from_numpy(is_hidden_NC).to(device)[:, None]

    def __call__(self, layer: int, q_RHD: Tensor) -> None:
        means_NGCD = self.means[layer]
        N, G, _, D = means_NGCD.shape
        # The heads of a group ask together: what they share is gathered once.
        q_NGD = q_RHD[self.rows].view(N, G, -1, D).sum(dim=2)
        score_NGC = self.scores(q_NGD, means_NGCD).masked_fill_(self.is_hidden_N1C, -torch.inf)
        best_NGK = score_NGC.topk(self.num_chosen, dim=2, sorted=False).indices
        best_NGK = torch.cat((torch.zeros_like(best_NGK[..., :1]), best_NGK), dim=2)
        within_chunk = torch.arange(CHUNK, device=best_NGK.device)
        column_NGM = (best_NGK[..., None] * CHUNK + within_chunk).flatten(2)
        self._gather(layer, column_NGM.transpose(1, 2))

    def scores(self, q_NGD: Tensor, means_NGCD: Tensor) -> Tensor:
        """How much each chunk is wanted, [N, G, C]."""
        return (means_NGCD @ q_NGD[..., None])[..., 0]

    def _gather(self, layer: int, column_NMG: Tensor) -> None:
        full, small = self.full_layers[layer], self.small_layers[layer]
        N, M, G = column_NMG.shape
        # Keys and values of a head come from the same columns; rows of one list are read fastest.
        head = torch.arange(2 * G, device=column_NMG.device)
        place_NMG = self.full_N11 * full.shape[1] + column_NMG
        row_NMH = torch.cat((place_NMG, place_NMG), dim=2) * (2 * G) + head
        small[:N, :M] = F.embedding(row_NMH, full.view(-1, full.shape[-1]))
