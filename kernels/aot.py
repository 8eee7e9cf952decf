"""Every kernel, compiled ahead of time for a GPU that need not be there, and what it takes.

A kernel whose registers spill, or that asks for more shared memory than a multiprocessor has, is
found here on any machine. `compiled` gives registers and shared memory as the compiler reports
them and counts the tensor-core instructions in the machine code.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import critic_heads, decoding, linear_logprob, verify_draft

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes a program may have (CUDA C++ programming guide, table of compute capabilities)."""
ARCHITECTURES = tuple(SHARED_LIMIT)
_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel at one set of compile-time sizes."""

    name: str
    kernel: Any
    types: dict[str, str]
    """Types of the arguments that are there at run time; all others are 32-bit numbers."""
    constants: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    is_tensor_core: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """What a compiled kernel takes of a GPU."""

    name: str
    architecture: int
    registers: int
    stack: int
    """Bytes of local memory a thread; anything above 0 is spilled or indexed at run time."""
    shared: int
    """Bytes a program, static and dynamic."""
    tensor_core: int
    """Tensor-core instructions in the machine code."""
    wants_tensor_core: bool = field(default=False)

    @property
    def faults(self) -> list[str]:
        found = []
        if self.stack:
            found.append(f"{self.stack} bytes of stack")
        if self.shared > SHARED_LIMIT[self.architecture]:
            found.append(f"{self.shared} bytes of shared memory")
        if self.wants_tensor_core and not self.tensor_core:
            found.append("no tensor-core instruction")
        return found


def variants() -> Iterator[Variant]:
    block = linear_logprob.MOST_BLOCK
    yield Variant(
        "linear_logprob.reduce",
        linear_logprob.reduce_kernel,
        {"z": "*fp32", "target": "*i64", "state": "*fp32"},
        {"BLOCK": block},
        num_warps=8,
    )
    floats = dict.fromkeys(("z", "top", "log_total", "by_logprob"), "*fp32")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield Variant(
            f"linear_logprob.gradient {_TYPES[dtype]}",
            linear_logprob.gradient_kernel,
            floats | {"target": "*i64", "out": f"*{_TYPES[dtype]}"},
            {"BLOCK": block},
            num_warps=8,
        )
    for dtype in (torch.bfloat16, torch.float32):
        t = _TYPES[dtype]
        yield Variant(
            f"critic_heads {t}",
            critic_heads.heads_kernel,
            {"hidden": f"*{t}", "weight": f"*{t}", "rows": "*i64", "out": "*fp32"},
            {
                "stride_he": 1,
                "stride_we": 1,
                "S": 3,
                "HEADS": 4,
                "ROWS": critic_heads.ROWS,
                "WIDTH": critic_heads.WIDTH,
            },
        )
        for width in (64, 128):
            yield from _decoding(dtype, width)
        yield from _verification(t)


def _decoding(dtype: torch.dtype, width: int) -> Iterator[Variant]:
    t = _TYPES[dtype]
    yield Variant(
        f"decoding.turn_and_store {t} {width}",
        decoding.turn_and_store_kernel,
        {"qkv": f"*{t}", "kept": f"*{t}", "turns": "*fp32"}
        | dict.fromkeys(("job", "column", "position"), "*i64"),
        {"HEADS": decoding.HEADS, "HALF": width // 2},
    )
    for shares, has_seen in ((1, False), (decoding.MOST_SHARES, False), (1, True)):
        yield Variant(
            f"decoding.attention {t} {width} {shares} {'tree' if has_seen else 'text'}",
            decoding.attention_kernel,
            dict.fromkeys(("query", "kept", "out"), f"*{t}")
            | {"job": "*i64", "end": "*i64", "seen": "*u8", "partial": "*fp32", "scale": "fp32"},
            {
                "HAS_SEEN": has_seen,
                "SHARES": shares,
                "GROUP": 16,
                "COLUMNS": decoding.COLUMNS,
                "WIDTH": width,
                "UPCAST": False,
            },
            is_tensor_core=dtype != torch.float32,
        )
    yield Variant(
        f"decoding.combine {t} {width}",
        decoding.combine_kernel,
        {"partial": "*fp32", "out": f"*{t}"},
        {"SHARES": decoding.MOST_SHARES, "WIDTH": width},
        num_warps=2,
    )
    if width == 64:
        yield Variant(
            f"decoding.gated {t}",
            decoding.gated_kernel,
            dict.fromkeys(("gate_up", "out"), f"*{t}"),
            {"BLOCK": decoding.BLOCK},
        )


def _verification(t: str) -> Iterator[Variant]:
    yield Variant(
        f"verify_draft.share {t}",
        verify_draft.share_kernel,
        {
            "logits": f"*{t}",
            "temperature": "*fp32",
            "seeds": "*i64",
            "positions": "*i64",
            "partial": "*fp32",
        },
        {"BLOCK": verify_draft.BLOCK, "l_v": 1},
    )
    floats = ("partial", "temperature", "logprob", "processed_logprob")
    yield Variant(
        f"verify_draft.coupled {t}",
        verify_draft.coupled_kernel,
        dict.fromkeys(floats, "*fp32") | dict.fromkeys(("draft", "tokens", "accepted"), "*i64"),
        {"SHARES": 64},
        num_warps=1,
    )


def compiled(variant: Variant, architecture: int) -> Taken:
    """Compile for compute capability 8.0 (80) or 9.0 (90); no GPU is touched."""
    names = variant.kernel.arg_names
    constants = {n: variant.constants[n] for n in names if n in variant.constants}
    signature = {n: "constexpr" if n in constants else variant.types.get(n, "i32") for n in names}
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (i,): aligned
        for i, n in enumerate(names)
        if signature[n].startswith("*") or (signature[n] == "i32" and ("_" in n or n in "ED"))
    }
    source = ASTSource(
        variant.kernel, signature, {(names.index(n),): v for n, v in constants.items()}, attributes
    )
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(made.asm["cubin"])
        usage = _run("cuobjdump", "--dump-resource-usage", str(cubin))
        code = _run("cuobjdump", "--dump-sass", str(cubin))
    found = {k: int(v) for k, v in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    return Taken(
        variant.name,
        architecture,
        found["REG"],
        found["STACK"] + found["LOCAL"],
        max(found["SHARED"], made.metadata.shared),
        len(re.findall(r"\b(?:HMMA|HGMMA|IMMA)\b", code)),
        variant.is_tensor_core,
    )


def _run(tool: str, *arguments: str) -> str:
    """One of the tools that come with Triton."""
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / tool
    return subprocess.run(
        [str(path), *arguments], capture_output=True, text=True, check=True, timeout=120
    ).stdout
