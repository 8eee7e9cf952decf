"""Models that are named by the address of an endpoint."""

import importlib.util
from urllib.parse import urlsplit

from search.errors import UsageError

JUDGE_KEY = "RATCHET_JUDGE_KEY"
"""Environment variable with the key of a served judge."""


def is_served(judge: str) -> bool:
    """Whether a judge is named by its address."""
    return "://" in judge


def check_served(url: str) -> None:
    """Raises UsageError for an address that cannot be asked. No message says it whole: a part of it
    may be a secret."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.username is not None or parts.password is not None or "@" in url:
        raise UsageError(
            "the judge's address has a name or a password in it",
            f"put the key into the environment variable {JUDGE_KEY}",
        )
    if parts.query or parts.fragment:
        raise UsageError(
            "the judge's address has more behind its path",
            f"leave it out; a key goes into the environment variable {JUDGE_KEY}",
        )
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise UsageError(
            "the judge's address is no http address",
            "write http://HOST:PORT/v1, or the directory of a model",
        )
    if importlib.util.find_spec("openai") is None:
        raise UsageError(
            "the judge is an address, and openai, which asks it, is not there",
            "pip install -e '.[serve]', or name the directory of a model",
        )
