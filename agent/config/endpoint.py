"""Models that are named by the address of an endpoint."""

import importlib.util

from search.errors import UsageError

JUDGE_KEY = "RATCHET_JUDGE_KEY"
"""Environment variable with the key of a served judge."""


def is_served(judge: str) -> bool:
    """Whether a judge is named by its address."""
    return "://" in judge


def check_served(url: str) -> None:
    """Raises UsageError for an address that cannot be asked."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(
            f"setting 'imagination.judge' is {url!r}, which is no http address",
            "write http://HOST:PORT/v1, or the directory of a model",
        )
    if "@" in url.split("//", 1)[1].split("/", 1)[0]:
        raise UsageError(
            "setting 'imagination.judge' has a password in its address",
            f"put the key into the environment variable {JUDGE_KEY}",
        )
    if importlib.util.find_spec("openai") is None:
        raise UsageError(
            f"setting 'imagination.judge' is {url!r}, and openai, which asks it, is not installed",
            "pip install -e '.[serve]', or name the directory of a model",
        )
