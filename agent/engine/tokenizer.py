"""Text to token ids and back, from a checkpoint's tokenizer.json.

Text from users is encoded with special tokens switched off: `</s>` typed in a question is four
characters, never the end of the text.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer

from agent.engine.option_ends import Steps
from search.boundary import Boundary
from search.errors import CheckpointError, TaskError


class Tokenizer:
    def __init__(self, path: Path) -> None:
        file = path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"{path} has no tokenizer.json",
                "save the tokenizer there with transformers: tokenizer.save_pretrained(...)",
            )
        try:
            self.fast = FastTokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{file} cannot be read: {error}", "save it again") from error
        self.fast.encode_special_tokens = True
        config = json.loads((path / "config.json").read_text())
        extra = path / "generation_config.json"
        if extra.is_file():
            config |= {k: v for k, v in json.loads(extra.read_text()).items() if v is not None}
        end = config.get("eos_token_id")
        self.end_ids: tuple[int, ...] = (
            tuple(end) if isinstance(end, list) else () if end is None else (int(end),)
        )
        if not self.end_ids:
            raise CheckpointError(
                f"{path} names no eos_token_id", "set eos_token_id in its config.json"
            )
        added = self.fast.get_added_tokens_decoder()
        self._steps: dict[str, Steps] = {}
        self.special_ids = frozenset(i for i, t in added.items() if t.special) | set(self.end_ids)

    @property
    def vocab_size(self) -> int:
        return self.fast.get_vocab_size(with_added_tokens=True)

    @cached_property
    def _texts(self) -> list[str]:
        """Text of each token; special ones have none."""
        return [
            "" if i in self.special_ids else self.fast.decode([i]) for i in range(self.vocab_size)
        ]

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
        try:
            ids = self.fast.encode(text, add_special_tokens=is_start).ids
        except Exception as error:  # a vocabulary without an unknown token raises plain Exception
            raise TaskError(
                f"the policy's vocabulary cannot spell {text[:60]!r}",
                "use a policy whose tokenizer covers this text",
            ) from error
        plain = self.fast.encode(text, add_special_tokens=False).ids
        inside = self.special_ids.intersection(plain)
        if inside:
            raise TaskError(
                f"the text is read as control token {self.fast.id_to_token(min(inside))!r}",
                "remove it from the text",
            )
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.fast.decode([i for i in ids if i not in self.special_ids]))
