"""Softmax over the neighbours of a node, a channel or a head at a time, and the two-pass backwards.

out_i = sum over e of p_e x_source with p_e = exp(l_e - lse_i): one pass keeps the running maximum and sum of each
channel or head, and the backward needs only the logarithm lse of the sum. The logits l_e are given (one a channel), or
are q_target . k_source / sqrt(D) + bias_e (one a head).
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# (kernels are typed by Triton's compiler)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from scidiff.kernels.triton._common import accumulator, ceil_div, contiguous, index_type, launch, pad, tiles, torch_type
from scidiff.kernels.triton.gms import weighted_sum

__all__ = ["neighbor_attention", "neighbor_attention_backward", "softmax_gather_sum", "softmax_gather_sum_backward"]


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


@contiguous
def neighbor_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, source: Tensor, ptr: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums (N, H, C), 0 without edges, and logarithms of the sums of exponentials (N, H).

    Args:
        q: Queries of targets (N, H, D).
        k: Keys of sources (*, H, D).
        v: Values of sources (*, H, C): any number of channels, so vectors are channels too.
        bias: Added to the logits (E, H).
        source: (E,).
        ptr: (N + 1,).
    """
    acc = accumulator(q, k, v, bias)
    out = v.new_empty(*q.shape[:2], v.shape[2])
    lse = torch.empty(q.shape[:2], dtype=torch_type(acc), device=q.device)
    _launch_heads(_neighbor_attention, q, v, bias, (q, k, v, q if bias is None else bias, source, ptr, out, lse), acc)
    return out, lse


@contiguous
def neighbor_attention_backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, out: Tensor, lse: Tensor, source: Tensor,
    ptr: Tensor, target: Tensor, t_ptr: Tensor, t_target: Tensor, t_edge: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of q, k, v and bias.

    With dl = p (g_target . v_source - g_target . out_target): dq = sum of dl k_source / sqrt(D) in a pass over targets,
    which keeps p and dl (E, H); dk = sum of dl q_target / sqrt(D) and dv = sum of p g_target over the edges that leave
    a node.
    """
    acc = accumulator(g, q, k, v, bias)
    d_q = q.new_empty(q.shape)
    p = torch.empty(source.shape[0], q.shape[1], dtype=torch_type(acc), device=q.device)
    d_logits = torch.empty_like(p)
    tensors = (g, q, k, v, q if bias is None else bias, out, lse, source, ptr, d_q, p, d_logits)
    _launch_heads(_neighbor_attention_gradient, q, v, bias, tensors, acc)
    d_k = weighted_sum(q.flatten(1), d_logits, t_target, t_ptr, t_edge).mul_(q.shape[2] ** -0.5)
    d_v = weighted_sum(g.flatten(1), p, t_target, t_ptr, t_edge)
    return d_q, d_k.view(k.shape), d_v.view(v.shape), None if bias is None else d_logits.to(bias.dtype)


def _launch_heads(kernel: Any, q: Tensor, v: Tensor, bias: Tensor | None, arguments: tuple[Any, ...], acc: Any) -> None:
    """One program for each row and head; a tile holds at most 8192 numbers."""
    (rows, heads, width), channels = q.shape, v.shape[2]
    tile = tiles(widest := max(width, channels), edges=min(16, max(1, 8192 // pad(widest))), most=pad(widest))
    launch(
        kernel,
        (rows, heads),
        arguments,
        H=heads, D=width, C=channels, SCALE=width**-0.5, HAS_BIAS=bias is not None, ACC=acc,
        INDEX=index_type(*arguments), BLOCK_E=tile.edges, BLOCK_D=pad(width), BLOCK_C=pad(channels), warps=tile.warps,
    )  # fmt: skip


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


@triton.jit
def _neighbor_attention(
    q, k, v, bias, source, ptr, out, lse,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    head = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    c = tl.arange(0, BLOCK_C)
    start = tl.load(ptr + i)
    stop = tl.load(ptr + i + 1)
    qi = tl.load(q + (i * H + head) * D + d, mask=d < D, other=0.0).to(ACC) * SCALE
    highest = tl.full((1,), float("-inf"), dtype=ACC)
    weight = tl.zeros((1,), dtype=ACC)
    total = tl.zeros((BLOCK_C,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        is_edge = e < stop
        j = tl.load(source + e, mask=is_edge, other=0).to(INDEX) * H + head
        kj = tl.load(k + j[:, None] * D + d[None, :], mask=is_edge[:, None] & (d < D)[None, :], other=0.0).to(ACC)
        logit = tl.sum(kj * qi[None, :], axis=1)
        if HAS_BIAS:
            logit += tl.load(bias + e * H + head, mask=is_edge, other=0.0).to(ACC)
        logit = tl.where(is_edge, logit, float("-inf"))
        vj = tl.load(v + j[:, None] * C + c[None, :], mask=is_edge[:, None] & (c < C)[None, :], other=0.0).to(ACC)
        higher = tl.maximum(highest, tl.max(logit, axis=0))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # all logits were -inf so far
        p = tl.exp(logit - shift)
        old = tl.exp(highest - shift)
        weight = weight * old + tl.sum(p, axis=0)
        total = total * old + tl.sum(p[:, None] * vj, axis=0)
        highest = higher
    is_empty = start == stop
    safe = tl.where(is_empty, 1.0, weight)
    tl.store(out + (i * H + head) * C + c, total / safe, mask=c < C)
    tl.store(lse + i * H + head + tl.arange(0, 1), tl.where(is_empty, 0.0, highest) + tl.log(safe))


@triton.jit
def _neighbor_attention_gradient(
    g, q, k, v, bias, out, lse, source, ptr, d_q, p_of_edge, d_logits,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    head = tl.program_id(1)
    row = i * H + head
    d = tl.arange(0, BLOCK_D)
    c = tl.arange(0, BLOCK_C)
    start = tl.load(ptr + i)
    stop = tl.load(ptr + i + 1)
    qi = tl.load(q + row * D + d, mask=d < D, other=0.0).to(ACC) * SCALE
    gi = tl.load(g + row * C + c, mask=c < C, other=0.0).to(ACC)
    mean = tl.sum(gi * tl.load(out + row * C + c, mask=c < C, other=0.0).to(ACC), axis=0)
    norm = tl.load(lse + row)
    total = tl.zeros((BLOCK_D,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        is_edge = e < stop
        j = tl.load(source + e, mask=is_edge, other=0).to(INDEX) * H + head
        kj = tl.load(k + j[:, None] * D + d[None, :], mask=is_edge[:, None] & (d < D)[None, :], other=0.0).to(ACC)
        logit = tl.sum(kj * qi[None, :], axis=1)
        if HAS_BIAS:
            logit += tl.load(bias + e * H + head, mask=is_edge, other=0.0).to(ACC)
        p = tl.exp(tl.where(is_edge, logit, float("-inf")) - norm)
        vj = tl.load(v + j[:, None] * C + c[None, :], mask=is_edge[:, None] & (c < C)[None, :], other=0.0).to(ACC)
        change = p * (tl.sum(vj * gi[None, :], axis=1) - mean)
        tl.store(p_of_edge + e * H + head, p, mask=is_edge)
        tl.store(d_logits + e * H + head, change, mask=is_edge)
        total += tl.sum(change[:, None] * kj, axis=0)
    tl.store(d_q + row * D + d, total * SCALE, mask=d < D)
