"""Telling people how far the work is: a live line on a terminal, plain lines elsewhere."""

import threading
import time
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from agent.visible import shown
from store.masking import masked

PLAIN_EVERY_S = 15.0


class Progress(Protocol):
    def stage(self, name: str, total: int, unit: str) -> None:
        """A stage begins, with this many things to do."""
        ...

    def update(self, done: int, **figures: Any) -> None:
        """This many are done; figures such as solved, simulations, tokens or loss."""
        ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


class Silent:
    """For programs: says nothing."""

    def stage(self, name: str, total: int, unit: str) -> None: ...

    def update(self, done: int, **figures: Any) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


class Terminal:
    """Talk goes to stderr: data on stdout stays clean."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._live: Live | None = None
        self._lock = threading.RLock()
        self._name, self._total, self._unit = "", 0, ""
        self._started = self._printed = time.monotonic()
        self._done = 0
        self._figures: dict[str, Any] = {}

    def stage(self, name: str, total: int, unit: str) -> None:
        with self._lock:
            self._finish()
            self._name, self._total, self._unit = name, total, unit
            self._done, self._figures = 0, {}
            self._started = self._printed = time.monotonic()
            if self.console.is_terminal:
                self._live = Live(
                    self._line(),
                    console=self.console,
                    transient=True,
                    get_renderable=self._line,
                    refresh_per_second=4,
                )
                self._live.start()

    def update(self, done: int, **figures: Any) -> None:
        with self._lock:
            self._done = done
            self._figures |= figures
            if self._live is None and time.monotonic() - self._printed > PLAIN_EVERY_S:
                self._printed = time.monotonic()
                self.console.print(self._text(), highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        with self._lock:
            self.console.print(shown(masked(text)), highlight=False)

    def close(self) -> None:
        with self._lock:
            self._finish()

    def _finish(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._name:
            self.console.print(self._text(is_over=True), highlight=False, soft_wrap=True)
            self._name = ""

    def _line(self) -> Table:
        grid = Table.grid(padding=(0, 1))
        share = self._done / self._total if self._total else 0.0
        filled = round(24 * min(1.0, share))
        bar = f"[green]{'━' * filled}[/][dim]{'━' * (24 - filled)}[/]"
        grid.add_row(bar, self._text())
        return grid

    def _text(self, is_over: bool = False) -> str:
        spent = time.monotonic() - self._started
        parts = [f"{self._name:<11} {self._done}/{self._total} {self._unit}"]
        shown = dict(self._figures)
        for name in ("simulations", "tokens"):
            if name in shown and spent > 0:
                parts.append(f"{shown.pop(name) / spent:,.0f} {name}/s")
        for name, value in shown.items():
            parts.append(f"{name} {value:.1%}" if name == "solved" else f"{name} {value:.4g}")
        parts.append(f"{spent:.0f} s")
        if 0 < self._done < self._total and not is_over:
            parts.append(f"about {spent / self._done * (self._total - self._done):.0f} s left")
        return " · ".join(parts)


def make_progress(quiet: bool) -> Progress:
    """A terminal's progress; for pipes plain lines every 15 s; nothing when quiet."""
    return Silent() if quiet else Terminal()
