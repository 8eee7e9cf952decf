"""How many tokens each key had read or written for it in the last minute."""

import threading
import time
from collections import deque
from collections.abc import Callable

from agent.service.errors import ServiceError

WINDOW_S = 60.0


class Meter:
    """Refuses a key that has had its share; what is under way is not cut off."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` tokens of a key; 0: any number."""
        self.per_minute = per_minute
        self._clock = clock
        self._spent: dict[str, deque[tuple[float, int]]] = {}
        self._lock = threading.Lock()

    def note(self, owner: str, num_tokens: int) -> None:
        """So many tokens were spent for a key just now."""
        if self.per_minute and num_tokens:
            with self._lock:
                self._spent.setdefault(owner, deque()).append((self._clock(), num_tokens))

    def check(self, owner: str) -> None:
        """Raises ServiceError for a key that must wait, and says for how long."""
        if not self.per_minute:
            return
        with self._lock:
            spent = self._spent.get(owner, deque())
            now = self._clock()
            while spent and now - spent[0][0] >= WINDOW_S:
                spent.popleft()
            if not spent:
                self._spent.pop(owner, None)
            total = sum(num for _, num in spent)
        if total >= self.per_minute:
            raise ServiceError(
                429,
                f"{total:,} tokens in a minute; this key may have {self.per_minute:,}",
                "rate_limit_exceeded",
                retry_after_s=WINDOW_S - (now - spent[0][0]),
            )
