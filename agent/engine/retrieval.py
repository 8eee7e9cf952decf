"""Drafts by the policy itself over the few columns of a long text that its next token asks for.

The idea is TriForce's (Sun et al., arXiv 2404.11912): attention over thousands of columns falls on
few of them, so the policy's own weights over the best of them guess what it will say over all. A
text keeps a small cache beside its full one: its first chunk, the chunks whose mean key agrees best
with the query, for each layer and key head apart, and the columns since. Keys are kept after the
rotary embedding at their true places, so what is gathered needs nothing more.

Where this differs from the paper: what is kept of a draft is decided as for every source
(`draft_choice`), so that it is exact at every temperature; the columns are chosen by the query of
the token that is about to be fed, layer by layer as it passes, and again after a refused token;
heads that share keys ask together; any number of texts of any lengths.

Shapes: N texts, L layers, G key heads, D head width, C chunks, K chunks chosen, M columns of one
choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agent.engine.draft_choice import DraftSource, Record
from agent.engine.feed import by_job, feed
from agent.engine.job_cache import Cache, Ids
from agent.engine.requests import CompletionRequest
from agent.engine.sampling import SamplingParameters
from agent.networks.inference import InferenceNetwork

CHUNK = 8
"""Columns with one mean key."""
RECENT = 16
"""Columns at the end of a text that are always seen, at least; up to a chunk more."""
BUDGET = 256
"""Columns of one choice, at most."""
STRIDE = 64
"""Tokens of a text after which it chooses again, whatever was refused."""


@dataclass(slots=True)
class _Text:
    """What is known of a text that is drafted for."""

    request: CompletionRequest
    num_seen: int = 0
    """Columns of the full cache when they were last chosen from; 0: never."""
    num_held: int = 0
    """Columns of the full cache that are chosen, left out, or copied since."""
    num_chosen: int = 0
    """Columns of the small cache that the choice took."""
    expected: list[int] = field(default_factory=list)
    """What the text will have written if the last draft is right."""

    def is_stale(self, num: int, done: Sequence[int], stride: int) -> bool:
        """Whether to choose again, with `num` columns in the full cache: also where the text is
        another one by now, asked for again or one of several equal ones."""
        was_refused = self.expected[: len(done)] != list(done)[: len(self.expected)]
        is_shorter = num < self.num_held
        return not self.num_seen or was_refused or is_shorter or num - self.num_seen >= stride


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
        """`below` drafts `below_length` tokens for each forward over the chosen columns; `choice`
        says which these are."""
        self.name = f"retrieval over {below.name}" if below else "retrieval"
        self.network = network
        self.num_chunks = (budget - RECENT - CHUNK) // CHUNK - 1
        """Chosen beside the first one."""
        self.below, self.below_length = below, below_length
        self.stride = stride
        self.choice = choice or Choice
        self.below_record = Record()
        """Of the drafts below, as this source judges them."""
        self.num_choices = 0
        """How often a text chose its columns."""
        self._texts: list[_Text] = []
        self._small = Cache(network, has_room_ahead=False, has_even_blocks=False)
        """One job a text."""
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
        if cache is None:
            return drafts
        num = [len(r.prefix) + len(d) - 1 for r, d in zip(requests, done, strict=True)]
        # Of equal texts one, and none that has nothing to leave out.
        drafted = {r: i for i, r in enumerate(requests) if num[i] >= self.least_columns}
        slots = self._slots(drafted)
        wanted = [i for i in drafted.values() if lengths[i] > 0]
        if not wanted:
            return drafts
        jobs = np.array([slots[i] for i in wanted])
        full = np.array(wanted)
        counts = np.array([num[i] for i in wanted])
        is_stale = np.array(
            [self._texts[slots[i]].is_stale(num[i], done[i], self.stride) for i in wanted]
        )
        self._copy_new(cache, jobs[~is_stale], full[~is_stale], counts[~is_stale])
        look = None
        if is_stale.any():
            look = self._choice(cache, jobs, full, counts, is_stale)
        asked = [requests[i] for i in wanted]
        written = [list(done[i]) for i in wanted]
        longest = max(lengths[i] for i in wanted)
        self._write(asked, written, jobs, counts, longest, look)
        for i, text in zip(wanted, written, strict=True):
            drafts[i] = text[len(done[i]) :][: lengths[i]]
            self._texts[slots[i]].expected = [*done[i], *drafts[i]]
        return drafts

    def _slots(self, drafted: Mapping[CompletionRequest, int]) -> dict[int, int]:
        """The job in the small cache of the text at each place; others are forgotten."""
        gone = [s for s, text in enumerate(self._texts) if text.request not in drafted]
        if gone:
            kept = self._small.close(gone).tolist()
            self._texts = [self._texts[s] for s in kept]
            self._means.keep(kept)
        if not self._texts:
            self._small.clear()
        slot_of = {text.request: s for s, text in enumerate(self._texts)}
        for request in drafted:
            if request not in slot_of:
                slot_of[request] = len(self._texts)
                self._texts.append(_Text(request))
                self._small.open([0])
                self._means.open()
        return {i: slot_of[request] for request, i in drafted.items()}

    def _copy_new(self, cache: Cache, jobs: Ids, full: Ids, counts: Ids) -> None:
        """Put what the full cache came to hold since into the small one, in the place of what was
        drafted."""
        if not len(jobs):
            return
        texts = [self._texts[job] for job in jobs.tolist()]
        held = np.array([text.num_held for text in texts])
        starts = np.array([t.num_chosen + t.num_held - t.num_seen for t in texts])
        num_new = counts - held
        self._small.lengths[jobs] = starts + num_new
        self._small.reserve(self._small.num_jobs, self._small.num_columns)
        within = np.arange(int(num_new.sum())) - np.repeat(np.cumsum(num_new) - num_new, num_new)
        source = (
            torch.from_numpy(np.repeat(full, num_new)),
            torch.from_numpy(np.repeat(held, num_new) + within),
        )
        target = (
            torch.from_numpy(np.repeat(jobs, num_new)),
            torch.from_numpy(np.repeat(starts, num_new) + within),
        )
        for small, kept in zip(self._small.layers, cache.layers, strict=True):
            small[target] = kept[source]
        for text, count in zip(texts, counts.tolist(), strict=True):
            text.num_held = count

    def _choice(self, cache: Cache, jobs: Ids, full: Ids, counts: Ids, is_stale: Ids) -> "Choice":
        """Who chooses columns while the first row passes."""
        first_recent = (counts[is_stale] - RECENT) // CHUNK * CHUNK
        num_chosen = (1 + self.num_chunks) * CHUNK + counts[is_stale] - first_recent
        self._small.lengths[jobs[is_stale]] = num_chosen
        self._small.reserve(self._small.num_jobs, self._small.num_columns + CHUNK)
        for job, count, size in zip(
            jobs[is_stale].tolist(), counts[is_stale].tolist(), num_chosen.tolist(), strict=True
        ):
            text = self._texts[job]
            text.num_seen, text.num_held, text.num_chosen = count, count, size
        self.num_choices += int(is_stale.sum())
        return self.choice(
            self._means,
            cache.layers,
            self._small.layers,
            rows=np.flatnonzero(is_stale),
            jobs=jobs[is_stale],
            full=full[is_stale],
            counts=counts[is_stale],
            first_recent=first_recent,
            num_chunks=self.num_chunks,
        )

    def _write(
        self,
        requests: Sequence[CompletionRequest],
        written: list[list[int]],
        jobs: Ids,
        counts: Ids,
        longest: int,
        look: "Choice | None",
    ) -> None:
        """Append `longest` tokens to each text, at least, as the policy would over what it sees."""
        parameters = SamplingParameters.of(requests, self.network.device)
        goals = [len(text) + longest for text in written]
        none: list[list[int]] = [[] for _ in requests]
        while any(len(t) < goal for t, goal in zip(written, goals, strict=True)):
            guesses = none
            if self.below is not None:
                lengths = [self.below_length] * len(requests)
                guesses = self.below.draft(requests, written, lengths)
            rows = [[text[-1], *guess] for text, guess in zip(written, guesses, strict=True)]
            held = self._small.lengths[jobs]
            ahead = counts - held
            hidden = feed(self.network, self._small, jobs, rows, ahead, look)
            look = None
            sizes = np.array([len(row) for row in rows])
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

    A text's columns only grow, so a chunk that was full once keeps its mean.
    """

    def __init__(self, network: InferenceNetwork) -> None:
        self.network = network
        self.layers: list[Tensor] = []
        """[texts, chunks, G, D] a layer."""
        self.num_known: Ids = np.zeros(0, np.int64)
        """Chunks of each text whose means are there, in all layers."""

    def open(self) -> None:
        """A further text."""
        self.num_known = np.append(self.num_known, 0)

    def keep(self, kept: list[int]) -> None:
        """Only these texts, in this order."""
        if self.layers:
            self._reserve(0)
            self.layers = [layer[kept] for layer in self.layers]
        self.num_known = self.num_known[kept]

    def _reserve(self, num_chunks: int) -> None:
        have = self.layers[0].shape[:2] if self.layers else (0, 0)
        num_texts = len(self.num_known)
        if num_texts > have[0] or num_chunks > have[1]:
            size = max(num_texts, have[0]), max(num_chunks * 5 // 4, have[1])
            num_heads, width = self.network.kv_shape
            for number in range(self.network.arch.num_layers):
                grown = torch.zeros(
                    (*size, num_heads // 2, width),
                    dtype=self.network.dtype,
                    device=self.network.device,
                )
                if number < len(self.layers):
                    grown[: have[0], : have[1]] = self.layers[number]
                    self.layers[number] = grown
                else:
                    self.layers.append(grown)

    def of(self, layers: Sequence[Tensor], slots: Ids, full: Ids, num_chunks: Ids) -> None:
        """Take in chunks of some texts that became full: text i's columns are those of job
        `full[i]`, its full chunks so many."""
        self._reserve(int(num_chunks.max()))
        for slot, job, num in zip(slots.tolist(), full.tolist(), num_chunks.tolist(), strict=True):
            known = int(self.num_known[slot])
            if num <= known:
                continue
            columns = slice(known * CHUNK, num * CHUNK)
            for means, kept in zip(self.layers, layers, strict=True):
                keys = kept[job, columns, : means.shape[2]]
                means[slot, known:num] = keys.unflatten(0, (-1, CHUNK)).mean(dim=1)
            self.num_known[slot] = num


class Choice:
    """Chooses the columns of some rows' texts, layer by layer as the rows pass."""

    def __init__(
        self,
        means: ChunkMeans,
        full_layers: Sequence[Tensor],
        small_layers: Sequence[Tensor],
        *,
        rows: Ids,
        jobs: Ids,
        full: Ids,
        counts: Ids,
        first_recent: Ids,
        num_chunks: int,
    ) -> None:
        """Row `rows[i]` belongs to the text in job `jobs[i]` of the small cache and `full[i]` of
        the full one."""
        chunks = first_recent // CHUNK
        means.of(full_layers, jobs, full, chunks)
        self.means, self.full_layers, self.small_layers = means.layers, full_layers, small_layers
        self.rows, self.jobs, self.full = map(torch.from_numpy, (rows, jobs, full))
        self.num_chunks = num_chunks
        most = int(chunks.max())
        chunk_C = np.arange(most)
        self.is_hidden_NC = torch.from_numpy((chunk_C == 0) | (chunk_C >= chunks[:, None]))
        recent = first_recent[:, None] + np.arange(RECENT + CHUNK)
        self.recent_NM = torch.from_numpy(np.minimum(recent, counts[:, None] - 1))
        # What lies behind a text's last column is the row's own.
        is_chosen = np.ones((len(rows), (1 + num_chunks) * CHUNK), bool)
        is_chosen = np.concatenate((is_chosen, recent < counts[:, None]), axis=1)
        self.row_P, self.place_P = map(torch.from_numpy, np.nonzero(is_chosen))

    def __call__(self, layer: int, q_RHD: Tensor) -> None:
        means_NCGD = self.means[layer][self.jobs, : self.is_hidden_NC.shape[1]]
        N, _, G, D = means_NCGD.shape
        # The heads of a group ask together: what they share is gathered once.
        q_NGD = q_RHD[self.rows].view(N, G, -1, D).sum(dim=2)
        score_NGC = self.scores(q_NGD, means_NCGD)
        score_NGC.masked_fill_(self.is_hidden_NC[:, None].to(score_NGC.device), -torch.inf)
        best_NGK = score_NGC.topk(self.num_chunks, dim=2, sorted=False).indices
        best_NGK = torch.cat((torch.zeros_like(best_NGK[..., :1]), best_NGK), dim=2)
        within = torch.arange(CHUNK, device=best_NGK.device)
        column_NGM = (best_NGK[..., None] * CHUNK + within).flatten(2)
        recent = self.recent_NM.to(column_NGM.device)[:, None].expand(N, G, -1)
        column_NGM = torch.cat((column_NGM, recent), dim=2)
        self._gather(layer, column_NGM)

    def scores(self, q_NGD: Tensor, means_NCGD: Tensor) -> Tensor:
        """How much each chunk is wanted, [N, G, C]."""
        return torch.einsum("ngd,ncgd->ngc", q_NGD, means_NCGD)

    def _gather(self, layer: int, column_NGM: Tensor) -> None:
        full, small = self.full_layers[layer], self.small_layers[layer]
        row_P, place_P = self.row_P, self.place_P
        column_PG = column_NGM.transpose(1, 2)[row_P, place_P]
        head = torch.arange(column_PG.shape[1], device=column_PG.device)
        full_P1, job_P1 = self.full[row_P][:, None], self.jobs[row_P][:, None]
        for part in (head, head + len(head)):
            small[job_P1, place_P[:, None], part] = full[full_P1, column_PG, part]
