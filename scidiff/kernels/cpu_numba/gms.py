"""Sums of products of node and edge features over the rows of a graph, and the product on edges.

Inner loops count from 0 over slices: an index that may be negative is checked at each step, and the loop is then not
vectorised.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from scidiff.kernels.cpu_numba._threads import SUMS, compiled, launch, part_count, part_rows
from scidiff.kernels.cpu_numba.lanes import head_dots, head_sums

__all__ = ["edge_dot", "edge_product", "gms", "gms_backward", "weighted_sum"]


def gms(x: Tensor, w: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None = None) -> Tensor:
    """out_i = sum_{e -> i} x_source w_e; with ``edge``, w of edge ``edge[e]``."""
    out = torch.empty(ptr.shape[0] - 1, x.shape[1], dtype=x.dtype)
    work = float(w.numel())
    arrays = x.numpy(), w.numpy(), source.numpy(), ptr.numpy()
    if edge is None:
        launch(_gms_all, _gms_parallel, work, *arrays, out.numpy(), part_count(work))
    else:
        launch(_gms_edge_all, _gms_edge_parallel, work, *arrays, edge.numpy(), out.numpy(), part_count(work))
    return out


def gms_backward(
    g: Tensor, x: Tensor, w: Tensor, t_ptr: Tensor, t_target: Tensor, t_edge: Tensor
) -> tuple[Tensor, Tensor]:
    """dx_j = sum_{e from j} g_target w_e and dw_e = g_target x_source in one pass."""
    dx, dw = torch.empty_like(x), torch.empty_like(w)
    work = 2.0 * w.numel()
    arrays = tuple(t.numpy() for t in (g, x, w, t_target, t_ptr, t_edge, dx, dw))
    launch(_gradients_all, _gradients_parallel, work, *arrays, part_count(work))
    return dx, dw


def edge_product(g: Tensor, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """g_target x_source."""
    out = torch.empty(source.shape[0], x.shape[1], dtype=x.dtype)
    launch(
        _product_all,
        _product_parallel,
        float(out.numel()),
        g.numpy(),
        x.numpy(),
        source.numpy(),
        target.numpy(),
        out.numpy(),
    )
    return out


def weighted_sum(x: Tensor, a: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None = None) -> Tensor:
    """sum_e a_eh x_source,h; with ``edge``, a of edge ``edge[e]``."""
    out = torch.empty(ptr.shape[0] - 1, x.shape[1], dtype=x.dtype)
    if edge is not None:
        a = a.index_select(0, edge)
    work = float(source.shape[0] * x.shape[1])
    arrays = tuple(t.numpy() for t in (x, a, source, ptr, out))
    launch(_weighted_all, _weighted_parallel, work, *arrays, part_count(work))
    return out


def edge_dot(a: Tensor, b: Tensor, source: Tensor, target: Tensor, heads: int) -> Tensor:
    """a_target . b_source in blocks of channels."""
    out = torch.empty(source.shape[0], heads, dtype=a.dtype)
    work = float(source.shape[0] * a.shape[1])
    launch(_dot_all, _dot_parallel, work, *(t.numpy() for t in (a, b, source, target, out)))
    return out


@compiled(fastmath=SUMS)
def _gms_rows(x, w, source, ptr, out, first, last):  # type: ignore
    width = x.shape[1]
    total = np.empty(width, x.dtype)
    for i in range(first, last):
        total[:] = 0
        for e in range(ptr[i], ptr[i + 1]):
            j = source[e]
            for f in range(width):
                total[f] += x[j, f] * w[e, f]
        for f in range(width):
            out[i, f] = total[f]


@compiled(fastmath=SUMS)
def _gms_all(x, w, source, ptr, out, parts):  # type: ignore
    _gms_rows(x, w, source, ptr, out, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _gms_parallel(x, w, source, ptr, out, parts):  # type: ignore
    for p in prange(parts):
        _gms_rows(x, w, source, ptr, out, *part_rows(ptr, p, parts))


@compiled(fastmath=SUMS)
def _gms_edge_rows(x, w, source, ptr, edge, out, first, last):  # type: ignore
    width = x.shape[1]
    total = np.empty(width, x.dtype)
    for i in range(first, last):
        total[:] = 0
        for e in range(ptr[i], ptr[i + 1]):
            j, k = source[e], edge[e]
            for f in range(width):
                total[f] += x[j, f] * w[k, f]
        for f in range(width):
            out[i, f] = total[f]


@compiled(fastmath=SUMS)
def _gms_edge_all(x, w, source, ptr, edge, out, parts):  # type: ignore
    _gms_edge_rows(x, w, source, ptr, edge, out, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _gms_edge_parallel(x, w, source, ptr, edge, out, parts):  # type: ignore
    for p in prange(parts):
        _gms_edge_rows(x, w, source, ptr, edge, out, *part_rows(ptr, p, parts))


@compiled(fastmath=SUMS)
def _gradients_rows(g, x, w, t_target, t_ptr, t_edge, dx, dw, first, last):  # type: ignore
    width = x.shape[1]
    total = np.empty(width, x.dtype)
    for j in range(first, last):
        total[:] = 0
        for k in range(t_ptr[j], t_ptr[j + 1]):
            i, e = t_target[k], t_edge[k]
            for f in range(width):
                total[f] += g[i, f] * w[e, f]
            for f in range(width):
                dw[e, f] = g[i, f] * x[j, f]
        for f in range(width):
            dx[j, f] = total[f]


@compiled(fastmath=SUMS)
def _gradients_all(g, x, w, t_target, t_ptr, t_edge, dx, dw, parts):  # type: ignore
    _gradients_rows(g, x, w, t_target, t_ptr, t_edge, dx, dw, 0, t_ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _gradients_parallel(g, x, w, t_target, t_ptr, t_edge, dx, dw, parts):  # type: ignore
    for p in prange(parts):
        _gradients_rows(g, x, w, t_target, t_ptr, t_edge, dx, dw, *part_rows(t_ptr, p, parts))


@compiled(fastmath=SUMS)
def _product_rows(g, x, source, target, out, first, last):  # type: ignore
    width = x.shape[1]
    for e in range(first, last):
        i, j = target[e], source[e]
        for f in range(width):
            out[e, f] = g[i, f] * x[j, f]


@compiled(fastmath=SUMS)
def _product_all(g, x, source, target, out):  # type: ignore
    _product_rows(g, x, source, target, out, 0, source.shape[0])


@compiled(fastmath=SUMS, parallel=True)
def _product_parallel(g, x, source, target, out):  # type: ignore
    count = source.shape[0]
    blocks = (count + 1023) // 1024
    for b in prange(blocks):
        _product_rows(g, x, source, target, out, b * 1024, min(b * 1024 + 1024, count))


@compiled(fastmath=SUMS)
def _weighted_rows(x, a, source, ptr, out, first, last):  # type: ignore
    ones = np.ones(a.shape[1], x.dtype)
    for i in range(first, last):
        head_sums(out[i], ones, a[ptr[i] : ptr[i + 1]], x, source[ptr[i] : ptr[i + 1]])


@compiled(fastmath=SUMS)
def _weighted_all(x, a, source, ptr, out, parts):  # type: ignore
    _weighted_rows(x, a, source, ptr, out, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _weighted_parallel(x, a, source, ptr, out, parts):  # type: ignore
    for p in prange(parts):
        _weighted_rows(x, a, source, ptr, out, *part_rows(ptr, p, parts))


@compiled(fastmath=SUMS)
def _dot_rows(a, b, source, target, out, first, last):  # type: ignore
    for e in range(first, last):
        head_dots(out[e], a[target[e]], b[source[e]])


@compiled(fastmath=SUMS)
def _dot_all(a, b, source, target, out):  # type: ignore
    _dot_rows(a, b, source, target, out, 0, source.shape[0])


@compiled(fastmath=SUMS, parallel=True)
def _dot_parallel(a, b, source, target, out):  # type: ignore
    count = source.shape[0]
    for p in prange((count + 1023) // 1024):
        _dot_rows(a, b, source, target, out, p * 1024, min(p * 1024 + 1024, count))
