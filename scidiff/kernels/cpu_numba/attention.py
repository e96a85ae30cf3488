"""Attention: softmax over the edges of a row, a channel or a head at a time, and the weighted sum, row by row."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from scidiff.kernels.cpu_numba._threads import SUMS, compiled, launch, part_count, part_rows
from scidiff.kernels.cpu_numba.activations import exp
from scidiff.kernels.cpu_numba.gms import weighted_sum
from scidiff.kernels.cpu_numba.lanes import head_dots, head_sums

__all__ = [
    "neighbor_attention",
    "neighbor_attention_backward",
    "softmax_gather_sum",
    "softmax_gather_sum_backward",
]


def softmax_gather_sum(logits: Tensor, x: Tensor, source: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """out_if = sum_e softmax_e(l_ef) x_source,f and log sum_e exp(l_ef) (0 for empty rows)."""
    out = torch.empty(ptr.shape[0] - 1, x.shape[1], dtype=x.dtype)
    lse = torch.empty_like(out)
    arrays = tuple(t.numpy() for t in (logits, x, source, ptr, out, lse))
    work = 20.0 * logits.numel()
    launch(_attend_all, _attend_parallel, work, *arrays, part_count(work))
    return out, lse


def softmax_gather_sum_backward(
    g: Tensor,
    logits: Tensor,
    x: Tensor,
    out: Tensor,
    lse: Tensor,
    source: Tensor,
    ptr: Tensor,
    target: Tensor,
    t_ptr: Tensor,
    t_target: Tensor,
    t_edge: Tensor,
) -> tuple[Tensor, Tensor]:
    """dl = p (g_target x_source - g_target out_target), dx_j = sum p g_target, with p = exp(l - lse)."""
    dlogits, dx = torch.empty_like(logits), torch.empty_like(x)
    work = 20.0 * logits.numel()
    arrays = tuple(t.numpy() for t in (g, logits, x, out, lse, source, ptr, dlogits))
    launch(_logits_all, _logits_parallel, work, *arrays, part_count(work))
    arrays = tuple(t.numpy() for t in (g, logits, lse, t_target, t_ptr, t_edge, dx))
    launch(_sources_all, _sources_parallel, work, *arrays, part_count(work))
    return dlogits, dx


@compiled(fastmath=SUMS)
def _attend_rows(logits, x, source, ptr, out, lse, begin, end):  # type: ignore
    width = x.shape[1]
    highest, total, weighted = np.empty(width, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    p = np.empty(width, x.dtype)
    for i in range(begin, end):
        first, last = ptr[i], ptr[i + 1]
        if first == last:
            out[i] = 0
            lse[i] = 0
            continue
        highest[:] = logits[first]
        for e in range(first + 1, last):
            le = logits[e]
            for f in range(width):
                highest[f] = max(highest[f], le[f])
        total[:] = 0
        weighted[:] = 0
        for e in range(first, last):
            le, xj = logits[e], x[source[e]]
            for f in range(width):
                p[f] = exp(le[f] - highest[f])
            for f in range(width):
                total[f] += p[f]
                weighted[f] += p[f] * xj[f]
        for f in range(width):
            out[i, f] = weighted[f] / total[f]
            lse[i, f] = highest[f] + np.log(total[f])


@compiled(fastmath=SUMS)
def _attend_all(logits, x, source, ptr, out, lse, parts):  # type: ignore
    _attend_rows(logits, x, source, ptr, out, lse, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _attend_parallel(logits, x, source, ptr, out, lse, parts):  # type: ignore
    for p in prange(parts):
        _attend_rows(logits, x, source, ptr, out, lse, *part_rows(ptr, p, parts))


@compiled(fastmath=SUMS)
def _logits_rows(g, logits, x, out, lse, source, ptr, dlogits, begin, end):  # type: ignore
    width = x.shape[1]
    for i in range(begin, end):
        gi, oi, si = g[i], out[i], lse[i]
        for e in range(ptr[i], ptr[i + 1]):
            le, xj, de = logits[e], x[source[e]], dlogits[e]
            for f in range(width):
                de[f] = exp(le[f] - si[f])
            for f in range(width):
                de[f] *= gi[f] * (xj[f] - oi[f])


@compiled(fastmath=SUMS)
def _logits_all(g, logits, x, out, lse, source, ptr, dlogits, parts):  # type: ignore
    _logits_rows(g, logits, x, out, lse, source, ptr, dlogits, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _logits_parallel(g, logits, x, out, lse, source, ptr, dlogits, parts):  # type: ignore
    for p in prange(parts):
        _logits_rows(g, logits, x, out, lse, source, ptr, dlogits, *part_rows(ptr, p, parts))


@compiled(fastmath=SUMS)
def _sources_rows(g, logits, lse, t_target, t_ptr, t_edge, dx, begin, end):  # type: ignore
    width = dx.shape[1]
    p = np.empty(width, dx.dtype)
    for j in range(begin, end):
        total = dx[j]
        total[:] = 0
        for k in range(t_ptr[j], t_ptr[j + 1]):
            gi, si, le = g[t_target[k]], lse[t_target[k]], logits[t_edge[k]]
            for f in range(width):
                p[f] = exp(le[f] - si[f])
            for f in range(width):
                total[f] += p[f] * gi[f]


@compiled(fastmath=SUMS)
def _sources_all(g, logits, lse, t_target, t_ptr, t_edge, dx, parts):  # type: ignore
    _sources_rows(g, logits, lse, t_target, t_ptr, t_edge, dx, 0, t_ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _sources_parallel(g, logits, lse, t_target, t_ptr, t_edge, dx, parts):  # type: ignore
    for p in prange(parts):
        _sources_rows(g, logits, lse, t_target, t_ptr, t_edge, dx, *part_rows(t_ptr, p, parts))


def neighbor_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, source: Tensor, ptr: Tensor
) -> tuple[Tensor, Tensor]:
    """sum_e softmax_e(q_target . k_source / sqrt(D) + bias_e) v_source by head; logarithms of the sums (0 if empty)."""
    heads = q.shape[1]
    out, lse = v.new_empty(ptr.shape[0] - 1, heads, v.shape[2]), q.new_empty(ptr.shape[0] - 1, heads)
    highest = torch.empty_like(lse)
    bias = q.new_empty(0, heads) if bias is None else bias
    work = _head_work(q, v, source)
    tensors = bias, source, ptr, highest, lse
    arrays = *_rows(q, k, v, out), *(t.numpy() for t in tensors)
    launch(_heads_all, _heads_parallel, work, *arrays, part_count(work))
    return out, lse.log_().add_(highest)


def neighbor_attention_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    source: Tensor,
    ptr: Tensor,
    target: Tensor,
    t_ptr: Tensor,
    t_target: Tensor,
    t_edge: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v and bias, with dl = p (g_target . v_source - g_target . out_target).

    dq = sum of dl k_source / sqrt(D) over the edges of a row, dk = sum of dl q_target / sqrt(D) and dv = sum of
    p g_target over the edges that leave a node.
    """
    dq, p = torch.empty_like(q), q.new_empty(source.shape[0], q.shape[1])
    dlogits, work = torch.empty_like(p), 2 * _head_work(q, v, source)
    has_bias, bias = bias is not None, p[:0] if bias is None else bias
    tensors = bias, lse, source, ptr, p, dlogits
    arrays = *_rows(g, q, k, v, out, dq), *(t.numpy() for t in tensors)
    launch(_head_slopes_all, _head_slopes_parallel, work, *arrays, part_count(work))
    dk = weighted_sum(q.flatten(1), dlogits, t_target, t_ptr, t_edge).mul_(q.shape[2] ** -0.5).view(k.shape)
    dv = weighted_sum(g.flatten(1), p, t_target, t_ptr, t_edge).view(v.shape)
    return dq, dk, dv, dlogits if has_bias else None


