"""math-verify, where it may take no longer than it should."""

import logging

from agent.tasks.killable import Killable

MAX_KNOWN = 20_000


def verify_pair(question: tuple[str, str]) -> bool:
    """Whether two answers are equal as mathematics."""
    from math_verify import parse, verify

    # It warns that it has no time limit; being killed is the limit here.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    left, right = (parse(f"${text}$", parsing_timeout=None) for text in question)
    return bool(verify(left, right, timeout_seconds=None))


class Verifier:
    """Compares two mathematical answers. A question that takes too long counts as not equal.

    Pairs are remembered: a vote asks the same ones again and again.
    """

    def __init__(self) -> None:
        self.process = Killable(verify_pair, ("1", "1"))
        self._known: dict[tuple[str, str], bool] = {}

    def is_equal(self, left: str, right: str) -> bool:
        """Raises ToolError when its process cannot start."""
        pair = (right, left)
        if pair not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            found = self.process.ask(pair)
            if found is None:
                return False  # too slow just now: it may be asked again
            self._known[pair] = bool(found)
        return self._known[pair]

    def close(self) -> None:
        self.process.close()
