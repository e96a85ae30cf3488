"""Radius lists of small open graphs: all pairs of a graph are compared, eight at a time.

The comparisons of a point with eight others are the bits of a byte. Bytes tell the number of neighbours, and then the
vectors of eight sources and eight targets to write, each over the spare end of the one before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic
from torch import Tensor

from scidiff.kernels.cpu_numba._threads import compiled, launch, part_count, part_rows
from scidiff.kernels.cpu_numba.vectors import load, place, spread, store

__all__ = ["graph_starts", "radius_edges"]

_BITS = np.arange(256)[:, None] >> np.arange(8) & 1
_COUNT = _BITS.sum(1)
"""Number of bits that are set in a byte."""

_PLACES = np.argsort(1 - _BITS, axis=1, kind="stable").astype(np.uint8).view(np.uint64)[:, 0]
"""Their places in ascending order (and then the places of the others), eight bits each."""


def radius_edges(starts: Tensor, x: Tensor, cutoff: np.ndarray, loop: bool, most: int) -> tuple[int, Tensor, Tensor]:
    """Points of the largest graph, row pointers (N + 1,) and pairs (2, E), canonical order.

    No pairs are found if that is more than ``most``, or -1: ``starts`` do not ascend from 0 to N, or x is not finite.

    Args:
        starts: First point of each graph, and N, int64 (G + 1,).
        x: Coordinates, float32 or float64 (N, 3).
        cutoff: One radius, or one a graph, float64 (1,) or (G,).
        loop: Whether each point is its own neighbour.
        most: Points that a graph may have.
    """
    work = 4.0 * x.shape[0] ** 2 / max(starts.shape[0] - 1, 1)
    args = starts.contiguous().numpy(), x.contiguous().numpy(), cutoff, loop, most, part_count(work)
    largest, *found = launch(_edges, _edges_parallel, work, *args)
    ptr, pairs = map(torch.from_numpy, found)
    return largest, ptr, pairs


@intrinsic
def _within(_typing: Any, x: Any, y: Any, z: Any, i: Any, j: Any, distance2: Any) -> Any:
    """Which of the points ``j`` to ``j + 8`` lie within a squared distance of point ``i``: a byte."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total = None
        for kind, array in zip(signature.args[:3], args[:3]):
            own = builder.load(place(context, builder, kind, array, args[3]))
            delta = builder.fsub(load(context, builder, kind, array, args[4], 8), spread(builder, own, 8))
            square = builder.fmul(delta, delta)
            total = square if total is None else builder.fadd(total, square)
        bits = builder.fcmp_ordered("<=", total, spread(builder, args[5], 8))
        return builder.zext(builder.bitcast(bits, ir.IntType(8)), ir.IntType(64))

    return types.int64(x, y, z, types.intp, types.intp, types.float64), make


