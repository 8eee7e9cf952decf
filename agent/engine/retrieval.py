"""Drafts by the policy itself over the few columns of a long text that its next token asks for.

The idea is TriForce's (Sun et al., arXiv 2404.11912): attention over thousands of columns falls on
few of them, so the policy's own weights over the best of them guess what it will say over all. The
columns are those of a text's first chunk, of the chunks whose mean key agrees best with the query,
for each layer and key head apart, and the last ones. Keys are kept after the rotary embedding at
their true places, so what is gathered needs nothing more.

Where this differs from the paper: what is kept of a draft is decided as for every source
(`draft_choice`), so that it is exact at every temperature; columns are chosen by the query of the
token that is answered, layer by layer as it passes, and again for every drafted token: a choice
that a few tokens are guessed by was right far less often (LOG.md); heads that share keys ask
together; any number of texts of any lengths.

Shapes: N texts, L layers, G key heads, D head width, C chunks, K chunks chosen, M columns of one
choice.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from agent.engine.draft_choice import DraftSource, Record
from agent.engine.feed import by_job, feed, within
from agent.engine.job_cache import Cache, Ids
from agent.engine.requests import CompletionRequest
from agent.engine.sampling import SamplingParameters
from agent.networks.inference import InferenceNetwork

CHUNK = 4
"""Columns with one mean key."""
RECENT = 16
"""Columns at the end of a text that are always seen, at least; up to a chunk more."""
BUDGET = 256
"""Columns of a choice and the last ones, at most."""


class RetrievalDrafts:
    """The policy over a part of its own cache, with a source of drafts of its own where given."""

    def __init__(
        self,
        network: InferenceNetwork,
        budget: int = BUDGET,
        below: DraftSource | None = None,
        below_length: int = 2,
        stride: int = 1,
        choice: "type[Choice] | None" = None,
    ) -> None:
        """`below` drafts `below_length` tokens for each forward over the chosen columns. These are
        chosen at the start of a draft and again after `stride` forwards, by `choice`."""
        self.name = f"retrieval over {below.name}" if below else "retrieval"
        self.network = network
        self.num_chunks = (budget - RECENT - CHUNK) // CHUNK - 1
        """Chosen beside the first one."""
        self.below, self.below_length = below, below_length
        self.below_record = Record()
        """Of the drafts below, as this source judges them."""
        self.stride = stride
        self.choice = choice or Choice
        self._small = Cache(network, has_room_ahead=False, has_even_blocks=False)
        """One job a text that is drafted for."""
        self._means = ChunkMeans(network)

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
        num = [len(r.prefix) + len(d) - 1 for r, d in zip(requests, done, strict=True)]
        # Of equal texts one, and none that has nothing to leave out.
        long = {r: i for i, r in enumerate(requests) if num[i] >= self.least_columns}
        self._means.keep(list(long))
        wanted = [i for i in long.values() if lengths[i] > 0]
        self._small.clear()
        if not wanted or cache is None:
            return drafts
        asked = [requests[i] for i in wanted]
        counts = np.array([num[i] for i in wanted])
        looking = self._laid_out(cache, asked, np.array(wanted), counts)
        written = [list(done[i]) for i in wanted]
        self._write(asked, written, counts, max(lengths[i] for i in wanted), looking)
        for i, text in zip(wanted, written, strict=True):
            drafts[i] = text[len(done[i]) :][: lengths[i]]
        return drafts

    def _laid_out(
        self, cache: Cache, asked: Sequence[CompletionRequest], full: Ids, counts: Ids
    ) -> "Choice":
        """Open a job for each text: room for a choice, then its last columns. Text i is job
        `full[i]` of the cache, and has so many columns there."""
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
        means = self._means.of(asked, cache.layers, full, first_recent // CHUNK)
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
        self.known: dict[CompletionRequest, list[Tensor]] = {}
        """[chunks, G, D] a layer, with room behind the last one."""
        self.num_known: dict[CompletionRequest, int] = {}

    def keep(self, requests: Sequence[CompletionRequest]) -> None:
        """Forget all texts but these."""
        self.known = {r: self.known[r] for r in requests if r in self.known}
        self.num_known = {r: self.num_known[r] for r in self.known}

    def of(
        self,
        requests: Sequence[CompletionRequest],
        layers: Sequence[Tensor],
        jobs: Ids,
        num_chunks: Ids,
    ) -> list[Tensor]:
        """[N, C, G, D] a layer, of so many chunks of each text, whose columns are those of a job;
        what lies behind a text's last chunk means nothing."""
        for request, job, num in zip(requests, jobs.tolist(), num_chunks.tolist(), strict=True):
            known = self.num_known.get(request, 0)
            if num > known:
                self._take_in(request, layers, job, known, num)
        most = int(num_chunks.max())
        found = []
        for number in range(len(layers)):
            rows = [self.known[request][number][:most] for request in requests]
            found.append(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
        return found

    def _take_in(
        self, request: CompletionRequest, layers: Sequence[Tensor], job: int, known: int, num: int
    ) -> None:
        """The means of a text's chunks from `known` up to `num`."""
        heads = self.network.kv_shape[0] // 2
        means = self.known.get(request, [])
        if not means or len(means[0]) < num:
            grown = []
            for number, kept in enumerate(layers):
                more = kept.new_zeros((num + num // 8 + 1, heads, kept.shape[-1]))
                if means:
                    more[:known] = means[number][:known]
                grown.append(more)
            means = self.known[request] = grown
        for mean, kept in zip(means, layers, strict=True):
            keys = kept[job, known * CHUNK : num * CHUNK, :heads]
            mean[known:num] = keys.unflatten(0, (-1, CHUNK)).mean(dim=1)
        self.num_known[request] = num


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
        chunk_C = np.arange(means[0].shape[1])
        is_hidden_NC = (chunk_C == 0) | (chunk_C >= num_chunks[:, None])
        self.is_hidden_N1C = torch.from_numpy(is_hidden_NC).to(device)[:, None]

    def __call__(self, layer: int, q_RHD: Tensor) -> None:
        means_NCGD = self.means[layer]
        N, _, G, D = means_NCGD.shape
        # The heads of a group ask together: what they share is gathered once.
        q_NGD = q_RHD[self.rows].view(N, G, -1, D).sum(dim=2)
        score_NGC = self.scores(q_NGD, means_NCGD).masked_fill_(self.is_hidden_N1C, -torch.inf)
        best_NGK = score_NGC.topk(self.num_chosen, dim=2, sorted=False).indices
        best_NGK = torch.cat((torch.zeros_like(best_NGK[..., :1]), best_NGK), dim=2)
        within_chunk = torch.arange(CHUNK, device=best_NGK.device)
        column_NGM = (best_NGK[..., None] * CHUNK + within_chunk).flatten(2)
        self._gather(layer, column_NGM.transpose(1, 2))

    def scores(self, q_NGD: Tensor, means_NCGD: Tensor) -> Tensor:
        """How much each chunk is wanted, [N, G, C]."""
        return torch.einsum("ngd,ncgd->ngc", q_NGD, means_NCGD)

    def _gather(self, layer: int, column_NMG: Tensor) -> None:
        full, small = self.full_layers[layer], self.small_layers[layer]
        N, M, G = column_NMG.shape
        head = torch.arange(G, device=column_NMG.device)
        for part in (head, head + G):
            small[:N, :M, part] = full[self.full_N11, column_NMG, part]
