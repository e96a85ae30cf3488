"""Neighbour searches and transposes in numba: one owner a row, the same arithmetic as the torch bodies, no liberties.

Small graphs count their pairs and then write them. The cells of large ones write the neighbours of their rows one after
another into room for all candidates; `unpack` then moves them together. A key is ``source * 2^bits + image number``, so
that ascending keys are the canonical order.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from scidiff.kernels.cpu_numba._threads import compiled

__all__ = [
    "Cells",
    "brute_count",
    "brute_count_parallel",
    "brute_fill",
    "brute_fill_parallel",
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
def brute_count(first, last, starts, x, cutoff2, loop, degree):
    """Number of neighbours of the points of the graphs ``first`` to ``last`` among all of their graph; x is (3, N)."""
    for g in range(first, last):
        a, b = starts[g], starts[g + 1]
        px, py, pz = x[0, a:b], x[1, a:b], x[2, a:b]
        own = 0 if loop else 1  # a point is within any cutoff of itself
        for i in range(b - a):
            xi, yi, zi = px[i], py[i], pz[i]
            count = 0
            for j in range(px.shape[0]):
                dx, dy, dz = px[j] - xi, py[j] - yi, pz[j] - zi
                count += dx * dx + dy * dy + dz * dz <= cutoff2[g]
            degree[a + i] = count - own


@compiled(parallel=True)
def brute_count_parallel(chunks, starts, x, cutoff2, loop, degree):
    """`brute_count` for chunks of graphs at once."""
    for c in numba.prange(chunks.shape[0] - 1):
        brute_count(chunks[c], chunks[c + 1], starts, x, cutoff2, loop, degree)


@compiled()
def brute_fill(first, last, starts, x, cutoff2, loop, ptr, pairs):
    """Sources and targets (2, E) of the pairs that `brute_count` has counted."""
    near = np.empty(x.shape[1], dtype=np.int64)
    distance2 = np.empty(x.shape[1], dtype=np.float64)
    for g in range(first, last):
        a, b = starts[g], starts[g + 1]
        px, py, pz = x[0, a:b], x[1, a:b], x[2, a:b]
        for i in range(b - a):
            xi, yi, zi = px[i], py[i], pz[i]
            own = -1 if loop else i
            for j in range(px.shape[0]):
                dx, dy, dz = px[j] - xi, py[j] - yi, pz[j] - zi
                distance2[j] = dx * dx + dy * dy + dz * dz
            k = 0
            for j in range(px.shape[0]):
                near[k] = a + j
                k += (distance2[j] <= cutoff2[g]) & (j != own)
            source, target = pairs[0, ptr[a + i] : ptr[a + i + 1]], pairs[1, ptr[a + i] : ptr[a + i + 1]]
            for e in range(source.shape[0]):
                source[e] = near[e]
            for e in range(target.shape[0]):
                target[e] = a + i


@compiled(parallel=True)
def brute_fill_parallel(chunks, starts, x, cutoff2, loop, ptr, pairs):
    """`brute_fill` for chunks of graphs at once."""
    for c in numba.prange(chunks.shape[0] - 1):
        brute_fill(chunks[c], chunks[c + 1], starts, x, cutoff2, loop, ptr, pairs)


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
