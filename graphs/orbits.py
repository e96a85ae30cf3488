r"""Orbits of nodes in graphlets of 2 to 4 nodes, by matrix products.

Orbits: 0 edge; path of 3: 1 end, 2 middle; 3 triangle; path of 4: 4 end, 5 inner; claw: 6 leaf, 7 centre; 8 square;
paw: 9 tail, 10 corners of degree 2, 11 corner of degree 3; diamond: 12 degree 2, 13 degree 3; 14 complete graph of 4.
All are induced subgraphs. With the degrees d, the common neighbours c = A^2 off the diagonal and t = A c / 2 summed
over neighbours, each count is a closed expression; only the complete graphs need the neighbourhood of a node.

References: Przulj 2007, "Biological network comparison using graphlet degree distribution" (numbering); Hocevar and
Demsar 2014, "A combinatorial approach to graphlet counting" (the idea of the relations).
"""

from __future__ import annotations

import numpy as np

from graphs.data.graph_set import GraphSet

__all__ = ["NUM_ORBITS", "adjacency_stacks", "orbit_counts", "orbits"]

NUM_ORBITS = 15

_ENTRIES = 2_000_000  # numbers in one stack of matrices


def orbits(graphs: GraphSet) -> np.ndarray:
    """Orbit counts (V, 15) int64 of all nodes of a set, in the order of its node arrays."""
    counts = np.zeros((int(graphs.offsets[-1]), NUM_ORBITS), dtype=np.int64)
    for index, adj in adjacency_stacks(graphs):
        found = orbit_counts(adj)
        mask = np.arange(adj.shape[1]) < graphs.sizes[index][:, None]
        rows = graphs.offsets[index][:, None] + np.arange(adj.shape[1])
        counts[rows[mask]] = found[mask]
    return counts


def orbit_counts(adj: np.ndarray) -> np.ndarray:
    """Orbit counts (B, N, 15) int64 of 0/1 matrices (B, N, N), symmetric with zero diagonal; padding counts nothing."""
    a = np.asarray(adj, dtype=np.float64)
    d = a.sum(-1)
    c = a @ a
    c[..., np.arange(a.shape[-1]), np.arange(a.shape[-1])] = 0.0
    along = a * c  # common neighbours of the ends of each edge
    t = along.sum(-1) / 2
    o14 = _complete(a, t)
    o13 = (a * _choose2(c)).sum(-1) - 3 * o14
    o12 = (a @ (along - a) * a).sum(-1) / 2 - 3 * o14
    o8 = _choose2(c).sum(-1) - o12 - o13 - 3 * o14
    o11 = t * (d - 2) - 2 * o13 - 3 * o14
    o10 = _mv(along, d - 2) - 2 * o12 - 2 * o13 - 6 * o14
    o9 = _mv(a, t) - 2 * t - 2 * o12 - 3 * o14
    o7 = d * (d - 1) * (d - 2) / 6 - o11 - o13 - o14
    o6 = _mv(a, _choose2(d - 1)) - o9 - o10 - 2 * o12 - o13 - 3 * o14
    ends = (d - 1) * _mv(a, d - 1) - along.sum(-1)
    o5 = ends - 2 * o8 - 2 * o11 - o10 - 4 * o13 - 2 * o12 - 6 * o14
    walks = _mv(a, _mv(a, d - 1)) - d * (d - 1) - 2 * t
    o4 = walks - 2 * o8 - 2 * o9 - o10 - 4 * o12 - 2 * o13 - 6 * o14
    o1 = _mv(a, d - 1) - 2 * t
    o2 = _choose2(d) - t
    stacked = np.stack([d, o1, o2, t, o4, o5, o6, o7, o8, o9, o10, o11, o12, o13, o14], axis=-1)
    return np.rint(stacked).astype(np.int64)


def adjacency_stacks(graphs: GraphSet, *, equal: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Graphs of similar size as stacks: (B,) graph numbers and (B, N, N) float64 matrices, padded with zeros.

    Args:
        graphs: The graphs.
        equal: Whether a stack holds graphs of one size only, without padding.
    """
    order = np.argsort(graphs.sizes, kind="stable")
    stacks, start = [], 0
    while start < len(order):
        size, stop = int(graphs.sizes[order[start]]), start + 1
        while stop < len(order):
            n = int(graphs.sizes[order[stop]])
            if n > (size if equal else 1.15 * size + 1) or (stop - start + 1) * n * n > _ENTRIES:
                break
            stop += 1
        stacks.append(order[start:stop])
        start = stop
    return [(index, _dense(graphs, index)) for index in stacks]


def _dense(graphs: GraphSet, index: np.ndarray) -> np.ndarray:
    part = graphs.without_attributes().subset(index) if len(index) < len(graphs) else graphs
    size = int(part.sizes.max())
    adj = np.zeros((len(index), size, size))
    i, j = (part if part is not graphs else graphs.subset(index)).edges.T
    owner = np.repeat(np.arange(len(index)), graphs.num_edges[index])
    adj[owner, i, j] = adj[owner, j, i] = 1.0
    return adj


def _complete(a: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Complete graphs of 4 nodes at each node: triangles inside its neighbourhood."""
    counts = np.zeros(a.shape[:-1])
    for place in zip(*np.nonzero(t >= 3)):
        matrix = a[place[:-1]]
        near = np.flatnonzero(matrix[place[-1]])
        inside = matrix[np.ix_(near, near)]
        counts[place] = ((inside @ inside) * inside).sum() / 6
    return counts


def _choose2(n: np.ndarray) -> np.ndarray:
    return n * (n - 1) / 2


def _mv(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return (matrix @ vector[..., None])[..., 0]
