"""Sums, maxima and softmax over the edges of each row, channel by channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from scidiff.kernels.cpu_numba._threads import SUMS, compiled, launch, part_count, part_rows
from scidiff.kernels.cpu_numba.activations import exp

__all__ = ["segment_max", "segment_softmax", "segment_softmax_backward", "segment_sum"]


def segment_sum(v: Tensor, ptr: Tensor) -> Tensor:
    """Sums of the rows ``ptr[i]:ptr[i + 1]`` of v (E, F)."""
    out = torch.empty(ptr.shape[0] - 1, v.shape[1], dtype=v.dtype)
    _run(_sum_all, _sum_parallel, 1.0, v, ptr, out)
    return out


def segment_max(v: Tensor, ptr: Tensor) -> Tensor:
    """Largest entries of the rows of v (E, F), 0 for empty rows, NaN where one is NaN."""
    out = torch.empty(ptr.shape[0] - 1, v.shape[1], dtype=v.dtype)
    _run(_max_all, _max_parallel, 1.0, v, ptr, out)
    return out


def segment_softmax(logits: Tensor, ptr: Tensor) -> Tensor:
    """exp(l_e) / sum over the row, (E, F)."""
    out = torch.empty_like(logits)
    _run(_softmax_all, _softmax_parallel, 10.0, logits, ptr, out)
    return out


def segment_softmax_backward(g: Tensor, p: Tensor, ptr: Tensor) -> Tensor:
    """p (g - sum over the row of p g), (E, F)."""
    out = torch.empty_like(p)
    _run(_slope_all, _slope_parallel, 2.0, g, p, ptr, out)
    return out


def _run(serial: Any, parallel: Any, cost: float, *tensors: Tensor) -> None:
    work = cost * tensors[0].numel()
    launch(serial, parallel, work, *(t.numpy() for t in tensors), part_count(work))


@compiled(fastmath=SUMS)
def _sum_rows(v, ptr, out, begin, end):  # type: ignore
    width = v.shape[1]
    for i in range(begin, end):
        total = out[i]
        total[:] = 0
        for e in range(ptr[i], ptr[i + 1]):
            row = v[e]
            for f in range(width):
                total[f] += row[f]


@compiled(fastmath=SUMS)
def _sum_all(v, ptr, out, parts):  # type: ignore
    _sum_rows(v, ptr, out, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _sum_parallel(v, ptr, out, parts):  # type: ignore
    for p in prange(parts):
        _sum_rows(v, ptr, out, *part_rows(ptr, p, parts))


@compiled()
def _max_rows(v, ptr, out, begin, end):  # type: ignore
    width = v.shape[1]
    for i in range(begin, end):
        highest = out[i]
        if ptr[i] == ptr[i + 1]:
            highest[:] = 0
            continue
        highest[:] = v[ptr[i]]
        for e in range(ptr[i] + 1, ptr[i + 1]):
            row = v[e]
            for f in range(width):
                if not row[f] <= highest[f] and highest[f] == highest[f]:  # a NaN takes the place and keeps it
                    highest[f] = row[f]


@compiled()
def _max_all(v, ptr, out, parts):  # type: ignore
    _max_rows(v, ptr, out, 0, ptr.shape[0] - 1)


@compiled(parallel=True)
def _max_parallel(v, ptr, out, parts):  # type: ignore
    for p in prange(parts):
        _max_rows(v, ptr, out, *part_rows(ptr, p, parts))


@compiled(fastmath=SUMS)
def _softmax_rows(logits, ptr, out, begin, end):  # type: ignore
    width = logits.shape[1]
    highest, total = np.empty(width, logits.dtype), np.empty(width, logits.dtype)
    for i in range(begin, end):
        highest[:] = -np.inf
        for e in range(ptr[i], ptr[i + 1]):
            row = logits[e]
            for f in range(width):
                highest[f] = max(highest[f], row[f])
        for f in range(width):
            highest[f] = highest[f] if np.isfinite(highest[f]) else 0
        total[:] = 0
        for e in range(ptr[i], ptr[i + 1]):
            row, share = logits[e], out[e]
            for f in range(width):
                share[f] = exp(row[f] - highest[f])
            for f in range(width):
                total[f] += share[f]
        for e in range(ptr[i], ptr[i + 1]):
            share = out[e]
            for f in range(width):
                share[f] /= total[f]


@compiled(fastmath=SUMS)
def _softmax_all(logits, ptr, out, parts):  # type: ignore
    _softmax_rows(logits, ptr, out, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _softmax_parallel(logits, ptr, out, parts):  # type: ignore
    for p in prange(parts):
        _softmax_rows(logits, ptr, out, *part_rows(ptr, p, parts))


@compiled(fastmath=SUMS)
def _slope_rows(g, p, ptr, out, begin, end):  # type: ignore
    width = p.shape[1]
    total = np.empty(width, p.dtype)
    for i in range(begin, end):
        total[:] = 0
        for e in range(ptr[i], ptr[i + 1]):
            slope, share = g[e], p[e]
            for f in range(width):
                total[f] += slope[f] * share[f]
        for e in range(ptr[i], ptr[i + 1]):
            slope, share, result = g[e], p[e], out[e]
            for f in range(width):
                result[f] = share[f] * (slope[f] - total[f])


@compiled(fastmath=SUMS)
def _slope_all(g, p, ptr, out, parts):  # type: ignore
    _slope_rows(g, p, ptr, out, 0, ptr.shape[0] - 1)


@compiled(fastmath=SUMS, parallel=True)
def _slope_parallel(g, p, ptr, out, parts):  # type: ignore
    for k in prange(parts):
        _slope_rows(g, p, ptr, out, *part_rows(ptr, k, parts))
