"""The spatial part of the PONITA convolution with a stored basis: y_ioc = sum over e of (basis_eo W)_c x_source,oc.

A program owns one target and a block of channels; the kernel of one edge is one matrix product of its basis, O x D,
with W, D x C, and is never stored.

References: Bekkers et al. 2024, "Fast, Expressive SE(n) Equivariant Networks through Weight-Sharing in
Position-Orientation Space", eq. 6-8.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (kernels are typed by Triton's compiler)

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
    torch_type,
)

__all__ = ["ponita", "ponita_backward"]


@contiguous
def ponita(x: Tensor, basis: Tensor, W: Tensor, source: Tensor, ptr: Tensor, target: Tensor) -> Tensor:
    """Sums (N, O, C); x (N, O, C), basis (E, O, D), W (D, C)."""
    return _spatial(x, basis, W, source, ptr, None)


@contiguous
def ponita_backward(
    g: Tensor, x: Tensor, basis: Tensor, W: Tensor, source: Tensor, ptr: Tensor, target: Tensor,
    t_ptr: Tensor, t_target: Tensor, t_edge: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, basis and W for the gradient g (N, O, C) of the sums."""
    num_edges, acc = basis.shape[0], accumulator(g, x, basis, W)
    programs, block = min(PARTIALS, num_edges), min(64, pad(W.shape[0]))
    d_basis, d_W = basis.new_empty(basis.shape), W.new_empty(programs, *W.shape, dtype=torch_type(acc))
    launch(
        _ponita_backward,
        (programs, ceil_div(W.shape[0], block)),
        (g, x, basis, W, source, target, d_basis, d_W, num_edges),
        NO=x.shape[1], D=W.shape[0], C=W.shape[1], ACC=acc, INDEX=index_type(x, basis, d_W), PRECISION=precision(acc),
        BLOCK_O=pad(x.shape[1]), BLOCK_D=block, BLOCK_C=pad(W.shape[1]), warps=8,
    )  # fmt: skip
    return _spatial(g, basis, W, t_target, t_ptr, t_edge), d_basis, d_W.sum(0).to(W.dtype)


def _spatial(x: Tensor, basis: Tensor, W: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    out = x.new_empty(ptr.shape[0] - 1, *x.shape[1:])
    acc, block = accumulator(x, basis, W), min(64, pad(W.shape[1]))
    launch(
        _ponita,
        (out.shape[0], ceil_div(W.shape[1], block)),
        (x, basis, W, source, ptr, source if edge is None else edge, out),
        NO=x.shape[1], D=W.shape[0], C=W.shape[1], HAS_EDGE=edge is not None, ACC=acc, INDEX=index_type(x, basis),
        PRECISION=precision(acc), BLOCK_O=pad(x.shape[1]), BLOCK_D=pad(W.shape[0]), BLOCK_C=block, warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _ponita(
    x, basis, W, source, ptr, edge, out,
    NO: tl.constexpr, D: tl.constexpr, C: tl.constexpr, HAS_EDGE: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    o = tl.arange(0, BLOCK_O)
    d = tl.arange(0, BLOCK_D)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    start = tl.load(ptr + i).to(INDEX)
    stop = tl.load(ptr + i + 1).to(INDEX)
    weight = tl.load(W + d[:, None] * C + c[None, :], mask=(d < D)[:, None] & (c < C)[None, :], other=0.0).to(ACC)
    in_basis = (o < NO)[:, None] & (d < D)[None, :]
    mask = (o < NO)[:, None] & (c < C)[None, :]
    total = tl.zeros((BLOCK_O, BLOCK_C), dtype=ACC)
    for n in range(start, stop):
        j = tl.load(source + n).to(INDEX)
        e = n
        if HAS_EDGE:
            e = tl.load(edge + n).to(INDEX)
        value = tl.load(basis + e * (NO * D) + o[:, None] * D + d[None, :], mask=in_basis, other=0.0).to(ACC)
        xj = tl.load(x + j * (NO * C) + o[:, None] * C + c[None, :], mask=mask, other=0.0).to(ACC)
        total += xj * tl.dot(value, weight, input_precision=PRECISION, out_dtype=ACC)
    tl.store(out + i * (NO * C) + o[:, None] * C + c[None, :], total, mask=mask)


@triton.jit
def _ponita_backward(
    g, x, basis, W, source, target, d_basis, d_W, num_edges,
    NO: tl.constexpr, D: tl.constexpr, C: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(INDEX)
    o = tl.arange(0, BLOCK_O)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_basis = (o < NO)[:, None] & (d < D)[None, :]
    span = tl.cdiv(num_edges, tl.num_programs(0))
    c = tl.arange(0, BLOCK_C)
    in_weight = (d < D)[:, None] & (c < C)[None, :]
    mask = (o < NO)[:, None] & (c < C)[None, :]
    weight = tl.load(W + d[:, None] * C + c[None, :], mask=in_weight, other=0.0).to(ACC)
    sum_W = tl.zeros((BLOCK_D, BLOCK_C), dtype=ACC)
    for e in range(program * span, tl.minimum(program * span + span, num_edges)):
        i = tl.load(target + e).to(INDEX)
        j = tl.load(source + e).to(INDEX)
        at = e * (NO * D) + o[:, None] * D + d[None, :]
        value = tl.load(basis + at, mask=in_basis, other=0.0).to(ACC)
        product = tl.load(g + i * (NO * C) + o[:, None] * C + c[None, :], mask=mask, other=0.0).to(ACC)
        product = product * tl.load(x + j * (NO * C) + o[:, None] * C + c[None, :], mask=mask, other=0.0).to(ACC)
        change = tl.dot(product, tl.trans(weight), input_precision=PRECISION, out_dtype=ACC)
        tl.store(d_basis + at, change, mask=in_basis)
        sum_W += tl.dot(tl.trans(value), product, input_precision=PRECISION, out_dtype=ACC)
    tl.store(d_W + program * (D * C) + d[:, None] * C + c[None, :], sum_W, mask=in_weight)
