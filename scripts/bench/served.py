"""A server as a process of its own, and problems to ask it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

from agent.tasks.expressions import Expressions

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Served:
    """A server that listens."""

    url: str
    process: "subprocess.Popen[str]"
    folder: Path

    @property
    def base(self) -> str:
        return self.url.removesuffix("/v1")

    def body(self, question: str, model: str = "latest:mcts", **more: Any) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": question}]} | more

    def figure(self, name: str) -> float:
        """Of /metrics; 0 where it is not there yet."""
        text = httpx.get(f"{self.base}/metrics", timeout=30).text
        found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0]) if found else 0.0

    def rss_mib(self) -> float:
        """Of the server and its children."""
        own = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in [own, *own.children(recursive=True)]) / 2**20

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Served]:
    """`ratchet serve` in a folder of its own, until the block ends."""
    log = folder / "server.log"
    with log.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "serve", "--port", "0", "--json", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
        yield Served(json.loads(line)["url"], process, folder)
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def questions(num: int, seed: int) -> list[tuple[str, str]]:
    """Held-out expressions with their answers."""
    return [(p.text, p.answer or "") for p in Expressions().held_out(num, seed)]
