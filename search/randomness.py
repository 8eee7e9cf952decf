"""Counter-based random numbers for the search: a seed is a digest of what it is for."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed for (run seed, problem, node, rollout, purpose, ...).

    >>> derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    True
    >>> derive_seed(1, "a", 2) == derive_seed(1, "a2")
    False
    """
    raw = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big") >> 1
