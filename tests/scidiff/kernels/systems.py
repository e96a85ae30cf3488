"""Random systems and the brute-force definition of neighbour lists."""

import itertools

import numpy as np
import torch

BODIES = ("torch", "scipy", "numba")


def random_batch(generator, sizes, spread=4.0):
    pos = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64) * spread
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64))
    return pos, batch


def random_crystal(rng, num_nodes):
    """A skewed cell with unwrapped points, mixed periodicity, and a cutoff that may exceed half the cell."""
    cell = rng.uniform(2.0, 6.0, 3)[:, None] * (np.eye(3) + rng.uniform(-0.45, 0.45, (3, 3)))
    pbc = rng.integers(0, 2, 3).astype(bool)
    pos = rng.uniform(-1.5, 2.5, (num_nodes, 3)) @ cell
    return pos, cell, pbc, rng.uniform(1.0, 5.0)


def edges(g):
    """Edges as (target, source) or (target, source, S), in the order of the list."""
    columns = [g.target[:, None], g.source[:, None]] + ([] if g.shifts is None else [g.shifts])
    return [tuple(row) for row in torch.cat([column.long() for column in columns], 1).tolist()]


def brute_force(pos, cutoff, batch=None, cell=None, pbc=None, loop=False):
    """All (target, source, S) over all pairs and images of one cell; batch gives the graph of each node."""
    pos = np.asarray(pos, dtype=np.float64)
    batch = np.zeros(len(pos), int) if batch is None else np.asarray(batch)
    images = [(0, 0, 0)]
    if cell is not None:
        inverse = np.linalg.inv(cell)
        heights = 1 / np.linalg.norm(inverse, axis=0)
        spans = np.ptp(pos @ inverse, axis=0) if len(pos) else np.zeros(3)
        reach = [int(np.ceil(cutoff / h + span)) + 1 if on else 0 for h, span, on in zip(heights, spans, pbc)]
        images = list(itertools.product(*(range(-r, r + 1) for r in reach)))
    shifts = np.array(images)
    vectors = shifts @ (np.zeros((3, 3)) if cell is None else np.asarray(cell))
    delta = pos[None, :, None] + vectors - pos[:, None, None]
    close = ((delta**2).sum(-1) <= cutoff**2) & (batch[None, :] == batch[:, None])[:, :, None]
    if not loop:
        close &= ~np.eye(len(pos), dtype=bool)[:, :, None] | shifts.any(1)
    target, source, image = close.nonzero()
    columns = [target, source] + ([] if cell is None else [*shifts[image].T])
    return [tuple(row) for row in np.stack(columns, 1).tolist()]
