"""Keys and values of prefixes, kept between calls: a radix tree of token ids over a bounded pool.

One tree belongs to one set of weights (`version`), so after an update nothing of the old weights
can be reached. A prefix is forked by copying its columns into a job's cache; on a CPU that costs a
hundredth of computing them. What was used longest ago goes first when the pool is full; pinned
prefixes and their ancestors stay. Losing an entry costs time, never a different result.

The idea of a radix tree over token ids is RadixAttention's (Zheng et al., arXiv 2312.07104); here
pages are single tokens, and an enumeration of options may be kept on its prefix (`keep_work`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent.engine.decode import DecodeLoop
from agent.engine.job_cache import Cache, Ids, part_sizes
from agent.networks.inference import InferenceNetwork

Tokens = tuple[int, ...]


FIRST_TOKENS = 4096
LONG = 64
"""Mean tokens from which a prefix is copied by itself, in one piece."""


@dataclass(slots=True, eq=False)
class Segment:
    """Tokens of the tree between two branchings, or work that was kept on a prefix."""

    tokens: Tokens
    ids: Ids
    """Places of the tokens in the pool."""
    parent: "Segment | None"
    children: dict[Any, "Segment"] = field(default_factory=dict)
    """By first token; kept work by its key."""
    used: int = 0
    """When it was last of use, on the tree's own clock."""
    pins: int = 0
    key: Any = None
    """Of kept work; empty for tokens of the tree."""
    payload: Any = None


@dataclass(frozen=True, slots=True)
class KeptWork:
    """Columns of a job to be kept below a prefix, under a key that is no token id."""

    prefix: Tokens
    key: Any
    payload: Any
    job: int
    columns: Ids


_Kept = tuple[int, Ids, Ids]
"""A job, its columns, and their places in the pool."""


