"""Histograms by which sets of graphs are compared: degree, clustering, orbit, spectral, wavelet.

Every function returns one row a graph. The definitions are those of the published tables: You et al. 2018 (GraphRNN:
degree, clustering, orbits), Liao et al. 2019 (GRAN: spectrum), Martinkus et al. 2022 (SPECTRE: wavelets).
"""

from __future__ import annotations

import numpy as np

from graphs.data.graph_set import GraphSet
from graphs.orbits import NUM_ORBITS, adjacency_stacks, orbits

__all__ = [
    "WAVELET_MAX",
    "clustering_coefficients",
    "clustering_histograms",
    "degree_histograms",
    "eigenvalues",
    "orbit_means",
    "spectral_histograms",
    "wavelet_filters",
    "wavelet_histograms",
]

_CLUSTERING_BINS = 100
_SPECTRAL_BINS = 200
_SPECTRAL_RANGE = (-1e-5, 2.0)
_ROUNDING = 1e-9
_WAVELET_BINS = 100
_NUM_FILTERS = 12
_LMAX, _RATIO = 2.0, 20.0  # lmin = lmax / 20
WAVELET_MAX = 1.3849001794597505
"""Largest value of the band filters, b(2 - 1 / sqrt(3)): upper end of the wavelet histograms."""


def degree_histograms(graphs: GraphSet) -> np.ndarray:
    """Share of the nodes of each degree, (G, largest degree + 1)."""
    width = int(graphs.degrees.max(initial=0)) + 1
    return _normalized(_counts(graphs, graphs.degrees, width))


def clustering_coefficients(graphs: GraphSet) -> np.ndarray:
    """Local clustering coefficients (V,): triangles of a node over pairs of neighbours, 0 below degree 2."""
    triangles = np.zeros(int(graphs.offsets[-1]))
    for index, adj in adjacency_stacks(graphs):
        mask = np.arange(adj.shape[1]) < graphs.sizes[index][:, None]
        rows = graphs.offsets[index][:, None] + np.arange(adj.shape[1])
        triangles[rows[mask]] = ((adj @ adj) * adj).sum(-1)[mask]
    pairs = graphs.degrees * (graphs.degrees - 1)
    return np.divide(triangles, pairs, out=np.zeros_like(triangles), where=pairs > 0)


def clustering_histograms(graphs: GraphSet) -> np.ndarray:
    """Shares of the clustering coefficients in 100 bins on [0, 1], (G, 100)."""
    bins = _bins(clustering_coefficients(graphs), np.linspace(0.0, 1.0, _CLUSTERING_BINS + 1))
    return _normalized(_counts(graphs, bins, _CLUSTERING_BINS))


def orbit_means(graphs: GraphSet) -> np.ndarray:
    """Mean over the nodes of the 15 orbit counts, (G, 15); not normalised."""
    sums = np.add.reduceat(orbits(graphs).astype(np.float64), graphs.offsets[:-1], axis=0)
    return sums.reshape(-1, NUM_ORBITS) / graphs.sizes[:, None]


def eigenvalues(graphs: GraphSet) -> np.ndarray:
    """Eigenvalues (V,) of the normalised Laplacians, ascending inside each graph."""
    values = np.zeros(int(graphs.offsets[-1]))
    for index, adj in adjacency_stacks(graphs, equal=True):
        rows = graphs.offsets[index][:, None] + np.arange(adj.shape[1])
        values[rows] = np.linalg.eigvalsh(_laplacian(adj))
    return values


