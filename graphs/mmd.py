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
from scipy.spatial.distance import cdist, pdist, squareform

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
    Euclidean. If both are the same array, each pair is computed once.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}.")
    is_same = a is b
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in (a, b))
    metric, scale = "euclidean", 1.0
    if kernel == "emd" and descriptor.ordered:
        a, b = a.cumsum(axis=1), b.cumsum(axis=1)
        metric, scale = "cityblock", descriptor.bin_width
    elif kernel == "tv":
        metric, scale = "cityblock", 0.5
    used = a.any(axis=0) | b.any(axis=0)
    a, b = a[:, used], b[:, used]
    return (squareform(pdist(a, metric)) if is_same and len(a) > 1 else cdist(a, b, metric)) * scale


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
    """Kernel matrices of several sets under one descriptor, each made when it is first needed.

    Args:
        sets: Histograms (n, ...) by name.
        descriptor: Their descriptor.
        kernel: ``"emd"``, ``"tv"`` or ``"rbf"``.
    """

    def __init__(self, sets: dict[str, np.ndarray], descriptor: Descriptor, kernel: Kernel) -> None:
        self.sets, self.descriptor = sets, descriptor
        self.kernel: Kernel = kernel
        self._matrices: dict[tuple[str, str], np.ndarray] = {}

    def matrix(self, a: str, b: str) -> np.ndarray:
        """Kernel of every graph of a with every graph of b."""
        if (a, b) not in self._matrices:
            found = distances(self.sets[a], self.sets[b], self.descriptor, self.kernel)
            self._matrices[a, b] = np.exp(-(found**2) / (2 * self.descriptor.sigma**2))
        return self._matrices[a, b]

    def mmd2(self, a: str, b: str, *, unbiased: bool = False) -> float:
        """MMD^2 between two sets."""
        blocks = [self.matrix(*pair) for pair in ((a, a), (b, b), (a, b))]
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
        counts = [len(self.sets[name]) for name in (a, b)]
        shares = [rng.multinomial(n, np.full(n, 1 / n), resamples) / n for n in counts]
        values = np.zeros(resamples)
        for name, n, w in zip((a, b), counts, shares):
            inside = self.matrix(name, name)
            values += np.einsum("ri,ri->r", w @ inside, w) - (1 - inside.mean()) / n
        values -= 2 * np.einsum("ri,ri->r", shares[0] @ self.matrix(a, b), shares[1])
        tail = (1 - level) / 2
        return [max(0.0, float(v)) for v in np.quantile(values, [tail, 1 - tail])]

    def draws(self, a: str, b: str, size: int, *, count: int = 100, seed: int = 0) -> np.ndarray:
        """MMD^2 (count,) of ``size`` random graphs of a (without replacement while there are enough) against b."""
        rng = np.random.default_rng(seed)
        own, cross = self.matrix(a, a), self.matrix(a, b).mean(axis=1)
        rest = self.matrix(b, b).mean()
        found = []
        for _ in range(count):
            chosen = rng.choice(len(own), size, replace=size > len(own))
            found.append(own[np.ix_(chosen, chosen)].mean() + rest - 2 * cross[chosen].mean())
        return np.array(found)
