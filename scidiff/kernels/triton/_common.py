"""What all Triton bodies share: launches, frozen tile sizes, types of sums and offsets, and how tests record launches.

Kernels read any floating dtype and compute in float32, or in float64 if an input is float64. Offsets are 32-bit until a
tensor has 2^31 elements, then 64-bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = [
    "Launch",
    "accumulator",
    "ceil_div",
    "index_type",
    "is_interpreted",
    "launch",
    "precision",
    "recorded",
    "tiles",
]

WIDE_FROM = 2**31
PARTIALS = 264
"""Programs of a pass that sums weight gradients: two for each of the 132 multiprocessors of an H100."""


class Launch(NamedTuple):
    """One launch as it would be compiled: kernel, arguments in order, constants, warps, stages, fusion of a * b + c."""

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int
    stages: int
    fuses: bool = True


class Tiles(NamedTuple):
    """Edges and channels of a tile, and the warps that work on it."""

    edges: int
    channels: int
    warps: int


_records: list[Launch] | None = None


def launch(
    kernel: Any, grid: Sequence[int], arguments: Sequence[Any], *, warps: int = 4, stages: int = 2, fuses: bool = True,
    **constants: Any,
) -> None:  # fmt: skip
    """Run a kernel on the device of its first tensor; nothing is launched for an empty grid.

    ``fuses`` lets the compiler round a * b + c once; without it results have the bits of separate operations.
    """
    if _records is not None:
        _records.append(Launch(kernel, tuple(arguments), constants, warps, stages, fuses))
        return
    if 0 in grid:
        return
    first = next(argument for argument in arguments if isinstance(argument, Tensor))
    with torch.cuda.device_of(first):  # fusion is said explicitly: the default differs between releases
        kernel[tuple(grid)](*arguments, num_warps=warps, num_stages=stages, enable_fp_fusion=fuses, **constants)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect launches instead of running them, for compilation without a device."""
    global _records
    _records, before = [], _records
    try:
        yield _records
    finally:
        _records = before


def is_interpreted(kernel: Any) -> bool:
    """Whether the kernel runs in Triton's interpreter (``TRITON_INTERPRET=1`` when its module was imported)."""
    return not isinstance(kernel, triton.JITFunction)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def pad(width: int, least: int = 16) -> int:
    """Smallest power of two that holds ``width``, at least ``least`` (16 is the smallest side of a matrix product)."""
    return max(least, triton.next_power_of_2(max(width, 1)))


def tiles(channels: int, *, edges: int = 16, most: int = 128) -> Tiles:
    """Tile sizes for a number of channels; about 512 numbers for each warp."""
    width = min(most, pad(channels))
    return Tiles(edges, width, min(8, max(1, edges * width // 512)))


def accumulator(*tensors: Tensor | None) -> Any:
    """Type of sums: float64 if a tensor is float64, else float32."""
    return tl.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else tl.float32


def torch_type(acc: Any) -> torch.dtype:
    """The torch dtype of a type of sums."""
    return torch.float64 if acc == tl.float64 else torch.float32


def index_type(*tensors: Tensor | None) -> Any:
    """Type of offsets: 64-bit if a tensor has 2^31 elements or more."""
    return tl.int64 if any(t is not None and t.numel() >= WIDE_FROM for t in tensors) else tl.int32


def precision(acc: Any) -> str:
    """How matrix products are made: float32 accuracy from three TF32 products, one where torch allows TF32."""
    if acc == tl.float64:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


def contiguous(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a body see contiguous tensors only."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        dense = [arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args]
        return function(*dense, **{k: v.contiguous() if isinstance(v, Tensor) else v for k, v in kwargs.items()})

    wrapped.__name__, wrapped.__doc__, wrapped.__wrapped__ = function.__name__, function.__doc__, function  # type: ignore[attr-defined]
    return wrapped
