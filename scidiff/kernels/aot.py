"""Compile launches of Triton kernels for a GPU that is not there.

`record` runs a body on tensors of the device "meta" and keeps what it would have launched; `compile_launch` makes code
of it for a compute capability (90 is H100), with the specialisation that the launch would have: pointers and integers
that are multiples of 16. The result tells shared memory and whether matrix products use the tensor cores.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from scidiff.kernels.triton._common import Launch, is_interpreted, recorded

__all__ = ["SHARED_MEMORY", "Compiled", "compile_launch", "record"]

SHARED_MEMORY = 227 * 1024
"""Shared memory of one block on compute capability 9.0, in bytes."""

_POINTERS = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64",
    torch.int32: "*i32", torch.int64: "*i64", torch.uint8: "*u8", torch.bool: "*i1",
}  # fmt: skip


class Compiled(NamedTuple):
    """What the compiler made of one launch.

    Attributes:
        name: Name of the kernel.
        shared: Shared memory of a block, bytes.
        has_dot: Whether the kernel multiplies matrices.
        has_mma: Whether its code holds instructions of the tensor cores.
        has_fma: Whether its code holds fused products and sums of floating-point numbers.
        spills: Bytes of registers a thread spills to memory, -1 where the compiler does not tell.
        binary: The machine code.
    """

    name: str
    shared: int
    has_dot: bool
    has_mma: bool
    has_fma: bool
    spills: int
    binary: bytes


def record(body: Callable[..., Any], *arguments: Any, **options: Any) -> list[Launch]:
    """The launches of a body, without running them; tensors may live on the device "meta"."""
    with recorded() as launches:
        body(*arguments, **options)
    return launches


def compile_launch(launch: Launch, *, capability: int = 90) -> Compiled:
    """Compile one launch for a CUDA compute capability; no device is needed.

    Raises:
        RuntimeError: If Triton was imported with ``TRITON_INTERPRET=1``: interpreted kernels have no code.
    """
    if is_interpreted(launch.kernel):
        raise RuntimeError("interpreted kernels cannot be compiled: start Python without TRITON_INTERPRET=1.")
    names = [name for name in launch.kernel.arg_names if name not in launch.constants]
    signature, attributes = {}, {}
    constants = dict(launch.constants)
    for name, argument in zip(names, launch.arguments, strict=True):
        kind, is_aligned = _describe(argument)
        signature[name] = kind
        if is_aligned:
            attributes[(launch.kernel.arg_names.index(name),)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(constants, "constexpr")
    ordered = {name: signature[name] for name in launch.kernel.arg_names}
    source = ASTSource(launch.kernel, ordered, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": launch.fuses}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code = compiled.asm["ptx"]
    return Compiled(
        name=launch.kernel.__name__,
        shared=compiled.metadata.shared,
        has_dot="tt.dot" in compiled.asm["ttir"],
        has_mma="mma." in code or "wgmma" in code,
        has_fma="fma.rn" in code,
        spills=getattr(compiled, "n_spills", None) or -1,
        binary=compiled.asm["cubin"],
    )


def _describe(argument: Any) -> tuple[str, bool]:
    if isinstance(argument, Tensor):
        return _POINTERS[argument.dtype], True
    if isinstance(argument, int):
        return ("i32" if abs(argument) < 2**31 else "i64"), argument % 16 == 0
    return "fp32", False
