"""Neighbour searches by cells and transposes in numba: one owner a row, arithmetic of the torch bodies.

Cells write the neighbours of their rows one after another into room for all candidates; `unpack` then moves them
together. A key is ``source * 2^bits + image number``, so that ascending keys are the canonical order.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from scidiff.kernels.cpu_numba._threads import compiled

__all__ = [
    "Cells",
    "cell_parallel",
    "cell_rows",
    "count_candidates",
    "counting_sort",
    "nearest_parallel",
    "nearest_rows",
    "unpack_parallel",
    "unpack_rows",
]


_RANKED = 128
"""Neighbours up to which comparing all pairs of keys is the fastest sort."""


class Cells(NamedTuple):
    """Points by cell; see `scidiff.kernels.search.Grid`."""

    batch: np.ndarray
    bins: np.ndarray
    shape: np.ndarray
    reach: np.ndarray
    periodic: np.ndarray
    first: np.ndarray
    ptr: np.ndarray
    order: np.ndarray
    x: np.ndarray  # (3, N) by number
    xs: np.ndarray  # (3, N) by cell
    lattice: np.ndarray
    cutoff2: np.ndarray
    images: np.ndarray
    bits: int


@compiled()
def counting_sort(values, ptr, order):
    """Stable order of integers: ``order[ptr[v]:ptr[v + 1]]`` are the places of value v; fills ``ptr`` and ``order``."""
    for e in range(values.shape[0]):
        ptr[values[e] + 1] += 1
    for v in range(ptr.shape[0] - 1):
        ptr[v + 1] += ptr[v]
    heads = ptr[:-1].copy()
    for e in range(values.shape[0]):
        v = values[e]
        order[heads[v]] = e
        heads[v] += 1


@compiled()
def count_candidates(first, last, cells, count):
    """Number of points that `cell_rows` compares with each point."""
    batch, bins, shape, reach, periodic = cells.batch, cells.bins, cells.shape, cells.reach, cells.periodic
    cell_first, cell_ptr = cells.first, cells.ptr
    for i in range(first, last):
        g = batch[i]
        total = 0
        nx, ny, nz = shape[g, 0], shape[g, 1], shape[g, 2]
        for ux in range(bins[i, 0] - reach[g, 0], bins[i, 0] + reach[g, 0] + 1):
            ix = ux // nx
            if ix != 0 and not periodic[g, 0]:
                continue
            for uy in range(bins[i, 1] - reach[g, 1], bins[i, 1] + reach[g, 1] + 1):
                iy = uy // ny
                if iy != 0 and not periodic[g, 1]:
                    continue
                base = cell_first[g] + ((ux - ix * nx) * ny + uy - iy * ny) * nz
                low, high = bins[i, 2] - reach[g, 2], bins[i, 2] + reach[g, 2]
                for iz in range(low // nz, high // nz + 1):
                    if iz != 0 and not periodic[g, 2]:
                        continue
                    z0, z1 = max(low - iz * nz, 0), min(high - iz * nz, nz - 1)
                    total += cell_ptr[base + z1 + 1] - cell_ptr[base + z0]
        count[i] = total


@compiled()
def cell_rows(first, last, cells, loop, room, degree, keys):
    """All pairs of the points ``first`` to ``last``."""
    batch, bins, shape, reach, periodic = cells.batch, cells.bins, cells.shape, cells.reach, cells.periodic
    cell_first, cell_ptr = cells.first, cells.ptr
    order, x, xs, cell, cutoff2 = cells.order, cells.x, cells.xs, cells.lattice, cells.cutoff2
    images, bits = cells.images, cells.bits
    distance2 = np.empty(batch.shape[0], dtype=np.float64)
    rank = np.empty(_RANKED, dtype=np.int64)
    copy = np.empty(_RANKED, dtype=np.int64)
    k = room
    for i in range(first, last):
        g = batch[i]
        begin = k
        xi, yi, zi, c2 = x[0, i], x[1, i], x[2, i], cutoff2[g]
        nx, ny, nz = shape[g, 0], shape[g, 1], shape[g, 2]
        for ux in range(bins[i, 0] - reach[g, 0], bins[i, 0] + reach[g, 0] + 1):
            ix = ux // nx
            if ix != 0 and not periodic[g, 0]:
                continue
            for uy in range(bins[i, 1] - reach[g, 1], bins[i, 1] + reach[g, 1] + 1):
                iy = uy // ny
                if iy != 0 and not periodic[g, 1]:
                    continue
                base = cell_first[g] + ((ux - ix * nx) * ny + uy - iy * ny) * nz
                low, high = bins[i, 2] - reach[g, 2], bins[i, 2] + reach[g, 2]
                for iz in range(low // nz, high // nz + 1):
                    if iz != 0 and not periodic[g, 2]:
                        continue
                    z0, z1 = max(low - iz * nz, 0), min(high - iz * nz, nz - 1)
                    ox = ix * cell[g, 0, 0] + iy * cell[g, 1, 0] + iz * cell[g, 2, 0]
                    oy = ix * cell[g, 0, 1] + iy * cell[g, 1, 1] + iz * cell[g, 2, 1]
                    oz = ix * cell[g, 0, 2] + iy * cell[g, 1, 2] + iz * cell[g, 2, 2]
                    code = ix + images[0]
                    code = code * (2 * images[1] + 1) + iy + images[1]
                    code = code * (2 * images[2] + 1) + iz + images[2]
                    own = i if ix == 0 and iy == 0 and iz == 0 and not loop else -1
                    start, stop = cell_ptr[base + z0], cell_ptr[base + z1 + 1]
                    px, py, pz, numbers = xs[0, start:stop], xs[1, start:stop], xs[2, start:stop], order[start:stop]
                    for p in range(numbers.shape[0]):
                        dx, dy, dz = (px[p] - xi) + ox, (py[p] - yi) + oy, (pz[p] - zi) + oz
                        distance2[p] = dx * dx + dy * dy + dz * dz
                    for p in range(numbers.shape[0]):
                        j = numbers[p]
                        keys[k] = (j << bits) | code
                        k += (distance2[p] <= c2) & (j != own)
        _sort(keys, begin, k, rank, copy)
        degree[i] = k - begin


@compiled(parallel=True)
def cell_parallel(chunks, cells, loop, room, degree, keys):
    """`cell_rows` for chunks of points at once."""
    for c in numba.prange(chunks.shape[0] - 1):
        cell_rows(chunks[c], chunks[c + 1], cells, loop, room[c], degree, keys)


@compiled()
def _sort(keys, begin, end, rank, copy):
    """Sort different keys: short rows by counting smaller ones without branches, long ones by quicksort."""
    count = end - begin
    if count > _RANKED:
        keys[begin:end].sort()
        return
    for p in range(count):
        copy[p] = keys[begin + p]
        rank[p] = 0
    for p in range(count):
        key = copy[p]
        for q in range(count):
            rank[q] += key < copy[q]
    for p in range(count):
        keys[begin + rank[p]] = copy[p]


@compiled()
def unpack_rows(first, last, room, origin, ptr, bits, table, wrap, keys, source, shifts):
    """Keys of the points ``first`` to ``last`` as sources and images of the given coordinates; ptr starts at origin."""
    k = room
    for i in range(first, last):
        for e in range(ptr[i - origin], ptr[i - origin + 1]):
            j = keys[k] >> bits
            source[e] = j
            if shifts.shape[0] > 0:
                code = keys[k] & ((1 << bits) - 1)
                for axis in range(3):
                    shifts[e, axis] = table[code, axis] - wrap[j, axis] + wrap[i, axis]
            k += 1


@compiled(parallel=True)
def unpack_parallel(chunks, room, origin, ptr, bits, table, wrap, keys, source, shifts):
    """`unpack_rows` for chunks of points at once."""
    for c in numba.prange(chunks.shape[0] - 1):
        unpack_rows(chunks[c], chunks[c + 1], room[c], origin, ptr, bits, table, wrap, keys, source, shifts)


@compiled()
def nearest_rows(first, last, cells, width, k, loop, source, degree):
    """The k nearest points of the points ``first`` to ``last``, by growing shells of cells; row i of source."""
    batch, bins, shape, cell_first, cell_ptr = cells.batch, cells.bins, cells.shape, cells.first, cells.ptr
    cell_order, x, xs = cells.order, cells.x, cells.xs
    best = np.empty(k, dtype=np.float64)
    number = np.empty(k, dtype=np.int64)
    for i in range(first, last):
        g = batch[i]
        found = 0
        nx, ny, nz = shape[g, 0], shape[g, 1], shape[g, 2]
        bx, by, bz = bins[i, 0], bins[i, 1], bins[i, 2]
        farthest = max(max(bx, nx - 1 - bx), max(max(by, ny - 1 - by), max(bz, nz - 1 - bz)))
        for shell in range(farthest + 1):
            if found == k and best[k - 1] < ((shell - 1) * width[g]) ** 2:
                break
            for cx in range(max(bx - shell, 0), min(bx + shell, nx - 1) + 1):
                for cy in range(max(by - shell, 0), min(by + shell, ny - 1) + 1):
                    inner = abs(cx - bx) < shell and abs(cy - by) < shell
                    step = 2 * shell if inner and shell > 0 else 1
                    cz = bz - shell
                    while cz <= bz + shell:
                        if 0 <= cz < nz:
                            c = cell_first[g] + (cx * ny + cy) * nz + cz
                            for p in range(cell_ptr[c], cell_ptr[c + 1]):
                                j = cell_order[p]
                                dx, dy, dz = xs[0, p] - x[0, i], xs[1, p] - x[1, i], xs[2, p] - x[2, i]
                                d2 = dx * dx + dy * dy + dz * dz
                                if j == i and not loop:
                                    continue
                                if found == k and (d2 > best[k - 1] or (d2 == best[k - 1] and j > number[k - 1])):
                                    continue
                                found = min(found + 1, k)
                                q = found - 1
                                while q > 0 and (best[q - 1] > d2 or (best[q - 1] == d2 and number[q - 1] > j)):
                                    best[q], number[q] = best[q - 1], number[q - 1]
                                    q -= 1
                                best[q], number[q] = d2, j
                        cz += step
        source[i, :found] = np.sort(number[:found])
        degree[i] = found


@compiled(parallel=True)
def nearest_parallel(chunks, cells, width, k, loop, source, degree):
    """`nearest_rows` for chunks of points at once."""
    for c in numba.prange(chunks.shape[0] - 1):
        nearest_rows(chunks[c], chunks[c + 1], cells, width, k, loop, source, degree)
