"""math-verify, where it may take no longer than it should."""

import logging

from agent.tasks.killable import Killable


def verify_pair(question: tuple[str, str]) -> bool:
    """Whether two answers are equal as mathematics."""
    from math_verify import parse, verify

    # It warns that it has no time limit; being killed is the limit here.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    left, right = (parse(f"${text}$", parsing_timeout=None) for text in question)
    return bool(verify(left, right, timeout_seconds=None))


class Verifier:
    """Compares two mathematical answers. A question that takes too long counts as not equal."""

    def __init__(self) -> None:
        self.process = Killable(verify_pair)

    def is_equal(self, left: str, right: str) -> bool:
        return bool(self.process.ask((right, left)))

    def close(self) -> None:
        self.process.close()
