"""The header of a safetensors file: which tensors it holds, checked before anything is built of it.

Format: https://github.com/huggingface/safetensors#format. Eight bytes little-endian say how long
the JSON that follows is; each tensor has a dtype, a shape and its two offsets behind that.
"""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

MAX_HEADER_BYTES = 8 * 2**20
"""The library allows 100 MB; the largest files in use have some 2 MB."""
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the dtypes that weights may have."""
OTHER_WIDTHS = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "C64": 8},
}
KINDS = {"F8": "float8", "F4": "float4", "F6": "float6", "C": "complex", "B": "truth values"}


class TensorListError(ValueError):
    """The file is not what safetensors writes, or holds what no network of ours can use."""


def tensor_shapes(handle: int) -> dict[str, tuple[int, ...]]:
    """Shape by name of the weights in an opened file; buffers of rotary embeddings are left out.

    Raises TensorListError, having read no more than the header.
    """
    size = os.fstat(handle).st_size
    length = int.from_bytes(os.pread(handle, 8, 0), "little")
    if size < 8 or length > size - 8:
        raise TensorListError(f"it ends early: {size:,} bytes, a header of {length:,}")
    if length > MAX_HEADER_BYTES:
        raise TensorListError(f"its header has {length:,} bytes, over {MAX_HEADER_BYTES:,}")
    listed = _parsed(os.pread(handle, length, 8))
    listed.pop("__metadata__", None)
    if len(listed) > MAX_TENSORS:
        raise TensorListError(f"it has {len(listed):,} tensors, over {MAX_TENSORS:,}")
    spans = {name: _span(name, entry) for name, entry in listed.items()}
    end = 0
    for name, (begin, stop) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != end:
            raise TensorListError(f"tensor {name[:80]!r} begins at {begin}, not at {end}")
        end = stop
    if end != size - 8 - length:
        raise TensorListError(f"its tensors take {end:,} bytes, the file has {size - 8 - length:,}")
    return {
        name: tuple(entry["shape"]) for name, entry in listed.items() if _is_weight(name, entry)
    }


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError:
        raise TensorListError("its header is nested too deeply") from None
    except ValueError as error:
        raise TensorListError(f"its header is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise TensorListError("its header is no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise TensorListError("its header has a name twice")
    return found


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Begin and end of a tensor, which fit its dtype and shape."""
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise TensorListError(f"tensor {name[:80]!r} has no dtype, shape or offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    width = (WIDTHS | OTHER_WIDTHS).get(dtype) if isinstance(dtype, str) else None
    if width is None:
        raise TensorListError(f"tensor {name[:80]!r} has the dtype {str(dtype)[:40]!r}")
    if not _are_sizes(shape, MAX_DIMENSIONS) or not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise TensorListError(f"tensor {name[:80]!r} has shape {shape!r:.80} at {offsets!r:.80}")
    begin, end = offsets
    if end - begin != math.prod(shape) * width:
        raise TensorListError(
            f"tensor {name[:80]!r} of shape {shape} and dtype {dtype} has {end - begin:,} bytes"
        )
    return begin, end


def _are_sizes(values: Any, most: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(type(value) is int and 0 <= value < 2**48 for value in values)
    )


def _is_weight(name: str, entry: Mapping[str, Any]) -> bool:
    if "rotary_emb" in name:
        return False
    if entry["dtype"] not in WIDTHS:
        kinds = (kind for start, kind in KINDS.items() if entry["dtype"].startswith(start))
        kind = next(kinds, "integer")
        raise TensorListError(
            f"tensor {name[:80]!r} holds {kind} weights ({entry['dtype']}); "
            f"weights may be {', '.join(WIDTHS)}"
        )
    return True
