r"""Maximum mean discrepancy between sets of graphs, with the kernels of the published tables.

MMD^2 = mean k(a, a') + mean k(b, b') - 2 mean k(a, b), diagonals included (V-statistic, no root), with
k = exp(-D^2 / 2 s^2). For histograms on a line the earth mover's distance is the L1 distance of the cumulative sums, so
that a whole matrix of distances is one call. Intervals resample the graphs and read the same matrices.

References: Gretton et al. 2012, "A kernel two-sample test"; O'Bray et al. 2022, "Evaluation metrics for graph
generative models" (that sigma decides rankings, and why a floor belongs beside every figure).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

from graphs import descriptors
from graphs.data.graph_set import GraphSet

__all__ = ["DESCRIPTORS", "KERNELS", "Comparison", "Descriptor", "distances", "mmd2", "mmd2_unbiased"]

Kernel = Literal["emd", "tv", "rbf"]
KERNELS: tuple[str, ...] = ("emd", "tv", "rbf")


@dataclass(frozen=True)
class Descriptor:
    """How a graph becomes a histogram, and the scales of its kernels.

    Attributes:
        histogram: From a set of graphs to one row each.
        sigma: Bandwidth s.
        bin_width: Distance of neighbouring bins under the earth mover's distance.
        ordered: Whether the bins lie on a line; else "emd" means the Euclidean distance, as published for orbits.
    """

    histogram: Callable[[GraphSet], np.ndarray]
    sigma: float = 1.0
    bin_width: float = 1.0
    ordered: bool = True


DESCRIPTORS: dict[str, Descriptor] = {
    "degree": Descriptor(descriptors.degree_histograms),
    "clustering": Descriptor(descriptors.clustering_histograms, sigma=0.1, bin_width=0.01),
    "orbit": Descriptor(descriptors.orbit_means, sigma=30.0, ordered=False),
    "spectral": Descriptor(descriptors.spectral_histograms),
    "wavelet": Descriptor(descriptors.wavelet_histograms),
}
"""Descriptors by name."""


def distances(a: np.ndarray, b: np.ndarray, descriptor: Descriptor, kernel: Kernel) -> np.ndarray:
    """Distances (n, m) between the histograms a (n, ...) and b (m, ...), padded on the right to one width.

    ``"emd"``: earth mover's (Euclidean for orbits); ``"tv"``: total variation, half the L1 distance; ``"rbf"``:
    Euclidean.

    Raises:
        ValueError: If the kernel is unknown.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}.")
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in (a, b))
    if kernel == "tv":
        return cdist(a, b, "cityblock") / 2
    if kernel == "emd" and descriptor.ordered:
        return cdist(a.cumsum(axis=1), b.cumsum(axis=1), "cityblock") * descriptor.bin_width
    return cdist(a, b)


def mmd2(aa: np.ndarray, bb: np.ndarray, ab: np.ndarray) -> float:
    """V-statistic from kernel matrices, diagonals included; 0 for a set against itself."""
    return float(aa.mean() + bb.mean() - 2 * ab.mean())


def mmd2_unbiased(aa: np.ndarray, bb: np.ndarray, ab: np.ndarray) -> float:
    """U-statistic: expectation 0 for equal laws, may be negative; NaN for fewer than two graphs."""
    if min(len(aa), len(bb)) < 2:
        return float("nan")
    inside = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (aa, bb)]
    return float(sum(inside) - 2 * ab.mean())


class Comparison:
    """Kernel matrices of several sets under one descriptor; MMDs between any two of them, or parts of them.

    Args:
        sets: Histograms (n, ...) by name.
        descriptor: Their descriptor.
        kernel: ``"emd"``, ``"tv"`` or ``"rbf"``.
    """

    def __init__(self, sets: dict[str, np.ndarray], descriptor: Descriptor, kernel: Kernel) -> None:
        ends = np.cumsum([0, *(len(rows) for rows in sets.values())])
        self.rows = {name: np.arange(a, b) for name, a, b in zip(sets, ends[:-1], ends[1:])}
        width = max(rows.shape[1] for rows in sets.values())
        stacked = np.concatenate([np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in sets.values()])
        self.matrix = np.exp(-(distances(stacked, stacked, descriptor, kernel) ** 2) / (2 * descriptor.sigma**2))

    def mmd2(self, a: str, b: str, *, unbiased: bool = False) -> float:
        """MMD^2 between two sets."""
        first, second = self.rows[a], self.rows[b]
        blocks = [self.matrix[np.ix_(x, y)] for x, y in ((first, first), (second, second), (first, second))]
        return (mmd2_unbiased if unbiased else mmd2)(*blocks)

    def interval(self, a: str, b: str, *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Sequence[float]:
        """Bootstrap interval of MMD^2 over graphs, both sets resampled.

        The V-statistic of a resample has the bias of drawing the same graph twice, mean(1 - k)/n a set, a second time;
        that bias is taken off, so that the interval is one of the printed figure.

        Args:
            a: First set.
            b: Second set.
            resamples: Number of resamples.
            seed: Seed.
            level: Coverage.
        """
        rng = np.random.default_rng(seed)
        first, second = self.rows[a], self.rows[b]
        shares = [rng.multinomial(len(x), np.full(len(x), 1 / len(x)), resamples) / len(x) for x in (first, second)]
        values = np.zeros(resamples)
        for x, w in zip((first, second), shares):
            inside = self.matrix[np.ix_(x, x)]
            values += np.einsum("ri,ri->r", w @ inside, w) - (1 - inside.mean()) / len(x)
        values -= 2 * np.einsum("ri,ri->r", shares[0] @ self.matrix[np.ix_(first, second)], shares[1])
        tail = (1 - level) / 2
        return [max(0.0, float(v)) for v in np.quantile(values, [tail, 1 - tail])]

    def draws(self, a: str, b: str, size: int, *, count: int = 100, seed: int = 0) -> np.ndarray:
        """MMD^2 (count,) of ``size`` random graphs of a (without replacement while there are enough) against b."""
        rng = np.random.default_rng(seed)
        first, second = self.rows[a], self.rows[b]
        cross = self.matrix[np.ix_(first, second)].mean(axis=1)
        own = self.matrix[np.ix_(first, first)]
        rest = self.matrix[np.ix_(second, second)].mean()
        found = []
        for _ in range(count):
            chosen = rng.choice(len(first), size, replace=size > len(first))
            found.append(own[np.ix_(chosen, chosen)].mean() + rest - 2 * cross[chosen].mean())
        return np.array(found)
