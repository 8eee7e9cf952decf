"""Secrets in texts that people and files get to see."""

import os
import re

HIDDEN = "***"
_TOKEN = re.compile(r"(\s+)")
_NAMED = re.compile(
    r"\b(password|passwd|sslpassword|token|secret|api_key|apikey)=[^&\s'\"]+", re.IGNORECASE
)
_SECRET_NAMES = ("PASSWORD", "PGPASSWORD", "_TOKEN", "_KEY", "_SECRET", "_PASSWORD")
MIN_SECRET = 6
"""Shorter values of the environment are no secrets: hiding `1` would hide half of a text."""
_given: set[str] = set()
"""Passwords of URLs that this process was given."""


def masked(text: str) -> str:
    """The text without the secrets in it: passwords of URLs, values of keys that name a secret, and
    what the environment holds as a token, a key or a password. Time is linear in its length."""
    if "://" in text:
        text = "".join(map(_masked_token, _TOKEN.split(text)))
    if "=" in text:
        text = _NAMED.sub(rf"\1={HIDDEN}", text)
    for secret in (*_given, *_of_environment()):
        text = text.replace(secret, HIDDEN)
    return text


def _masked_token(token: str) -> str:
    start, at = token.find("://") + 3, token.rfind("@")
    if start < 3 or at < start:
        return token
    colon = token.find(":", start, at)
    return token if colon < 0 else token[: colon + 1] + HIDDEN + token[at:]


def _of_environment() -> list[str]:
    return [
        value
        for name, value in os.environ.items()
        if name.endswith(_SECRET_NAMES) and len(value) >= MIN_SECRET
    ]


def remember(secret: str) -> None:
    """Hide this text from now on, wherever it stands."""
    if len(secret) >= MIN_SECRET:
        _given.add(secret)