def spectral_histograms(graphs: GraphSet, *, closed: bool = True) -> np.ndarray:
    """Shares of the eigenvalues of the normalised Laplacian in 200 bins on (-1e-5, 2), (G, 200).

    A component without odd cycles has the eigenvalue 2, the end of the last bin. It is counted here. In the published
    code its rounding error decides, so that figures of such graphs (grid, ego_small) change in the second digit with
    the linear algebra, and even with the alignment of memory.

    Args:
        graphs: The graphs.
        closed: Whether the eigenvalue 2 is counted in spite of rounding errors; False leaves it to chance.
    """
    values = eigenvalues(graphs)
    if closed:
        values = np.where(np.abs(values - _SPECTRAL_RANGE[1]) < _ROUNDING, _SPECTRAL_RANGE[1], values)
    edges = np.linspace(*_SPECTRAL_RANGE, _SPECTRAL_BINS + 1)
    return _normalized(_counts(graphs, _bins(values, edges), _SPECTRAL_BINS))


def wavelet_histograms(graphs: GraphSet) -> np.ndarray:
    """Shares of the wavelet energies, (G, 1200).

    For each filter g and node i the energy sum_j (U g U^T)_ij^2, U the eigenvectors of the normalised Laplacian, is
    binned on [0, `WAVELET_MAX`]; the 12 histograms are normalised together.
    """
    energies = np.zeros((int(graphs.offsets[-1]), _NUM_FILTERS))
    for index, adj in adjacency_stacks(graphs, equal=True):
        found, vectors = np.linalg.eigh(_laplacian(adj))
        rows = graphs.offsets[index][:, None] + np.arange(adj.shape[1])
        energies[rows] = vectors**2 @ wavelet_filters(found).swapaxes(-1, -2) ** 2
    edges = np.linspace(0.0, WAVELET_MAX, _WAVELET_BINS + 1)
    parts = [_counts(graphs, _bins(column, edges), _WAVELET_BINS) for column in energies.T]
    return _normalized(np.concatenate(parts, axis=1))


def wavelet_filters(x: np.ndarray) -> np.ndarray:
    """Spline filter bank (..., 12, n) at eigenvalues (..., n): a low pass and 11 bands.

    Reference: Hammond, Vandergheynst, Gribonval 2011, "Wavelets on graphs via spectral graph theory", eq. 65-66.
    """
    low = WAVELET_MAX * np.exp(-((x / (0.6 * _LMAX / _RATIO)) ** 4))
    scales = np.exp(np.linspace(np.log(2 * _RATIO / _LMAX), np.log(1 / _LMAX), _NUM_FILTERS - 1))
    bands = [_band(scale * x) for scale in scales]
    return np.stack([low, *bands], axis=-2)


def _band(y: np.ndarray) -> np.ndarray:
    """y^2 up to 1, a cubic spline up to 2, then 4 / y^2."""
    spline = -5 + 11 * y - 6 * y**2 + y**3
    return np.where(y <= 1, y**2, np.where(y < 2, spline, 4 / np.maximum(y, 1.0) ** 2))


def _laplacian(adj: np.ndarray) -> np.ndarray:
    """Normalised Laplacians; rows of nodes without edges are zero."""
    degree = adj.sum(-1)
    root = np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    laplacian = -root[..., :, None] * adj * root[..., None, :]
    diagonal = np.arange(adj.shape[-1])
    laplacian[..., diagonal, diagonal] = root * (degree * root)
    return laplacian


def _bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bin of each value as in `numpy.histogram`: the last one is closed, values outside get -1."""
    bins = np.searchsorted(edges, values, side="right") - 1
    bins[values == edges[-1]] = len(edges) - 2
    return np.where(bins < len(edges) - 1, bins, -1)


def _counts(graphs: GraphSet, bins: np.ndarray, width: int) -> np.ndarray:
    """Histogram (G, width) over the nodes of each graph; bin -1 is left out."""
    owner = np.repeat(np.arange(len(graphs)), graphs.sizes)
    inside = bins >= 0
    flat = np.bincount(owner[inside] * width + bins[inside], minlength=len(graphs) * width)
    return flat.reshape(len(graphs), width).astype(np.float64)


def _normalized(counts: np.ndarray) -> np.ndarray:
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
