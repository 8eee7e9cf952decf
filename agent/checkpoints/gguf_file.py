"""GGUF files (llama.cpp's format, version 2 and 3): metadata and tensors, read within bounds.

The file may come from anybody: every length it states is compared with its size before anything is
read or made of it. Its tensors are dequantised by the package `gguf`, which is llama.cpp's own.
"""

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from search.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_PAIRS = 10_000
MAX_TENSORS = 100_000
MAX_KEY = 65_535
MAX_DIMS = 4
MAX_ITEMS = 16_000_000
"""Of all lists of the metadata together; the largest vocabulary in use has 0.3 million tokens."""
STRING, ARRAY = 8, 9
NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""Format letters of `struct`, by GGUF's number of the type."""


class GgufError(ValueError):
    """What is wrong with the bytes."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    name: str
    shape: tuple[int, ...]
    """As PyTorch counts: the last one is stored contiguously."""
    kind: str
    """F32, BF16, Q4_1, ..."""
    offset: int
    """Of its first byte in the file."""
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    data: mmap.mmap

    def floats(self, tensor: GgufTensor) -> Any:
        """The tensor as a float32 array of its shape, dequantised. Raises CheckpointError for a
        kind that the package `gguf` cannot read."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        raw = np.frombuffer(self.data, np.uint8, tensor.num_bytes, tensor.offset)
        try:
            found = dequantize(
                raw.reshape(*tensor.shape[:-1], -1), GGMLQuantizationType[tensor.kind]
            )
        except (NotImplementedError, ValueError) as error:
            raise CheckpointError(
                f"{tensor.name} in {self.path} is stored as {tensor.kind}, which cannot be read",
                "quantise the model as Q8_0, or convert it to F16",
            ) from error
        return np.array(found, dtype=np.float32).reshape(tensor.shape)  # a copy, ours to change


@contextmanager
def gguf_file(path: Path) -> Iterator[GgufFile]:
    """A GGUF file, mapped for as long as the block. Raises CheckpointError for a broken one."""
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as m:
            yield _read(path, m)
    except (GgufError, struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a GGUF file, or is broken: {error}", "download it again"
        ) from error
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise CheckpointError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            "give a .gguf file",
        ) from error


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.items = data, 0, 0

    def take(self, num_bytes: int) -> bytes:
        if num_bytes > len(self.data) - self.at:
            raise GgufError(f"it ends at byte {len(self.data):,} in the middle of a value")
        found = self.data[self.at : self.at + num_bytes]
        self.at += num_bytes
        return found

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def text(self, most: int | None = None) -> str:
        size = self.number("Q")
        if most is not None and size > most:
            raise GgufError(f"a name has {size:,} bytes")
        return self.take(size).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._list()
        if kind not in NUMBERS:
            raise GgufError(f"a value has type {kind}, which is not known")
        return self.number(NUMBERS[kind])

    def _list(self) -> list[Any]:
        kind, size = self.number("I"), self.number("Q")
        self.items += size
        if self.items > MAX_ITEMS:
            raise GgufError(f"its lists have over {MAX_ITEMS:,} items")
        if kind == ARRAY:
            raise GgufError("a list holds lists")
        if kind in NUMBERS:
            letters = NUMBERS[kind]
            raw = self.take(size * struct.calcsize("<" + letters))
            return list(struct.unpack(f"<{size}{letters}", raw))
        return [self.value(kind) for _ in range(size)]


def _read(path: Path, data: mmap.mmap) -> GgufFile:
    cursor = _Cursor(data)
    if cursor.take(4) != MAGIC:
        raise GgufError("it does not begin with GGUF")
    version, num_tensors, num_pairs = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
    if version not in VERSIONS:
        raise GgufError(f"its version is {version}, not 2 or 3 (or its bytes are in another order)")
    if num_tensors > MAX_TENSORS or num_pairs > MAX_PAIRS:
        raise GgufError(f"it says that it has {num_tensors:,} tensors and {num_pairs:,} keys")
    metadata: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.text(MAX_KEY)
        metadata[key] = cursor.value(cursor.number("I"))
    listed = [_tensor(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 2**20:
        raise GgufError(f"its alignment is {alignment!r:.40}")
    start = -(-cursor.at // alignment) * alignment
    tensors = [_placed(raw, start, len(data)) for raw in listed]
    found = {tensor.name: tensor for tensor in tensors}
    if len(found) != len(tensors):
        raise GgufError("two tensors have one name")
    return GgufFile(path, metadata, found, data)


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, num_dims = cursor.text(MAX_KEY), cursor.number("I")
    if num_dims > MAX_DIMS:
        raise GgufError(f"the tensor {name[:80]!r} has {num_dims} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(num_dims))
    return name, shape[::-1], cursor.number("I"), cursor.number("Q")


def _placed(raw: tuple[str, tuple[int, ...], int, int], start: int, size: int) -> GgufTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name, shape, number, offset = raw
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise GgufError(f"the tensor {name[:80]!r} has type {number}, which is not known") from None
    per_block, block_bytes = GGML_QUANT_SIZES[kind]
    row = shape[-1] if shape else 1
    if row % per_block:
        raise GgufError(f"the tensor {name[:80]!r} has rows of {row} values, stored as {kind.name}")
    num_bytes = prod(shape) // per_block * block_bytes
    if start + offset + num_bytes > size or offset < 0:
        raise GgufError(f"the tensor {name[:80]!r} ends beyond the end of the file")
    return GgufTensor(name, shape, kind.name, start + offset, num_bytes)
