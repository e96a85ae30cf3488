"""Sums, maxima and softmax over the edges of each target; a program owns one target and up to 128 channels."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (kernels are typed by Triton's compiler)

import triton
import triton.language as tl
from torch import Tensor

from scidiff.kernels.triton._common import accumulator, ceil_div, contiguous, index_type, launch, tiles

__all__ = ["segment_max", "segment_softmax", "segment_softmax_backward", "segment_sum"]


@contiguous
def segment_sum(v: Tensor, ptr: Tensor, edge: Tensor | None = None, mean: bool = False) -> Tensor:
    """Sum (or mean) of the rows ``ptr[i]:ptr[i + 1]`` of v, or of ``v[edge]``; (E, F) -> (N, F), 0 without edges."""
    out = v.new_empty(ptr.shape[0] - 1, v.shape[1])
    tile = tiles(v.shape[1])
    launch(
        _segment_sum,
        (out.shape[0], ceil_div(v.shape[1], tile.channels)),
        (v, ptr, ptr if edge is None else edge, out),
        F=v.shape[1], HAS_EDGE=edge is not None, MEAN=mean, ACC=accumulator(v), INDEX=index_type(v, out),
        BLOCK_E=tile.edges, BLOCK_F=tile.channels, warps=tile.warps,
    )  # fmt: skip
    return out


@contiguous
def segment_max(v: Tensor, ptr: Tensor) -> Tensor:
    """Largest entry of the rows ``ptr[i]:ptr[i + 1]``; (E, F) -> (N, F), 0 without edges, NaN where one is NaN."""
    out = v.new_empty(ptr.shape[0] - 1, v.shape[1])
    tile = tiles(v.shape[1])
    launch(
        _segment_max,
        (out.shape[0], ceil_div(v.shape[1], tile.channels)),
        (v, ptr, out),
        F=v.shape[1], ACC=accumulator(v), INDEX=index_type(v, out), BLOCK_E=tile.edges, BLOCK_F=tile.channels,
        warps=tile.warps,
    )  # fmt: skip
    return out


@contiguous
def segment_softmax(logits: Tensor, ptr: Tensor) -> Tensor:
    """exp(l_e) / sum over the edges with the same target, per channel; (E, C) -> (E, C)."""
    out = logits.new_empty(logits.shape)
    _launch_softmax(_segment_softmax, logits, logits, ptr, out)
    return out


@contiguous
def segment_softmax_backward(g: Tensor, p: Tensor, ptr: Tensor) -> Tensor:
    """Gradient of the logits, p (g - sum over the segment of p g); (E, C), (E, C) -> (E, C)."""
    out = p.new_empty(p.shape)
    _launch_softmax(_segment_softmax_backward, g, p, ptr, out)
    return out


def _launch_softmax(kernel, a: Tensor, b: Tensor, ptr: Tensor, out: Tensor) -> None:
    tile = tiles(out.shape[1], edges=32)
    launch(
        kernel,
        (ptr.shape[0] - 1, ceil_div(out.shape[1], tile.channels)),
        (a, b, ptr, out),
        F=out.shape[1], ACC=accumulator(a, b), INDEX=index_type(out), BLOCK_E=tile.edges, BLOCK_F=tile.channels,
        warps=tile.warps,
    )  # fmt: skip


@triton.jit
def _segment_sum(
    v, ptr, edge, out,
    F: tl.constexpr, HAS_EDGE: tl.constexpr, MEAN: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    start = tl.load(ptr + i)
    stop = tl.load(ptr + i + 1)
    total = tl.zeros((BLOCK_F,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        is_edge = e < stop
        row = e.to(INDEX)
        if HAS_EDGE:
            row = tl.load(edge + e, mask=is_edge, other=0).to(INDEX)
        mask = is_edge[:, None] & (f < F)[None, :]
        total += tl.sum(tl.load(v + row[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC), axis=0)
    if MEAN:
        total = total / tl.maximum(stop - start, 1).to(ACC)
    tl.store(out + i * F + f, total, mask=f < F)


@triton.jit
def _segment_max(
    v, ptr, out,
    F: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    start = tl.load(ptr + i)
    stop = tl.load(ptr + i + 1)
    highest = tl.full((BLOCK_F,), float("-inf"), dtype=ACC)
    invalid = tl.zeros((BLOCK_F,), dtype=tl.int32)
    for first in range(start, stop, BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        mask = (e < stop)[:, None] & (f < F)[None, :]
        value = tl.load(v + e[:, None] * F + f[None, :], mask=mask, other=float("-inf")).to(ACC)
        invalid += tl.sum((value != value).to(tl.int32), axis=0)
        highest = tl.maximum(highest, tl.max(value, axis=0))
    highest = tl.where(invalid > 0, float("nan"), highest)
    tl.store(out + i * F + f, tl.where(start < stop, highest, 0.0), mask=f < F)


@triton.jit
def _segment_softmax(
    logits, unused, ptr, out,
    F: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    start = tl.load(ptr + i)
    stop = tl.load(ptr + i + 1)
    highest = tl.full((BLOCK_F,), float("-inf"), dtype=ACC)
    total = tl.zeros((BLOCK_F,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        mask = (e < stop)[:, None] & (f < F)[None, :]
        value = tl.load(logits + e[:, None] * F + f[None, :], mask=mask, other=float("-inf")).to(ACC)
        higher = tl.maximum(highest, tl.max(value, axis=0))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(highest - shift) + tl.sum(tl.exp(value - shift[None, :]), axis=0)
        highest = higher
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    for first in range(start, stop, BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        mask = (e < stop)[:, None] & (f < F)[None, :]
        value = tl.load(logits + e[:, None] * F + f[None, :], mask=mask, other=float("-inf")).to(ACC)
        share = tl.exp(value - shift[None, :]) / total[None, :]
        tl.store(out + e[:, None] * F + f[None, :], share, mask=mask)


@triton.jit
def _segment_softmax_backward(
    g, p, ptr, out,
    F: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    start = tl.load(ptr + i)
    stop = tl.load(ptr + i + 1)
    total = tl.zeros((BLOCK_F,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        mask = (e < stop)[:, None] & (f < F)[None, :]
        at = e[:, None] * F + f[None, :]
        share = tl.load(p + at, mask=mask, other=0.0).to(ACC)
        total += tl.sum(share * tl.load(g + at, mask=mask, other=0.0).to(ACC), axis=0)
    for first in range(start, stop, BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        mask = (e < stop)[:, None] & (f < F)[None, :]
        at = e[:, None] * F + f[None, :]
        share = tl.load(p + at, mask=mask, other=0.0).to(ACC)
        slope = tl.load(g + at, mask=mask, other=0.0).to(ACC)
        tl.store(out + at, share * (slope - total[None, :]), mask=mask)
