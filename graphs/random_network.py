"""Descriptors from an untrained graph network: distances that no histogram was chosen for.

A graph isomorphism network with fixed random orthogonal weights reads degrees; the sums of its hidden states over the
nodes are the features of a graph. Sets of features are compared by an RBF MMD, and by precision, recall, density and
coverage.

References: Thompson et al. 2022, "On evaluation metrics for graph generative models" (the features); Kynkaanniemi et
al. 2019, "Improved precision and recall metric"; Naeem et al. 2020, "Reliable fidelity and diversity metrics".
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, identity
from scipy.spatial.distance import cdist

from graphs.data.graph_set import GraphSet

__all__ = ["neighbour_figures", "random_features", "rbf_mmd2"]

_LAYERS, _HIDDEN = 3, 35
_BANDWIDTHS = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


def random_features(graphs: GraphSet, seed: int = 0) -> np.ndarray:
    """Features (G, 105): sums over the nodes after each of 3 layers h <- relu(relu((A + 1) h W) V).

    Args:
        graphs: The graphs; attributes are not read.
        seed: Seed of the weights; features of different seeds cannot be compared.
    """
    rng = np.random.default_rng(seed)
    first = graphs.offsets[:-1][graphs.edge_owner]
    i, j = graphs.edges[:, 0] + first, graphs.edges[:, 1] + first
    total = int(graphs.offsets[-1])
    ones = np.ones(2 * len(i))
    near = csr_matrix((ones, (np.concatenate([i, j]), np.concatenate([j, i]))), shape=(total, total))
    spread = near + identity(total, format="csr")
    h = graphs.degrees[:, None].astype(np.float64)
    pooled = []
    for _ in range(_LAYERS):
        for part in (spread @ h, None):
            h = np.maximum((h if part is None else part) @ _orthogonal(h.shape[1], _HIDDEN, rng), 0.0)
        pooled.append(np.add.reduceat(h, graphs.offsets[:-1], axis=0))
    return np.concatenate(pooled, axis=1)


def rbf_mmd2(a: np.ndarray, b: np.ndarray) -> float:
    """Largest V-statistic over ten bandwidths, in units of the root mean square distance between the sets.

    Args:
        a: Features (n, ...).
        b: Features (m, ...).
    """
    squares = [cdist(x, y, "sqeuclidean") for x, y in ((a, a), (b, b), (a, b))]
    unit = squares[2].mean()
    if unit == 0.0:
        return 0.0
    found = []
    for width in _BANDWIDTHS:
        aa, bb, ab = (np.exp(-square / (2 * width**2 * unit)).mean() for square in squares)
        found.append(aa + bb - 2 * ab)
    return float(max(found))


def neighbour_figures(generated: np.ndarray, reference: np.ndarray, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage by balls that reach to the k-th neighbour in the same set.

    Args:
        generated: Features (n, ...).
        reference: Features (m, ...).
        k: Neighbours; both sets need more than k graphs.

    Raises:
        ValueError: If a set is too small.
    """
    if min(len(generated), len(reference)) <= k:
        raise ValueError(f"expected more than {k} graphs in both sets, got {len(generated)} and {len(reference)}.")
    real, own = (np.sort(cdist(x, x), axis=1)[:, k] for x in (reference, generated))
    across = cdist(reference, generated)
    inside = across <= real[:, None]
    return {
        "precision": float(inside.any(axis=0).mean()),
        "recall": float((across <= own[None]).any(axis=1).mean()),
        "density": float(inside.sum(axis=0).mean() / k),
        "coverage": float(inside.any(axis=1).mean()),
    }


def _orthogonal(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Matrix (rows, columns) with orthonormal rows or columns, whichever are fewer; sign fixed, so uniform."""
    tall = rng.normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T
