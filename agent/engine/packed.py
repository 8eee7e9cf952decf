"""Scoring many rows that share beginnings in one forward: each token of their tree once.

Every token sees its ancestors and itself. Rows are packed in order, so that neighbours share most;
a pack is one job, and packs of a like size go through together.

Shapes: N packs, M tokens of a pack (as many columns), E hidden width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agent.engine.feed import within
from agent.engine.forward import Where, placed
from agent.engine.job_cache import Cache, Ids
from agent.networks.inference import InferenceNetwork
from agent.networks.pictures import FIRST_WORD, WORDS

MAX_TOKENS = 1024
"""Of one pack, unless a single row is longer."""
MAX_CELLS = 2**22
"""Queries times columns of one forward."""
MAX_LOGITS = 2**25
"""Numbers held at once."""


Branch = int | tuple[int, ...]


@dataclass(slots=True)
class Pack:
    """A tree of tokens."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """-1 at a root; parents come first."""
    depths: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)
    """For each row the places of its tokens."""
    rows: list[int] = field(default_factory=list)
    _children: dict[tuple[int, Branch], int] = field(default_factory=dict)

    def add(self, row: int, tokens: Sequence[int]) -> None:
        path: list[int] = []
        parent = -1
        for depth, token in enumerate(tokens):
            branch = _branch(tokens, depth)
            place = self._children.get((parent, branch))
            if place is None:
                place = self._children[(parent, branch)] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(parent)
                self.depths.append(depth)
            path.append(place)
            parent = place
        self.paths.append(path)
        self.rows.append(row)

    def num_new(self, tokens: Sequence[int]) -> int:
        """Tokens that a row would add."""
        parent = -1
        for depth in range(len(tokens)):
            place = self._children.get((parent, _branch(tokens, depth)))
            if place is None:
                return len(tokens) - depth
            parent = place
        return 0


def _branch(tokens: Sequence[int], depth: int) -> Branch:
    """What tells a token from its siblings: of a picture all of its digest, so that two pictures
    share no token of it."""
    token = tokens[depth]
    return token if token < FIRST_WORD else tuple(tokens[depth : depth + WORDS])


def packs(rows: Sequence[Sequence[int]]) -> list[Pack]:
    """Rows in as few packs as their order gives."""
    found: list[Pack] = []
    for i in sorted(range(len(rows)), key=lambda i: tuple(rows[i])):
        if not found or len(found[-1].tokens) + found[-1].num_new(rows[i]) > MAX_TOKENS:
            found.append(Pack())
        found[-1].add(i, rows[i])
    return found


def _batches(found: Sequence[Pack]) -> Iterator[list[Pack]]:
    batch: list[Pack] = []
    for pack in sorted(found, key=lambda p: len(p.tokens)):
        if batch and (len(batch) + 1) * len(pack.tokens) ** 2 > MAX_CELLS:
            yield batch
            batch = []
        batch.append(pack)
    if batch:
        yield batch


def packed_logprobs(network: InferenceNetwork, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """For each row the log-probability of each token but the first, given those before it."""
    answers: list[list[float]] = [[] for _ in rows]
    for batch in _batches(packs([row[:-1] for row in rows])):
        hidden = _forward(network, batch)
        starts = np.cumsum([0, *(len(pack.tokens) for pack in batch)])
        indices = [row for pack in batch for row in pack.rows]
        places: Ids = np.concatenate(
            [
                np.array(path, np.int64) + start
                for pack, start in zip(batch, starts.tolist(), strict=False)
                for path in pack.paths
            ]
        )
        targets: Ids = np.concatenate([np.array(rows[i][1:], np.int64) for i in indices])
        found = iter(_gathered(network, hidden, places, targets))
        for i in indices:
            answers[i] = [next(found) for _ in rows[i][1:]]
    return answers


def packed_likeliest(
    network: InferenceNetwork, rows: Sequence[Sequence[int]], num: int
) -> list[list[tuple[tuple[int, float], ...]]]:
    """For each row, in the place of each token but the first, the `num` most probable tokens."""
    answers: list[list[tuple[tuple[int, float], ...]]] = [[] for _ in rows]
    step = max(1, MAX_LOGITS // network.arch.vocab_size)
    for batch in _batches(packs([row[:-1] for row in rows])):
        hidden = _forward(network, batch)
        found: list[tuple[tuple[int, float], ...]] = []
        for start in range(0, hidden.shape[0], step):
            logprobs = torch.log_softmax(network.logits(hidden[start : start + step]).float(), -1)
            top = logprobs.topk(min(num, logprobs.shape[1]))
            found += [
                tuple(zip(tokens, values, strict=True))
                for tokens, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
            ]
        starts = np.cumsum([0, *(len(pack.tokens) for pack in batch)])
        for pack, start in zip(batch, starts.tolist(), strict=False):
            for row, path in zip(pack.rows, pack.paths, strict=True):
                answers[row] = [found[start + place] for place in path]
    return answers


def _gathered(
    network: InferenceNetwork, hidden_RE: Tensor, places: Ids, targets: Ids
) -> list[float]:
    """log p(target | all up to the place), each place's distribution made once on a CPU."""
    step = max(1, MAX_LOGITS // network.arch.vocab_size)
    found = np.empty(len(places))
    for start in range(0, hidden_RE.shape[0], step):
        part_RE = hidden_RE[start : start + step]
        here = np.flatnonzero((places >= start) & (places < start + step))
        place = torch.from_numpy(places[here] - start).to(part_RE.device)
        target = torch.from_numpy(targets[here]).to(part_RE.device)
        found[here] = network.logprobs_of(part_RE, target, place).cpu().numpy()
    return [float(x) for x in found]


def _forward(network: InferenceNetwork, batch: Sequence[Pack]) -> Tensor:
    """Hidden states of all tokens, pack by pack."""
    N, M = len(batch), max(len(pack.tokens) for pack in batch)
    cache = Cache(network, has_room_ahead=False)
    cache.open([M] * N)
    counts = np.array([len(pack.tokens) for pack in batch])
    is_hidden = np.ones((N, M, cache.num_columns), np.bool_)
    for n, pack in enumerate(batch):
        is_hidden[n, : len(pack.tokens), : len(pack.tokens)] = ~_ancestors(pack)
    place_R = within(counts)
    depth_R = np.concatenate([np.array(pack.depths) for pack in batch])
    job_R = np.repeat(np.arange(N), counts)
    where = Where(slice(0, N), job_R, place_R, place_R, depth_R)
    places = placed(network, where, is_hidden, bool((counts == M).all()))
    tokens_R = torch.tensor([t for pack in batch for t in pack.tokens], device=network.device)
    return network.forward(tokens_R, places, cache.layers)


def _ancestors(pack: Pack) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
    """Which tokens each token sees, [M, M]: its ancestors and itself."""
    size = len(pack.tokens)
    seen = np.zeros((size, size), np.bool_)
    for place, parent in enumerate(pack.parents):
        if parent >= 0:
            seen[place] = seen[parent]
        seen[place, place] = True
    return seen
