"""Text to token ids and back, from a checkpoint's tokenizer.json.

Text from users is encoded with special tokens switched off: `</s>` typed in a question is four
characters, never the end of the text.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from agent.checkpoints.files import read_json
from agent.engine.option_ends import Steps
from agent.networks.architecture import Architecture
from agent.networks.pictures import without_pictures
from agent.networks.vision_shape import VisionShape
from search.boundary import Boundary
from search.errors import CheckpointError, RatchetError, TaskError

CONTEXT = 16
"""Tokens before a text that are decoded with it: a character has at most four bytes, and what a
decoder does to the first token of a text must not happen in the middle of one."""
MARK = re.compile(r"[<\[][^<>\[\]]*[A-Za-z][^<>\[\]]*[>\]]")
MAX_BYTES = 4
"""Of one character."""
OTHER_POLICY = "use a policy whose tokenizer covers this text"
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    def __init__(self, path: Path) -> None:
        file = path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"{path} has no tokenizer.json",
                "save the tokenizer there with transformers: tokenizer.save_pretrained(...)",
            )
        self.path = path
        self.fast = _loaded(file)
        self.fast.encode_special_tokens = True
        # Ids may have gaps: what counts is the largest.
        self.vocab_size = 1 + max(self.fast.get_vocab(with_added_tokens=True).values(), default=-1)
        self._check_rows()
        self.end_ids = _end_ids(path, self.fast, self.vocab_size)
        added = self.fast.get_added_tokens_decoder()
        self._steps: dict[str, Steps] = {}
        self.special_ids = frozenset(i for i, t in added.items() if t.special) | set(self.end_ids)

    def _check_rows(self) -> None:
        config = _json(self.path / "config.json")
        text = config.get("text_config")
        known = (text if isinstance(text, dict) else config).get("vocab_size")
        # Fewer tokens than rows are padding, but never half of them.
        if isinstance(known, int) and not known <= 2 * self.vocab_size <= 2 * known:
            raise CheckpointError(
                f"the tokenizer in {self.path} has {self.vocab_size} tokens, the model {known}",
                "use tokenizer and weights of the same model",
            )

    @cached_property
    def vision(self) -> VisionShape | None:
        """How the policy reads pictures; None where it reads text alone."""
        config = _json(self.path / "config.json")
        is_seeing = config.get("model_type") == "llava"
        return Architecture.from_config(config).vision if is_seeing else None

    @cached_property
    def _texts(self) -> list[str]:
        """Text of each token; special ones have none."""
        return ["" if i in self.special_ids else self.decode([i]) for i in range(self.vocab_size)]

    @cached_property
    def _with_specials(self) -> Any:
        """The same vocabulary, reading control tokens in a text: for templates."""
        return _loaded(self.path / "tokenizer.json")

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text by itself; what it puts behind is left out."""
        with _told(TaskError, "the policy's vocabulary cannot spell '1'", OTHER_POLICY):
            framed = self._with_specials.encode("1", add_special_tokens=True).ids
            plain = self._with_specials.encode("1", add_special_tokens=False).ids
        at = next((i for i in range(len(framed)) if framed[i : i + len(plain)] == plain), 0)
        return tuple(framed[:at])

    @cached_property
    def _marks(self) -> re.Pattern[str] | None:
        """Added tokens that look like marks, such as <think>, though they are not special."""
        added = self.fast.get_added_tokens_decoder().values()
        marks = [t.content for t in added if not t.special and MARK.fullmatch(t.content)]
        longest_first = sorted(marks, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if marks else None

    def steps(self, boundary: Boundary) -> Steps:
        """The boundary in this vocabulary."""
        if boundary.name not in self._steps:
            ids = frozenset(i for i, t in enumerate(self._texts) if t and boundary.may_end(t))
            self._steps[boundary.name] = Steps(boundary, ids, self.decode)
        return self._steps[boundary.name]

    def encode(self, text: str, is_start: bool = True) -> list[int]:
        """Token ids of user text; `is_start` lets the tokenizer put its own opening token first.

        Raises TaskError when the vocabulary cannot spell the text.
        """
        with _told(TaskError, f"the policy's vocabulary cannot spell {text[:60]!r}", OTHER_POLICY):
            plain = [i for part in self._parts(text) for i in self._plain(part)]
        inside = self.special_ids.intersection(plain)
        if inside:
            raise TaskError(
                f"the text is read as control token {self.fast.id_to_token(min(inside))!r}",
                "remove it from the text",
            )
        return [*self.opening, *plain] if is_start else plain

    def _plain(self, text: str) -> list[int]:
        return list(self.fast.encode(text, add_special_tokens=False).ids)

    def _parts(self, text: str) -> list[str]:
        """The text, cut inside of each mark that it spells, so that none is read as one."""
        cuts = [m.start() + 1 for m in self._marks.finditer(text)] if self._marks else []
        return [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]

    def encode_template(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Token ids of a prompt in parts, each a text and whether it is the template's own.

        Control tokens count in the template's parts alone: typed in a user's part they are plain
        characters. The text begins with the tokenizer's opening token once.
        """
        with _told(TaskError, "the policy's vocabulary cannot spell the prompt", OTHER_POLICY):
            whole = self._with_specials.encode(
                "".join(text for text, _ in parts), add_special_tokens=False
            ).ids
        own = [
            i
            for text, is_own in parts
            if is_own
            for i in self._with_specials.encode(text, add_special_tokens=False).ids
        ]
        spelled = self._marks and any(self._marks.search(t) for t, is_own in parts if not is_own)
        if spelled or self._num_special(whole) != self._num_special(own):
            whole = [
                i
                for text, is_own in parts
                for i in (
                    self._with_specials.encode(text, add_special_tokens=False).ids
                    if is_own
                    else self.encode(text, is_start=False)
                )
            ]
        has_opening = not self.opening or self.opening[0] in own
        return [*(() if has_opening else self.opening), *whole]

    def _num_special(self, ids: Sequence[int]) -> int:
        return sum(i in self.special_ids for i in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens. A NUL, which no database holds, is shown as its symbol."""
        with _told(CheckpointError, f"{self.path}: its tokenizer cannot decode", "save it again"):
            text = str(self.fast.decode([i for i in ids if i not in self.special_ids]))
        return text.replace("\0", "\N{SYMBOL FOR NULL}")

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text that tokens add to those before them.

        A space that a decoder drops at the beginning of a text is kept, and a character whose
        bytes lie in two parts belongs to the one that completes it: the texts of all parts
        together are the text of all tokens.
        """
        before = without_pictures(before)
        start = max(0, len(before) - CONTEXT)
        while start and INCOMPLETE in self._texts[before[start]]:
            start -= 1  # inside a character
        known = self._whole(before[start:])
        return self._whole([*before[start:], *ids])[len(known) :]

    def _whole(self, ids: Sequence[int]) -> str:
        """The text of tokens up to the last character that is whole.

        Tokens of an unfinished one are left out, not its mark: among bytes that spell a character
        each, a decoder that gives up on the last gives up on all.
        """
        text = self.decode(ids)
        for end in range(1, MAX_BYTES):
            if not text.endswith(INCOMPLETE):
                return text
            text = self.decode(ids[: len(ids) - end])
        return text if not text.endswith(INCOMPLETE) else self.decode(ids).rstrip(INCOMPLETE)


def _loaded(file: Path) -> Any:
    """The library's tokenizer, which cuts and fills up nothing whatever the file says."""
    with _told(CheckpointError, f"{file} cannot be read", "save it again"):
        found = FastTokenizer.from_file(str(file))
        found.no_truncation()
        found.no_padding()
    return found


@contextmanager
def _told(kind: type[RatchetError], message: str, fix: str) -> Iterator[None]:
    """What the library raises in our words: a plain Exception for a lone surrogate or a vocabulary
    without an unknown token, and for a damaged file a panic that is no Exception at all."""
    try:
        yield
    except RatchetError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{message}: {error}", fix) from error


def _json(file: Path) -> dict[str, Any]:
    """A JSON object of the folder, bounded; empty where it has none."""
    return read_json(file.parent, file.name) if file.is_file() else {}


def _end_ids(path: Path, fast: Any, vocab_size: int) -> tuple[int, ...]:
    """Every token that ends a text: those of generation_config.json, config.json and, where it has
    one of its own, the tokenizer. Raises CheckpointError for none, and for one outside of the
    vocabulary."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = _json(path / name).get("eos_token_id")
        for end in value if isinstance(value, list) else [] if value is None else [value]:
            if isinstance(end, bool) or not isinstance(end, int):
                raise CheckpointError(
                    f"{path / name} has eos_token_id {value!r}",
                    "make it a number or a list",
                )
            if not 0 <= end < vocab_size:
                raise CheckpointError(
                    f"{path / name} has eos_token_id {end}, but the tokenizer has "
                    f"{vocab_size} tokens",
                    "correct it, or save tokenizer and model of one checkpoint",
                )
            found.append(end)
    token = _json(path / "tokenizer_config.json").get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    own = fast.token_to_id(text) if isinstance(text, str) else None
    if own is not None:
        found.append(own)
    if not found:
        raise CheckpointError(
            f"{path} names no eos_token_id", "set eos_token_id in its config.json"
        )
    return tuple(dict.fromkeys(found))
