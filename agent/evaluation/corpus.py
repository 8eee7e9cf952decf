"""How well a policy compresses a corpus: bits per character of one stream of text.

As Huang et al., arXiv 2404.09937, measure it: documents are encoded one by one and lie end to end
in one stream; a window of 1,900 tokens moves over it by 512, and of each window only those tokens
count that no earlier one had. A figure per character compares models whose tokens differ.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.engine.requests import ScoreRequest
from agent.progress import Progress
from agent.search_models import Models
from agent.tasks.row_files import rows_of
from search.errors import CheckpointError, TaskError, UsageError
from store.states import Stage

WINDOW, STRIDE = 1_900, 512
AT_ONCE = 16
"""Windows that are asked for in one call."""
MOST_BYTES = 2**28
ROWS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
TEXT = ("text", "content")
"""Keys of a row's document."""


@dataclass(frozen=True, slots=True)
class Compression:
    bits_per_character: float
    num_characters: int
    num_tokens: int
    """Of the stream; all but the first count."""
    num_documents: int
    window: int
    """Tokens that are looked at together: 1,900, or the policy's context where that is less."""
    stride: int

    @property
    def is_comparable(self) -> bool:
        """Whether others' figures, made as the paper makes them, may stand beside it."""
        return self.window == WINDOW and self.num_tokens >= WINDOW

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"is_comparable": self.is_comparable}


def read_corpus(file: str) -> list[str]:
    """Documents of a corpus that are not empty: of a file of rows each one's `text` or `content`,
    of any other file all of it. Raises UsageError and TaskError for what cannot be read as that."""
    try:
        path = Path(file).expanduser()
        is_there = path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, nobody's home, a NUL
        is_there = False
    if not is_there:
        raise UsageError(f"there is no file {file[:200]!r}", "name a text file, or one of rows")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(
            f"{path} has {path.stat().st_size:,} bytes, over {MOST_BYTES:,}", "give a part of it"
        )
    if path.suffix.lower() in ROWS:
        found = [_document(where, row) for where, row in rows_of(str(path))]
    else:
        try:
            found = [path.read_text(encoding="utf-8")]
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is no UTF-8 text: {error}", "convert it to UTF-8") from error
    found = [text for text in found if text]
    if not found:
        raise UsageError(f"{path} has no text", "give a corpus with at least one document")
    return found


def _document(where: str, row: Any) -> str:
    if isinstance(row, Exception):
        raise row
    text = next((row[key] for key in TEXT if key in row), None) if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise TaskError(
            f"{where} has no {' and no '.join(TEXT)} that is a text", "give each document as one"
        )
    return text


def windows(num_tokens: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """(start, first that counts, end) of each, so that all tokens but the first count once. Unlike
    the published code, which leaves out a last incomplete window, this one ends with it."""
    found = [(0, 1, min(window, num_tokens))]
    while (seen := found[-1][2]) < num_tokens:
        start = found[-1][0] + stride
        found.append((start, seen, min(start + window, num_tokens)))
    return found


def corpus_compression(models: Models, documents: Sequence[str], progress: Progress) -> Compression:
    """Bits per character of the documents as one stream. Raises TaskError where the policy's
    vocabulary cannot spell a document, UsageError where there is nothing to predict, and
    CheckpointError for weights that give no number."""
    stream: list[int] = []
    for text in documents:
        stream += models.tokenizer.encode(text)
    if len(stream) < 2:
        raise UsageError(
            f"the corpus is {len(stream)} token long: there is nothing to predict",
            "give a longer one",
        )
    window = min(WINDOW, models.policy.max_positions)
    stride = max(1, min(STRIDE, window * STRIDE // WINDOW))
    parts = windows(len(stream), window, stride)
    progress.stage(Stage.EVALUATING, len(parts), f"windows, policy {models.policy.version}")
    nats = 0.0
    for at in range(0, len(parts), AT_ONCE):
        asked = [
            ScoreRequest(tuple(stream[start:end]), first - start)
            for start, first, end in parts[at : at + AT_ONCE]
        ]
        nats -= sum(map(sum, models.hosts.logprobs(models.policy, asked)))
        progress.update(min(at + AT_ONCE, len(parts)))
    if not math.isfinite(nats):
        raise CheckpointError(
            f"the policy {models.policy.path} gives the corpus no finite probability",
            "use another checkpoint: its weights are damaged or overflow",
        )
    characters = sum(map(len, documents))
    bits = nats / math.log(2) / characters
    return Compression(bits, characters, len(stream), len(documents), window, stride)