class KVTree:
    def __init__(self, network: InferenceNetwork, version: str, max_bytes: int) -> None:
        self.network = network
        self.version = version
        self.max_tokens = max(0, max_bytes // network.kv_bytes)
        self.root = Segment((), np.zeros(0, np.int64), None)
        self.pool: list[Tensor] = []
        """Tensors [layers, tokens, 2 G, D], divided as the cache is; they grow up to the bound."""
        self.free: list[int] = []
        self.clock = 0
        self.num_hits = 0
        """Tokens that did not have to be computed."""
        self.num_misses = 0
        self.num_evicted = 0

    @property
    def num_tokens(self) -> int:
        """Tokens held."""
        return (self.pool[0].shape[1] if self.pool else 0) - len(self.free)

    @property
    def num_bytes(self) -> int:
        return sum(layer.numel() * layer.element_size() for layer in self.pool)

    def match(self, prefix: Tokens) -> tuple[Segment, Ids]:
        """The deepest segment that a prefix reaches, and the places of the tokens found."""
        self.clock += 1
        node, place, parts = self.root, 0, list[Ids]()
        while place < len(prefix):
            child = node.children.get(prefix[place])
            if child is None:
                break
            size = len(child.tokens)
            if child.tokens == prefix[place : place + size]:
                node = child
            else:
                size = _common(child.tokens, prefix[place : place + size])
                child.used = self.clock
                parts.append(child.ids[:size])
                break
            node.used = self.clock
            parts.append(child.ids)
            place += size
        return node, np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def load(self, cache: Cache, jobs: Ids, found: Sequence[Ids]) -> None:
        """Copy found tokens to the first columns of jobs: a fork."""
        job = np.repeat(jobs, [len(ids) for ids in found])
        if not len(job):
            return
        self.num_hits += len(job)
        is_cpu = self.network.device.type == "cpu"
        if is_cpu and len(job) >= LONG * len(found) and all(map(_is_run, found)):
            for pooled, part in zip(self.pool, cache.parts, strict=True):
                for each, ids in zip(jobs.tolist(), found, strict=True):
                    if len(ids):
                        run = slice(int(ids[0]), int(ids[-1]) + 1)
                        part[:, each, : len(ids)].copy_(pooled[:, run])
            return
        column = np.concatenate([np.arange(len(ids)) for ids in found])
        self._copy(np.concatenate(list(found)), cache, job, column)

    def _copy(self, ids: Ids, cache: Cache, job: Ids, column: Ids) -> None:
        device = self.network.device
        source = torch.from_numpy(ids).to(device)
        place = torch.from_numpy(job * cache.layers[0].shape[1] + column).to(device)
        for pooled, part in zip(self.pool, cache.parts, strict=True):
            part.flatten(1, 2).index_copy_(1, place, pooled.index_select(1, source))

    def store(self, cache: Cache, entries: Sequence[tuple[int, Tokens]]) -> None:
        """Keep prefixes that lie in the first columns of jobs: (job, prefix) each."""
        kept: list[_Kept] = []
        for job, prefix in entries:
            start, ids = self._insert(prefix)
            kept.append((job, np.arange(start, start + len(ids)), ids))
        self._keep(cache, kept)

    def _keep(self, cache: Cache, kept: Sequence["_Kept"]) -> None:
        """Copy columns of jobs to their places in the pool."""
        ids = np.concatenate([ids for _, _, ids in kept]) if kept else np.zeros(0, np.int64)
        if not len(ids):
            return
        device = self.network.device
        job = np.repeat([job for job, _, _ in kept], [len(ids) for _, _, ids in kept])
        column = np.concatenate([columns for _, columns, _ in kept])
        target = torch.from_numpy(ids).to(device)
        place = (torch.from_numpy(job).to(device), torch.from_numpy(column).to(device))
        for pooled, part in zip(self.pool, cache.parts, strict=True):
            pooled[:, target] = part[:, *place]

    def _insert(self, prefix: Tokens) -> tuple[int, Ids]:
        """Make room for what the tree lacks of a prefix; its first place and the pool's places."""
        node, found = self.match(prefix)
        start = len(found)
        missing = prefix[start:]
        if not missing:
            return start, np.zeros(0, np.int64)
        self.pin(node)
        ids = self._allocate(len(missing))
        self.unpin(node)
        if ids is None:
            return start, np.zeros(0, np.int64)
        node, found = self.match(prefix)
        if len(found) != start:  # making room took a part of it
            self.free += ids.tolist()
            return start, np.zeros(0, np.int64)
        self.num_misses += len(missing)
        parent = self._split(node, prefix, len(found))
        child = Segment(missing, ids, parent, used=self.clock)
        parent.children[missing[0]] = child
        return start, ids

    def _split(self, node: Segment, tokens: Tokens, depth: int) -> Segment:
        """The segment that ends after `depth` tokens; cuts one in two where need be."""
        above = sum(len(s.tokens) for s in _ancestry(node))
        if above == depth:
            return node
        child = node.children[tokens[above]]
        size = depth - above
        upper = Segment(child.tokens[:size], child.ids[:size], node, used=child.used)
        child.tokens, child.ids, child.parent = child.tokens[size:], child.ids[size:], upper
        upper.children[child.tokens[0]] = child
        node.children[upper.tokens[0]] = upper
        return upper

    def keep_work(self, cache: Cache, entries: Sequence["KeptWork"]) -> None:
        """Keep columns of jobs on prefixes that the tree holds; what finds no room is left out."""
        kept: list[_Kept] = []
        for entry in entries:
            self.drop_work(entry.prefix, entry.key)
            node, found = self.match(entry.prefix)
            if len(found) < len(entry.prefix):
                continue
            node = self._split(node, entry.prefix, len(found))
            self.pin(node)
            ids = self._allocate(len(entry.columns))
            self.unpin(node)
            if ids is None:
                continue
            node.children[entry.key] = Segment(
                (), ids, node, used=self.clock, key=entry.key, payload=entry.payload
            )
            kept.append((entry.job, entry.columns, ids))
        self._keep(cache, kept)

    def kept_work(self, prefix: Tokens, key: Any) -> Segment | None:
        """What was kept on a prefix, if it is still there."""
        node, found = self.match(prefix)
        is_whole = len(found) == len(prefix) == sum(len(s.tokens) for s in _ancestry(node))
        segment = node.children.get(key) if is_whole else None
        if segment is not None:
            segment.used = self.clock
        return segment

    def drop_work(self, prefix: Tokens, key: Any) -> None:
        segment = self.kept_work(prefix, key)
        if segment is not None:
            self._drop(segment)

    def restore(self, segment: Segment, cache: Cache, job: int, column: int) -> None:
        """Copy kept work's columns into a job, from `column` on."""
        size = len(segment.ids)
        self.num_hits += size
        if size:
            self._copy(segment.ids, cache, np.full(size, job), np.arange(column, column + size))

    def pin(self, segment: Segment) -> None:
        """Keep a segment and all above it until as many `unpin` calls."""
        for each in _ancestry(segment):
            each.pins += 1

    def unpin(self, segment: Segment) -> None:
        for each in _ancestry(segment):
            each.pins -= 1

    def _allocate(self, num: int) -> Ids | None:
        """Places for this many tokens; None when pinned entries leave no room."""
        while len(self.free) < num:
            if not self._grow(num) and not self._evict(num):
                return None
        ids = np.asarray(self.free[len(self.free) - num :], np.int64)
        del self.free[len(self.free) - num :]
        return ids

    def _grow(self, num: int) -> bool:
        have = self.pool[0].shape[1] if self.pool else 0
        wanted = min(self.max_tokens, max(FIRST_TOKENS, 2 * have, have + num))
        if wanted <= have:
            return False
        network = self.network
        shape = (wanted - have, *network.kv_shape)
        # What was not stored is never read, so the memory need not be written first.
        more = [
            torch.empty((num, *shape), dtype=network.dtype, device=network.device)
            for num in part_sizes(network)
        ]
        if have:
            more = [torch.cat(pair, dim=1) for pair in zip(self.pool, more, strict=True)]
        self.pool = more
        self.free += range(have, wanted)
        return True

    def _evict(self, num: int) -> bool:
        """Drop leaves, longest unused first, until `num` and an eighth of the pool are free."""
        wanted = max(num, self.max_tokens // 8)
        before = len(self.free)
        while len(self.free) < wanted:
            leaves = [s for s in self.segments() if not s.children and not s.pins]
            if not leaves:
                break
            for leaf in sorted(leaves, key=lambda s: s.used):
                self._drop(leaf)
                if len(self.free) >= wanted:
                    break
        self.num_evicted += len(self.free) - before
        return len(self.free) >= num

    def _drop(self, leaf: Segment) -> None:
        assert leaf.parent is not None and not leaf.children
        self.free += leaf.ids.tolist()
        del leaf.parent.children[leaf.tokens[0] if leaf.key is None else leaf.key]

    def segments(self) -> Iterator[Segment]:
        """All but the root."""
        stack = list(self.root.children.values())
        while stack:
            segment = stack.pop()
            yield segment
            stack += segment.children.values()

    def check(self) -> None:
        """Raise AssertionError when the tree's books do not balance."""
        held = [int(i) for s in self.segments() for i in s.ids]
        total = self.pool[0].shape[1] if self.pool else 0
        assert len(held) + len(self.free) == total, (
            f"{len(held)} held + {len(self.free)} free != {total}"
        )
        assert len(set(held) | set(self.free)) == total, "a place is held twice"
        assert total <= self.max_tokens, f"{total} tokens in a pool of {self.max_tokens}"
        for s in self.segments():
            assert s.pins >= sum(c.pins for c in s.children.values()), "a pin without its ancestors"


def _is_run(ids: Ids) -> bool:
    """Places that follow one another."""
    return bool((np.diff(ids) == 1).all())


def _ancestry(segment: Segment) -> list[Segment]:
    """A segment and all above it."""
    found = []
    node: Segment | None = segment
    while node is not None:
        found.append(node)
        node = node.parent
    return found


@dataclass(frozen=True, slots=True)
class Workspace:
    """What the calls of one engine work with."""

    network: InferenceNetwork
    loop: DecodeLoop
    """Decodes the jobs under way; its cache is empty between calls."""
    tree: KVTree
    """Of the prefixes that are kept."""

    @property
    def cache(self) -> Cache:
        """Of the jobs under way."""
        return self.loop.cache


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the common beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