def _rows(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Features (N, H, D) as rows (N, H D)."""
    return tuple(t.numpy().reshape(t.shape[0], t.shape[1] * t.shape[2]) for t in tensors)


def _head_work(q: Tensor, v: Tensor, source: Tensor) -> float:
    return float(source.shape[0] * q.shape[1] * (q.shape[2] + v.shape[2] + 20))


@compiled(fastmath=SUMS, inline="always")
def _fold_max(x, heads):  # type: ignore
    """The largest of each head in the first ``heads`` numbers of x (E H,); halves at a time, in long loops."""
    rows = x.shape[0] // heads
    while rows > 1:
        half = (rows + 1) // 2
        low, high = x[: (rows - half) * heads], x[half * heads : rows * heads]
        for f in range(high.shape[0]):
            low[f] = max(low[f], high[f])
        rows = half


@compiled(fastmath=SUMS, inline="always")
def _fold_sum(x, heads):  # type: ignore
    """As `_fold_max`, the sum."""
    rows = x.shape[0] // heads
    while rows > 1:
        half = (rows + 1) // 2
        low, high = x[: (rows - half) * heads], x[half * heads : rows * heads]
        for f in range(high.shape[0]):
            low[f] += high[f]
        rows = half


@compiled(fastmath=SUMS, inline="always")
def _tile(x, period):  # type: ignore
    """Repeat the first numbers of x to its end."""
    done = period
    while done < x.shape[0]:
        low, high = x[: min(done, x.shape[0] - done)], x[done : 2 * done]
        for f in range(low.shape[0]):
            high[f] = low[f]
        done *= 2


@compiled(fastmath=SUMS)
def _heads_rows(q, k, v, out, bias, source, ptr, highest, total, begin, end):  # type: ignore
    heads = total.shape[1]
    scale, one = q.dtype.type((q.shape[1] // heads) ** -0.5), q.dtype.type(1)
    most = 0
    for i in range(begin, end):
        most = max(most, ptr[i + 1] - ptr[i])
    logits, work, inverse = np.empty((most, heads), q.dtype), np.empty(most * heads, q.dtype), np.empty(heads, q.dtype)
    for i in range(begin, end):
        first, last = ptr[i], ptr[i + 1]
        if first == last:
            out[i] = 0
            highest[i] = 0
            total[i] = 1
            continue
        sources, p = source[first:last], logits[: last - first]
        x, y = p.reshape(-1), work[: (last - first) * heads]
        for e in range(last - first):
            head_dots(p[e], q[i], k[sources[e]])
        if bias.shape[0] > 0:
            added = bias[first:last].reshape(-1)
            for f in range(x.shape[0]):
                x[f] = scale * x[f] + added[f]
        else:
            for f in range(x.shape[0]):
                x[f] *= scale
        y[:] = x
        _fold_max(y, heads)
        highest[i] = y[:heads]
        _tile(y, heads)
        for f in range(x.shape[0]):
            x[f] = exp(x[f] - y[f])
        y[:] = x
        _fold_sum(y, heads)
        for h in range(heads):
            total[i, h] = y[h]
            inverse[h] = one / y[h]
        head_sums(out[i], inverse, p, v, sources)


@compiled(fastmath=SUMS)
def _heads_all(q, k, v, out, bias, source, ptr, highest, total, parts):  # type: ignore
    _heads_rows(q, k, v, out, bias, source, ptr, highest, total, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _heads_parallel(q, k, v, out, bias, source, ptr, highest, total, parts):  # type: ignore
    for p in prange(parts):
        _heads_rows(q, k, v, out, bias, source, ptr, highest, total, *part_rows(ptr, p, parts))


@compiled(fastmath=SUMS)
def _head_slopes_rows(g, q, k, v, out, dq, bias, lse, source, ptr, p, dlogits, begin, end):  # type: ignore
    heads = lse.shape[1]
    scale = q.dtype.type((q.shape[1] // heads) ** -0.5)
    scales, inner = np.full(heads, scale), np.empty(heads, q.dtype)
    for i in range(begin, end):
        first, last = ptr[i], ptr[i + 1]
        sources, rows, slopes = source[first:last], p[first:last], dlogits[first:last]
        head_dots(inner, g[i], out[i])
        for e in range(last - first):
            head_dots(rows[e], q[i], k[sources[e]])
            head_dots(slopes[e], g[i], v[sources[e]])
            for h in range(heads):
                rows[e, h] = scale * rows[e, h] - lse[i, h]
                slopes[e, h] -= inner[h]
        x, y = rows.reshape(-1), slopes.reshape(-1)
        if bias.shape[0] > 0:
            added = bias[first:last].reshape(-1)
            for f in range(x.shape[0]):
                x[f] += added[f]
        for f in range(x.shape[0]):
            x[f] = exp(x[f])
        for f in range(x.shape[0]):
            y[f] *= x[f]
        head_sums(dq[i], scales, slopes, k, sources)


@compiled(fastmath=SUMS)
def _head_slopes_all(g, q, k, v, out, dq, bias, lse, source, ptr, p, dlogits, parts):  # type: ignore
    _head_slopes_rows(g, q, k, v, out, dq, bias, lse, source, ptr, p, dlogits, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _head_slopes_parallel(g, q, k, v, out, dq, bias, lse, source, ptr, p, dlogits, parts):  # type: ignore
    for part in prange(parts):
        rows = part_rows(ptr, part, parts)
        _head_slopes_rows(g, q, k, v, out, dq, bias, lse, source, ptr, p, dlogits, *rows)
