"""A boundary in the tokens of one vocabulary."""

from collections.abc import Callable, Sequence

from search.boundary import Boundary


class Steps:
    """Says whether an option is whole. `ids` are the tokens that may be its last."""

    def __init__(
        self, boundary: Boundary, ids: frozenset[int], decode: Callable[[Sequence[int]], str]
    ) -> None:
        self.boundary = boundary
        self.ids = ids
        self.decode = decode

    @classmethod
    def none(cls, boundary: Boundary) -> "Steps":
        """For models that write nothing."""
        return cls(boundary, frozenset(), lambda tokens: "")

    def limit(self, max_tokens: int) -> int:
        """Tokens of an option, at most."""
        own = self.boundary.max_tokens
        return min(own, max_tokens) if own else max_tokens

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens, of one option from its first on, are a whole one."""
        if 0 < self.boundary.max_tokens <= len(tokens):
            return True
        if not tokens or tokens[-1] not in self.ids:
            return False
        return self.boundary.ends is None or self.boundary.ends(self.decode(tokens))
