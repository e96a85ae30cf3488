"""Continuous-filter convolution: the filter w = f_c(d) (basis(d) W + bias) is made in the kernel and never stored.

References: Schütt et al. 2017, "SchNet", eq. 2 and section 4.1.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (kernels are typed by Triton's compiler)

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from scidiff.kernels.triton._common import (
    PARTIALS,
    accumulator,
    ceil_div,
    contiguous,
    index_type,
    launch,
    pad,
    precision,
    tiles,
    torch_type,
)
from scidiff.kernels.triton.radial import radial_arguments, radial_functions

__all__ = ["cfconv", "cfconv_backward"]


@contiguous
def cfconv(
    x: Tensor, dist: Tensor, W: Tensor, bias: Tensor, source: Tensor, ptr: Tensor, target: Tensor, radial: Any
) -> Tensor:  # fmt: skip
    """out_i = sum of x_source * w(dist); x (N, F), dist (E,), W (K, F), bias (F,) -> (N, F)."""
    return _convolve(x, dist, W, bias, source, ptr, None, radial)


@contiguous
def cfconv_backward(
    g: Tensor, x: Tensor, dist: Tensor, W: Tensor, bias: Tensor, source: Tensor, ptr: Tensor, target: Tensor,
    t_ptr: Tensor, t_target: Tensor, t_edge: Tensor, radial: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, dist, W and bias for the gradient g (N, F) of the sums."""
    d_dist, d_W, d_bias = _filter_gradients(g, x, dist, W, bias, source, target, radial)
    return _convolve(g, dist, W, bias, t_target, t_ptr, t_edge, radial), d_dist, d_W, d_bias


def _convolve(
    x: Tensor, dist: Tensor, W: Tensor, bias: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None, radial: Any
) -> Tensor:  # fmt: skip
    out = x.new_empty(ptr.shape[0] - 1, x.shape[1])
    tile, acc = tiles(x.shape[1]), accumulator(x, dist, W)
    numbers, constants = radial_arguments(radial, acc, x.device)
    launch(
        _cfconv,
        (out.shape[0], ceil_div(x.shape[1], tile.channels)),
        (x, dist, W, bias, source, ptr, source if edge is None else edge, numbers, out),
        F=x.shape[1], KP=pad(radial.basis.num_basis), HAS_EDGE=edge is not None, ACC=acc, INDEX=index_type(x, out),
        PRECISION=precision(acc), BLOCK_E=tile.edges, BLOCK_F=tile.channels, warps=8, **constants,
    )  # fmt: skip
    return out


def _filter_gradients(
    g: Tensor, x: Tensor, dist: Tensor, W: Tensor, bias: Tensor, source: Tensor, target: Tensor, radial: Any
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    num_edges, width = source.shape[0], x.shape[1]
    acc = accumulator(g, x, dist, W)
    tile = tiles(width, edges=32, most=64)
    blocks, programs = ceil_div(width, tile.channels), min(PARTIALS, ceil_div(num_edges, tile.edges))
    numbers, constants = radial_arguments(radial, acc, x.device)
    wide = torch_type(acc)
    d_dist = dist.new_empty(blocks, num_edges, dtype=wide)
    d_W, d_bias = W.new_empty(programs, *W.shape, dtype=wide), W.new_empty(programs, width, dtype=wide)
    launch(
        _cfconv_backward,
        (programs, blocks),
        (g, x, dist, W, bias, source, target, numbers, d_dist, d_W, d_bias, num_edges),
        F=width, KP=pad(radial.basis.num_basis), ACC=acc, INDEX=index_type(g, x, d_dist, d_W), PRECISION=precision(acc),
        BLOCK_E=tile.edges, BLOCK_F=tile.channels, warps=8, **constants,
    )  # fmt: skip
    return d_dist.sum(0).to(dist.dtype), d_W.sum(0).to(W.dtype), d_bias.sum(0).to(bias.dtype)


@triton.jit
def _cfconv(
    x, dist, W, bias, source, ptr, edge, numbers, out,
    F: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BASIS: tl.constexpr, CUTOFF: tl.constexpr,
    POWER: tl.constexpr, HAS_EDGE: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, KP)
    start = tl.load(ptr + i)
    stop = tl.load(ptr + i + 1)
    weight = tl.load(W + k[:, None] * F + f[None, :], mask=(k < K)[:, None] & (f < F)[None, :], other=0.0).to(ACC)
    offset = tl.load(bias + f, mask=f < F, other=0.0).to(ACC)
    total = tl.zeros((BLOCK_F,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        is_edge = e < stop
        j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)
        row = e
        if HAS_EDGE:
            row = tl.load(edge + e, mask=is_edge, other=0)
        d = tl.load(dist + row, mask=is_edge, other=1.0).to(ACC)
        value, _, envelope, _ = radial_functions(d, k, numbers, BASIS, CUTOFF, POWER, K, ACC)
        w = tl.dot(value, weight, input_precision=PRECISION, out_dtype=ACC) + offset[None, :]
        mask = is_edge[:, None] & (f < F)[None, :]
        xj = tl.load(x + j[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC)
        total += tl.sum(xj * w * envelope[:, None], axis=0)
    tl.store(out + i * F + f, total, mask=f < F)


@triton.jit
def _cfconv_backward(
    g, x, dist, W, bias, source, target, numbers, d_dist, d_W, d_bias, num_edges,
    F: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BASIS: tl.constexpr, CUTOFF: tl.constexpr,
    POWER: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    program, block = tl.program_id(0), tl.program_id(1)
    f = block * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, KP)
    in_weight = (k < K)[:, None] & (f < F)[None, :]
    at_weight = k[:, None] * F + f[None, :]
    weight = tl.load(W + at_weight, mask=in_weight, other=0.0).to(ACC)
    offset = tl.load(bias + f, mask=f < F, other=0.0).to(ACC)
    sum_W = tl.zeros((KP, BLOCK_F), dtype=ACC)
    sum_bias = tl.zeros((BLOCK_F,), dtype=ACC)
    span = tl.cdiv(tl.cdiv(num_edges, BLOCK_E), tl.num_programs(0)) * BLOCK_E
    for first in range(program * span, tl.minimum(program * span + span, num_edges), BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        is_edge = e < num_edges
        i = tl.load(target + e, mask=is_edge, other=0).to(INDEX)
        j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)
        d = tl.load(dist + e, mask=is_edge, other=1.0).to(ACC)
        value, slope, envelope, falling = radial_functions(d, k, numbers, BASIS, CUTOFF, POWER, K, ACC)
        mask = is_edge[:, None] & (f < F)[None, :]
        gi = tl.load(g + i[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC)
        dw = gi * tl.load(x + j[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC)
        q = tl.dot(dw, tl.trans(weight), input_precision=PRECISION, out_dtype=ACC)  # Σ_f dw_ef W_kf
        shift = tl.sum(value * q, axis=1) + tl.sum(dw * offset[None, :], axis=1)
        change = falling * shift + envelope * tl.sum(slope * q, axis=1)
        tl.store(d_dist + block * num_edges.to(INDEX) + e, change, mask=is_edge)
        scaled = dw * envelope[:, None]
        sum_W += tl.dot(tl.trans(value), scaled, input_precision=PRECISION, out_dtype=ACC)
        sum_bias += tl.sum(scaled, axis=0)
    tl.store(d_W + program.to(INDEX) * (K * F) + at_weight, sum_W, mask=in_weight)
    tl.store(d_bias + program * F + f, sum_bias, mask=f < F)
