"""Attention with a weight for each channel: softmax over the edges of a row and the weighted sum in one pass."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from scidiff.kernels.cpu_numba._threads import SUMS, compiled, launch, part_count, part_rows
from scidiff.kernels.cpu_numba.activations import exp

__all__ = ["softmax_gather_sum", "softmax_gather_sum_backward"]


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
