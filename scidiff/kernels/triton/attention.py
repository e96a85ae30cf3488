"""Softmax over the neighbours of a node, a channel at a time, and its two-pass backward.

out_if = sum over e of p_ef x_source,f with p_ef = exp(l_ef - lse_if): one pass keeps the running maximum and sum of
each channel, and the backward needs only the logarithm lse of the sum.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (kernels are typed by Triton's compiler)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from scidiff.kernels.triton._common import accumulator, ceil_div, contiguous, index_type, launch, tiles, torch_type

__all__ = ["softmax_gather_sum", "softmax_gather_sum_backward"]


@contiguous
def softmax_gather_sum(logits: Tensor, x: Tensor, source: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (N, F), 0 without edges, and logarithms of the sums of exponentials (N, F); logits (E, F), x (*, F)."""
    acc = accumulator(logits, x)
    out = x.new_empty(ptr.shape[0] - 1, x.shape[1])
    lse = torch.empty(out.shape, dtype=torch_type(acc), device=x.device)
    _launch(_softmax_gather_sum, out.shape[0], x, (logits, x, source, ptr, out, lse), acc)
    return out, lse


@contiguous
def softmax_gather_sum_backward(
    g: Tensor, logits: Tensor, x: Tensor, out: Tensor, lse: Tensor, source: Tensor, ptr: Tensor, target: Tensor,
    t_ptr: Tensor, t_target: Tensor, t_edge: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients p (g_target x_source - g_target out_target) of the logits (E, F), and sum of p g_target of x (N, F)."""
    acc = accumulator(g, logits, x)
    d_logits, d_x = logits.new_empty(logits.shape), x.new_empty(x.shape)
    edges = ceil_div(logits.shape[0], 16)
    _launch(_logit_gradient, edges, x, (g, logits, x, out, lse, source, target, d_logits, logits.shape[0]), acc)
    _launch(_value_gradient, t_ptr.shape[0] - 1, x, (g, logits, lse, t_target, t_ptr, t_edge, d_x), acc)
    return d_logits, d_x


def _launch(kernel: Any, rows: int, x: Tensor, arguments: tuple[Any, ...], acc: Any) -> None:
    tile = tiles(x.shape[1])
    launch(
        kernel,
        (rows, ceil_div(x.shape[1], tile.channels)),
        arguments,
        F=x.shape[1], ACC=acc, INDEX=index_type(*(t for t in arguments if isinstance(t, Tensor))),
        BLOCK_E=tile.edges, BLOCK_F=tile.channels, warps=tile.warps,
    )  # fmt: skip


@triton.jit
def _softmax_gather_sum(
    logits, x, source, ptr, out, lse,
    F: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    start = tl.load(ptr + i)
    stop = tl.load(ptr + i + 1)
    highest = tl.full((BLOCK_F,), float("-inf"), dtype=ACC)
    weight = tl.zeros((BLOCK_F,), dtype=ACC)
    total = tl.zeros((BLOCK_F,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        is_edge = e < stop
        mask = is_edge[:, None] & (f < F)[None, :]
        j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)
        value = tl.load(logits + e[:, None] * F + f[None, :], mask=mask, other=float("-inf")).to(ACC)
        xj = tl.load(x + j[:, None] * F + f[None, :], mask=mask, other=0.0).to(ACC)
        higher = tl.maximum(highest, tl.max(value, axis=0))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # channels whose logits are all -inf so far
        p = tl.exp(value - shift[None, :])
        old = tl.exp(highest - shift)
        weight = weight * old + tl.sum(p, axis=0)
        total = total * old + tl.sum(p * xj, axis=0)
        highest = higher
    is_empty = start == stop
    safe = tl.where(is_empty, 1.0, weight)
    tl.store(out + i * F + f, total / safe, mask=f < F)
    tl.store(lse + i * F + f, tl.where(is_empty, 0.0, highest) + tl.log(safe), mask=f < F)


@triton.jit
def _logit_gradient(
    g, logits, x, out, lse, source, target, d_logits, num_edges,
    F: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0).to(INDEX) * BLOCK_E + tl.arange(0, BLOCK_E)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    is_edge = e < num_edges
    mask = is_edge[:, None] & (f < F)[None, :]
    at = e[:, None] * F + f[None, :]
    at_i = tl.load(target + e, mask=is_edge, other=0).to(INDEX)[:, None] * F + f[None, :]
    at_j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)[:, None] * F + f[None, :]
    value = tl.load(logits + at, mask=mask, other=float("-inf")).to(ACC)
    p = tl.exp(value - tl.load(lse + at_i, mask=mask, other=0.0))
    change = tl.load(x + at_j, mask=mask, other=0.0).to(ACC) - tl.load(out + at_i, mask=mask, other=0.0).to(ACC)
    tl.store(d_logits + at, p * tl.load(g + at_i, mask=mask, other=0.0).to(ACC) * change, mask=mask)


@triton.jit
def _value_gradient(
    g, logits, lse, target, ptr, edge, d_x,
    F: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0).to(INDEX)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    start = tl.load(ptr + j)
    stop = tl.load(ptr + j + 1)
    total = tl.zeros((BLOCK_F,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        n = first + tl.arange(0, BLOCK_E)
        is_edge = n < stop
        mask = is_edge[:, None] & (f < F)[None, :]
        at_i = tl.load(target + n, mask=is_edge, other=0).to(INDEX)[:, None] * F + f[None, :]
        at = tl.load(edge + n, mask=is_edge, other=0).to(INDEX)[:, None] * F + f[None, :]
        value = tl.load(logits + at, mask=mask, other=float("-inf")).to(ACC)
        p = tl.exp(value - tl.load(lse + at_i, mask=mask, other=0.0))
        total += tl.sum(p * tl.load(g + at_i, mask=mask, other=0.0).to(ACC), axis=0)
    tl.store(d_x + j * F + f, total, mask=f < F)