@intrinsic
def _store(_typing: Any, out: Any, first: Any, origin: Any, places: Any) -> Any:
    """Write ``origin`` plus eight places into a contiguous array from its place ``first`` on."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        octets = builder.bitcast(args[3], ir.VectorType(ir.IntType(8), 8))
        numbers = builder.zext(octets, ir.VectorType(ir.IntType(64), 8))
        places = builder.add(numbers, spread(builder, args[2], 8))
        store(context, builder, signature.args[0], args[0], args[1], places)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.int64, types.uint64), make


@compiled()
def _find(first, last, starts, x, cutoff, loop, near, ptr):  # type: ignore
    """Neighbours of the points of the graphs ``first`` to ``last`` as bits, and their number in ``ptr[1:]``."""
    width = 8 * near.shape[1]
    px, py, pz = np.empty(width), np.empty(width), np.empty(width)
    for g in range(first, last):
        a, n = starts[g], starts[g + 1] - starts[g]
        blocks, radius = (n + 7) // 8, cutoff[g % cutoff.shape[0]]
        for i in range(n):
            px[i], py[i], pz[i] = x[a + i, 0], x[a + i, 1], x[a + i, 2]
        for i in range(n, 8 * blocks):
            px[i] = np.nan  # not within any distance
        for i in range(n):
            degree = 0
            for block in range(blocks):
                bits = _within(px, py, pz, i, 8 * block, radius * radius)  # pyright: ignore[reportCallIssue]
                near[a + i, block] = bits
                degree += _COUNT[bits]
            if not loop:  # a point is within any distance of itself
                near[a + i, i // 8] ^= 1 << i % 8
                degree -= 1
            ptr[a + i + 1] = degree


@compiled()
def _fill(first, last, starts, near, ptr, pairs):  # type: ignore
    """Sources and targets (2, E) of the pairs that `_find` has found."""
    edges, end = pairs.shape[1], ptr[starts[last]]
    for g in range(first, last):
        a, b = starts[g], starts[g + 1]
        for i in range(a, b):
            e = ptr[i]
            for block in range((b - a + 7) // 8):
                bits, origin = near[i, block], a + 8 * block
                places = _PLACES[bits]
                if e + 8 <= end:  # the next eight overwrite those that are too many
                    _store(pairs, e, origin, places)  # pyright: ignore[reportCallIssue]
                    _store(pairs, edges + e, i, 0)  # pyright: ignore[reportCallIssue]
                else:  # what follows the end belongs to another part
                    for k in range(_COUNT[bits]):
                        pairs[0, e + k] = origin + (places >> 8 * k & 255)
                        pairs[1, e + k] = i
                e += _COUNT[bits]


@compiled()
def graph_starts(batch):  # type: ignore
    """First point of each graph, and N; empty if ``batch`` (N,) does not ascend from 0 on."""
    previous = 0
    for g in batch:
        if g < previous:
            return np.empty(0, np.int64)
        previous = g
    starts = np.zeros(batch.max() + 2 if len(batch) else 1, np.int64)
    for g in batch:
        starts[g + 1] += 1
    for g in range(len(starts) - 1):
        starts[g + 1] += starts[g]
    return starts


@compiled()
def _largest(starts, x):  # type: ignore
    """Points of the largest graph; -1 if pointers do not ascend from 0 to N, or coordinates are not finite."""
    if starts.shape[0] == 0 or starts[0] != 0 or starts[-1] != x.shape[0]:
        return -1
    largest, is_finite = 0, True
    for g in range(starts.shape[0] - 1):
        n = starts[g + 1] - starts[g]
        if n < 0:
            return -1
        largest = max(largest, n)
    for value in x.flat:
        is_finite &= np.isfinite(value)
    return largest if is_finite else -1


@compiled()
def _edges(starts, x, cutoff, loop, most, parts):  # type: ignore
    """Points of the largest graph, row pointers (N + 1,) and pairs (2, E) of the points x (N, 3) within the cutoff.

    Only the first, if it is more than ``most``, or -1 for bad input (see `_largest`).
    """
    largest = _largest(starts, x)
    if not 0 <= largest <= most:
        return largest, np.empty(0, np.int64), np.empty((2, 0), np.int64)
    ptr = np.zeros(x.shape[0] + 1, np.int64)
    near = np.empty((x.shape[0], (largest + 7) // 8), np.uint8)
    _find(0, starts.shape[0] - 1, starts, x, cutoff, loop, near, ptr)
    for i in range(x.shape[0]):
        ptr[i + 1] += ptr[i]
    pairs = np.empty((2, ptr[-1]), np.int64)
    _fill(0, starts.shape[0] - 1, starts, near, ptr, pairs)
    return largest, ptr, pairs


@compiled(parallel=True)
def _edges_parallel(starts, x, cutoff, loop, most, parts):  # type: ignore
    """`_edges` for parts of the graphs with about as many comparisons each."""
    largest = _largest(starts, x)
    if not 0 <= largest <= most:
        return largest, np.empty(0, np.int64), np.empty((2, 0), np.int64)
    ptr = np.zeros(x.shape[0] + 1, np.int64)
    near = np.empty((x.shape[0], (largest + 7) // 8), np.uint8)
    work = np.zeros_like(starts)
    for g in range(starts.shape[0] - 1):
        work[g + 1] = work[g] + (starts[g + 1] - starts[g]) ** 2
    for part in prange(parts):
        first, last = part_rows(work, part, parts)
        _find(first, last, starts, x, cutoff, loop, near, ptr)
    for i in range(x.shape[0]):
        ptr[i + 1] += ptr[i]
    pairs = np.empty((2, ptr[-1]), np.int64)
    for part in prange(parts):
        first, last = part_rows(work, part, parts)
        _fill(first, last, starts, near, ptr, pairs)
    return largest, ptr, pairs
