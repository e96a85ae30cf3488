"""Gather, multiply and sum over neighbours, with weights a channel or a head, and the edge products of their gradients.

A program owns one target and up to 128 channels, and walks its edges 16 at a time.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (kernels are typed by Triton's compiler)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from scidiff.kernels.triton._common import accumulator, ceil_div, contiguous, index_type, launch, tiles

__all__ = ["edge_dot", "edge_product", "gms", "weighted_sum"]


@contiguous
def gms(x: Tensor, w: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None = None) -> Tensor:
    """out_i = sum of x_source * w over the edges ``ptr[i]:ptr[i + 1]``; x (*, F), w (E, F) -> (N, F).

    With ``edge`` (E,) the weight of edge e is ``w[edge[e]]``: the transposed sum, without a copy of w.
    """
    out = x.new_empty(ptr.shape[0] - 1, x.shape[1])
    _launch_sum(_gms, x, w, source, ptr, edge, out)
    return out


@contiguous
def weighted_sum(x: Tensor, a: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None = None) -> Tensor:
    """out_i = sum of a_eh x_source,h; x (*, F) in H blocks of channels, a (E,) or (E, H) -> (N, F)."""
    out = x.new_empty(ptr.shape[0] - 1, x.shape[1])
    heads = 1 if a.dim() == 1 else a.shape[1]
    _launch_sum(_weighted_sum, x, a, source, ptr, edge, out, H=heads, D=max(x.shape[1] // heads, 1))
    return out


@contiguous
def edge_product(g: Tensor, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """g_target * x_source for each edge; (N, F), (N, F) -> (E, F) in the wider of both dtypes."""
    num_edges, width = source.shape[0], x.shape[1]
    out = torch.empty(num_edges, width, dtype=torch.promote_types(g.dtype, x.dtype), device=x.device)
    tile = tiles(width)
    launch(
        _edge_product,
        (ceil_div(num_edges, tile.edges), ceil_div(width, tile.channels)),
        (g, x, source, target, out, num_edges),
        F=width, ACC=accumulator(g, x), INDEX=index_type(g, x, out), BLOCK_E=tile.edges, BLOCK_F=tile.channels,
        warps=tile.warps,
    )  # fmt: skip
    return out


@contiguous
def edge_dot(a: Tensor, b: Tensor, source: Tensor, target: Tensor, heads: int | None = None) -> Tensor:
    """a_target . b_source, over all channels -> (E,) or in blocks of channels -> (E, heads)."""
    num_edges, width, blocks = source.shape[0], a.shape[1], heads or 1
    dtype = torch.promote_types(a.dtype, b.dtype)
    out = torch.empty((num_edges,) if heads is None else (num_edges, heads), dtype=dtype, device=a.device)
    tile = tiles(max(width // blocks, 1))
    launch(
        _edge_dot,
        (ceil_div(num_edges, tile.edges), blocks),
        (a, b, source, target, out, num_edges),
        H=blocks, D=max(width // blocks, 1), ACC=accumulator(a, b), INDEX=index_type(a, b, out), BLOCK_E=tile.edges,
        BLOCK_F=tile.channels, warps=tile.warps,
    )  # fmt: skip
    return out


def _launch_sum(
    kernel: Any, x: Tensor, w: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None, out: Tensor, **extra: int
) -> None:
    tile = tiles(x.shape[1])
    launch(
        kernel,
        (out.shape[0], ceil_div(x.shape[1], tile.channels)),
        (x, w, source, ptr, source if edge is None else edge, out),
        F=x.shape[1], HAS_EDGE=edge is not None, ACC=accumulator(x, w), INDEX=index_type(x, w, out),
        BLOCK_E=tile.edges, BLOCK_F=tile.channels, warps=tile.warps, **extra,
    )  # fmt: skip


@triton.jit
def _gms(
    x, w, source, ptr, edge, out,
    F: tl.constexpr, HAS_EDGE: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
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
        j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)
        row = e.to(INDEX)
        if HAS_EDGE:
            row = tl.load(edge + e, mask=is_edge, other=0).to(INDEX)
        mask = is_edge[:, None] & (f < F)[None, :]
        xj = tl.load(x + j[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC)
        we = tl.load(w + row[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC)
        total += tl.sum(xj * we, axis=0)
    tl.store(out + i * F + f, total, mask=f < F)


@triton.jit
def _weighted_sum(
    x, a, source, ptr, edge, out,
    F: tl.constexpr, H: tl.constexpr, D: tl.constexpr, HAS_EDGE: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
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
        j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)
        row = e.to(INDEX)
        if HAS_EDGE:
            row = tl.load(edge + e, mask=is_edge, other=0).to(INDEX)
        mask = is_edge[:, None] & (f < F)[None, :]
        xj = tl.load(x + j[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC)
        ae = tl.load(a + row[:, None] * H + (f // D)[None, :], mask=mask, other=0.0).to(ACC)
        total += tl.sum(xj * ae, axis=0)
    tl.store(out + i * F + f, total, mask=f < F)


@triton.jit
def _edge_product(
    g, x, source, target, out, num_edges,
    F: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0).to(INDEX) * BLOCK_E + tl.arange(0, BLOCK_E)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    is_edge = e < num_edges
    i = tl.load(target + e, mask=is_edge, other=0).to(INDEX)
    j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)
    mask = is_edge[:, None] & (f < F)[None, :]
    gi = tl.load(g + i[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC)
    xj = tl.load(x + j[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC)
    tl.store(out + e[:, None] * F + f[None, :], gi * xj, mask=mask)


@triton.jit
def _edge_dot(
    a, b, source, target, out, num_edges,
    H: tl.constexpr, D: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0).to(INDEX) * BLOCK_E + tl.arange(0, BLOCK_E)
    head = tl.program_id(1)
    is_edge = e < num_edges
    i = tl.load(target + e, mask=is_edge, other=0).to(INDEX)
    j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)
    total = tl.zeros((BLOCK_E,), dtype=ACC)
    for first in range(0, D, BLOCK_F):
        f = first + tl.arange(0, BLOCK_F)
        mask = is_edge[:, None] & (f < D)[None, :]
        ai = tl.load(a + i[:, None] * (H * D) + head * D + f[None, :], mask=mask, other=0.0).to(ACC)
        bj = tl.load(b + j[:, None] * (H * D) + head * D + f[None, :], mask=mask, other=0.0).to(ACC)
        total += tl.sum(ai * bj, axis=1)
    tl.store(out + e * H + head, total, mask=is_edge)
