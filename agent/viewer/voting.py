"""Blind votes in a browser: one judge, whose name the command was given."""

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from agent.arena.ballots import BallotBox
from search.errors import UsageError
from store.arena import arena_problems, chosen_task
from store.database import Store
from store.states import Choice

FORMS = {
    "left-3": (Choice.LEFT, 3, "much better"),
    "left-2": (Choice.LEFT, 2, "better"),
    "left-1": (Choice.LEFT, 1, "slightly better"),
    "tie": (Choice.TIE, 1, "about as good"),
    "bad": (Choice.BAD, 1, "both bad"),
    "right-1": (Choice.RIGHT, 1, "slightly better"),
    "right-2": (Choice.RIGHT, 2, "better"),
    "right-3": (Choice.RIGHT, 3, "much better"),
}
"""What a button sends, and what it says: the choice, its strength, words."""
MAX_BODY = 1_000


class Voting:
    """Ballots by task. Requests come from several threads and take turns."""

    def __init__(self, opened: Callable[[], Store], judge: str, seed: int) -> None:
        """`opened` opens the store to be written to, when the first ballot is asked for."""
        self._opened, self.judge, self._seed = opened, judge, seed
        self._lock = threading.Lock()
        self._boxes: dict[str, BallotBox] = {}

    def ballot(self, store: Store, task: str | None, said: str = "") -> dict[str, Any]:
        """The next pair, as the page shows it. `store` is read, to find the task."""
        with store.session() as session:
            name = chosen_task(session, task)
        with self._lock:
            ballot = self._box(name).ballot()
        return {
            "trail": [("Arena", f"/arena?{urlencode({'task': name})}"), ("ballot", "")],
            "task": name,
            "judge": self.judge,
            "ballot": ballot,
            "said": said,
            "buttons": [
                (value, choice.value, words) for value, (choice, _, words) in FORMS.items()
            ],
        }

    def cast(self, store: Store, form: dict[str, list[str]]) -> dict[str, Any]:
        """Write the vote of a form, and the next pair. Raises UsageError, NotFoundError."""
        task, number, pressed = (form.get(key, [""])[0] for key in ("task", "ballot", "choice"))
        if pressed not in FORMS or not (number.isascii() and number.isdigit() and len(number) < 17):
            raise UsageError("that is no vote", "take the next ballot")
        choice, strength, _ = FORMS[pressed]
        with store.session() as session:
            name = chosen_task(session, task)
        with self._lock:
            vote = self._box(name).cast(int(number), choice, strength)
        return self.ballot(store, name, str(vote.choice))

    def _box(self, task: str) -> BallotBox:
        if task not in self._boxes:
            store = self._opened()
            try:
                with store.session() as session:
                    problems = arena_problems(session, task)
                self._boxes[task] = BallotBox(store, task, problems, self.judge, self._seed)
            except BaseException:
                store.close()
                raise
        return self._boxes[task]
