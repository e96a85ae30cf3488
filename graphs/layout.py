"""Positions of nodes for pictures: stress majorisation from the spectral start, the same on every machine.

Distances on the page follow the numbers of edges between nodes, so that lattices come out flat and rings round.

Reference: Gansner, Koren, North 2004, "Graph drawing by stress majorization", eq. 8.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import connected_components, shortest_path

__all__ = ["num_components", "stress_layout"]

_ITERATIONS = 80


def stress_layout(adj: np.ndarray) -> np.ndarray:
    """Positions (n, 2) of the nodes of a 0/1 matrix (n, n); pieces of a graph lie side by side."""
    n = len(adj)
    if n < 3:
        return np.stack([np.arange(n, dtype=np.float64), np.zeros(n)], axis=1)
    distance = shortest_path(adj, unweighted=True, directed=False)
    reachable = distance[np.isfinite(distance)]
    distance = np.where(np.isfinite(distance), distance, 0.7 * reachable.max() + 1.5)
    weight = np.divide(1.0, distance**2, out=np.zeros_like(distance), where=distance > 0)
    laplacian = np.diag(weight.sum(0)) - weight
    inverse = np.linalg.pinv(laplacian, hermitian=True)
    pos = _start(distance)
    for _ in range(_ITERATIONS):
        gap = np.linalg.norm(pos[:, None] - pos[None], axis=-1)
        pull = -weight * np.divide(distance, gap, out=np.zeros_like(gap), where=gap > 1e-12)
        np.fill_diagonal(pull, 0.0)
        np.fill_diagonal(pull, -pull.sum(0))
        pos = inverse @ (pull @ pos)
    return pos


def num_components(adj: np.ndarray) -> int:
    """Number of connected components of a 0/1 matrix."""
    return int(connected_components(adj, directed=False, return_labels=False))


def _start(distance: np.ndarray) -> np.ndarray:
    """Classical scaling, with a small fixed spiral against coinciding nodes."""
    n = len(distance)
    centred = distance**2
    centred = -0.5 * (centred - centred.mean(0) - centred.mean(1)[:, None] + centred.mean())
    values, vectors = np.linalg.eigh(centred)
    angle = np.arange(n) * 2.399963  # golden angle
    spiral = 0.02 * np.sqrt(np.arange(n) / n)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 1e-9)) + distance.max() * spiral
