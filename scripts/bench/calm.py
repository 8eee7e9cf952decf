"""Answers of a server that nothing disturbs: the measure of those it gives when something does."""

from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx

from scripts.bench.served import Served, questions


class Calm:
    """What a quiet server answers: under faults it must be the same."""

    def __init__(self, server: Served, num: int, seed: int) -> None:
        self.asked = [q for q, _ in questions(num, seed)]
        self.expected = dict(zip(self.asked, self._answers(server, self.asked), strict=True))
        if None in self.expected.values():
            raise RuntimeError("a quiet server failed")

    def again(self, server: Served) -> tuple[int, int, int]:
        """Answers that are the same, that are others, and requests that failed."""
        found = self._answers(server, self.asked)
        same = sum(self.expected[q] == a for q, a in zip(self.asked, found, strict=True))
        failed = sum(a is None for a in found)
        return same, len(found) - same - failed, failed

    def _answers(self, server: Served, asked: list[str]) -> list[str | None]:
        """None for a request that failed."""

        def one(question: str) -> str | None:
            try:
                found = httpx.post(
                    f"{server.url}/chat/completions", json=server.body(question), timeout=300
                )
            except httpx.HTTPError:
                return None
            return found.json()["choices"][0]["message"]["content"] if found.is_success else None

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, asked))
