r"""Internal coordinates of molecules in motion, and the slow modes of their dynamics.

TICA solves C_k v = lambda C_0 v with the time-symmetric covariances C_0 = (X'X + Y'Y) / 2n, C_k = (X'Y + Y'X) / 2n of
frames X and, a lag later, Y, about their common mean: the eigenvectors are the slowest linear combinations, lambda
their autocorrelations. VAMP-2 is |C_00^{-1/2} C_0k C_kk^{-1/2}|_F^2, the sum of the squared canonical correlations.

References: Perez-Hernandez et al. 2013 (TICA); Wu and Noe 2020, "Variational Approach for Learning Markov Processes"
(VAMP-2); Jing et al. 2024, "Generative Modeling of Molecular Dynamics Trajectories" (MDGen), section 4.1 (divergences
of torsions, decorrelation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon

__all__ = [
    "TICA",
    "bond_divergence",
    "circle_features",
    "decorrelation",
    "distances",
    "histogram_divergence",
    "ramachandran_divergence",
    "tica",
    "torsion_divergence",
    "torsions",
    "vamp2",
]

_FULL_CIRCLE = (-np.pi, np.pi)


def distances(pos: np.ndarray, pairs: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Distances (..., P) of P pairs of nodes in frames (..., N, 3)."""
    i, j = np.asarray(pairs).reshape(-1, 2).T
    return np.linalg.norm(pos[..., i, :] - pos[..., j, :], axis=-1)


def torsions(pos: np.ndarray, quadruples: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Torsion angles (..., Q) in (-pi, pi] of frames (..., N, 3), with the sign of IUPAC.

    Looking along the middle bond, the angle is positive if the far bond is turned clockwise.
    """
    index = np.asarray(quadruples).reshape(-1, 4).T
    a, b, c, d = (pos[..., i, :].astype(np.float64) for i in index)
    first, axis, last = b - a, c - b, d - c
    normal, other = np.cross(first, axis), np.cross(axis, last)
    sine = np.linalg.norm(axis, axis=-1) * (first * other).sum(-1)
    return np.arctan2(sine, (normal * other).sum(-1))


def histogram_divergence(
    real: np.ndarray, generated: np.ndarray, *, num_bins: int | tuple[int, int] = 100, limits: object = None
) -> float:
    """Jensen-Shannon distance, the square root of the divergence in nats, of histograms of (n,) or (n, 2) values.

    Args:
        real: Values of the reference.
        generated: Values to compare.
        num_bins: Bins, or bins of each axis.
        limits: (low, high), or one pair an axis; the joint range of both sets if None.
    """
    x, y = (np.asarray(v, dtype=np.float64).reshape(len(v), -1) for v in (real, generated))
    both = np.concatenate([x, y])
    ends = np.stack([both.min(0), both.max(0)], 1) if limits is None else np.asarray(limits, float).reshape(-1, 2)
    counts = [np.histogramdd(v, num_bins, range=[tuple(pair) for pair in ends])[0].ravel() for v in (x, y)]
    if min(count.sum() for count in counts) == 0:
        raise ValueError("no value lies inside the limits of the histogram.")
    return float(jensenshannon(counts[0], counts[1]))


def torsion_divergence(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance (Q,) of each torsion: 100 bins of the circle; angles (n, Q) in radian."""
    return np.array([histogram_divergence(a, b, limits=_FULL_CIRCLE) for a, b in zip(real.T, generated.T, strict=True)])


def ramachandran_divergence(real: np.ndarray, generated: np.ndarray) -> float:
    """Jensen-Shannon distance of two torsions together, (n, 2) in radian: 50 x 50 bins."""
    return histogram_divergence(real, generated, num_bins=(50, 50), limits=(_FULL_CIRCLE, _FULL_CIRCLE))


def bond_divergence(real: np.ndarray, generated: np.ndarray, *, num_bins: int = 100) -> float:
    """Mean Jensen-Shannon distance of bond lengths (n, bonds), each over the joint range of both sets."""
    pairs = zip(real.T, generated.T, strict=True)
    return float(np.mean([histogram_divergence(a, b, num_bins=num_bins) for a, b in pairs]))


def decorrelation(angles: np.ndarray, lags: Sequence[int]) -> np.ndarray:
    """(C(k) - b) / (1 - b) of each angle (F, Q) at each lag, (lags, Q): 1 at lag 0, 0 where memory is lost.

    C(k) = E[cos(q_f - q_{f+k})] and b = E[cos q]^2 + E[sin q]^2. Means are over all trajectories of (B, F, Q) together.

    Raises:
        ValueError: If a lag is outside [0, F).
    """
    frames, count = angles.shape[-2:]
    _check_lags(frames, lags)
    cosine, sine = (function(angles).reshape(-1, frames, count) for function in (np.cos, np.sin))
    baseline = cosine.mean((0, 1)) ** 2 + sine.mean((0, 1)) ** 2
    rows = []
    for k in lags:
        n = frames - k
        product = (cosine[:, :n] * cosine[:, k:] + sine[:, :n] * sine[:, k:]).mean((0, 1))
        rows.append((product - baseline) / (1 - baseline))
    return np.stack(rows)


def circle_features(angles: np.ndarray) -> np.ndarray:
    """Sines and cosines (..., 2 Q) of angles (..., Q): what TICA and VAMP-2 look at."""
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


class TICA(NamedTuple):
    """Slow modes: mean (d,), directions (d, m) of unit variance, autocorrelations (m,) from the slowest on."""

    mean: np.ndarray
    directions: np.ndarray
    autocorrelations: np.ndarray

    def transform(self, features: np.ndarray, *, kinetic_map: bool = True) -> np.ndarray:
        """Components (..., m) of features (..., d); scaled by the autocorrelations with ``kinetic_map``."""
        scale = self.autocorrelations if kinetic_map else 1.0
        return (features - self.mean) @ self.directions * scale


def tica(features: np.ndarray, lag: int, *, num_modes: int | None = None, cutoff: float = 1e-10) -> TICA:
    """Time-lagged independent components of features (F, d), or of several trajectories (B, F, d).

    Args:
        features: One row a frame, for torsions their `circle_features`.
        lag: Frames between the two ends, at least 1.
        num_modes: Modes to keep; all if None.
        cutoff: Directions whose variance is below this share of the largest are left out.

    Raises:
        ValueError: If ``lag`` is outside [1, F).
    """
    x, y = _lagged(features, lag)
    mean = (x.mean(0) + y.mean(0)) / 2
    x, y = x - mean, y - mean
    whitening = _inverse_root((x.T @ x + y.T @ y) / (2 * len(x)), cutoff)
    values, vectors = np.linalg.eigh(whitening.T @ (x.T @ y + y.T @ x) @ whitening / (2 * len(x)))
    order = np.argsort(-values)[:num_modes]
    return TICA(mean, whitening @ vectors[:, order], values[order])


def vamp2(features: np.ndarray, lag: int, *, cutoff: float = 1e-10) -> float:
    """VAMP-2 score of features (F, d) or (B, F, d), in [0, d]; the constant function, which would add 1, is left out.

    Raises:
        ValueError: If ``lag`` is outside [1, F).
    """
    x, y = (part - part.mean(0) for part in _lagged(features, lag))
    left, right = (_inverse_root(part.T @ part / len(part), cutoff) for part in (x, y))
    return float(np.square(left.T @ (x.T @ y / len(x)) @ right).sum())


def _lagged(features: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames, and those a lag later, of all trajectories, (n, d) each."""
    values = np.asarray(features, dtype=np.float64)
    if lag < 1:
        raise ValueError(f"lag must be at least 1, got {lag}.")
    _check_lags(values.shape[-2], [lag])
    earlier, later = values[..., :-lag, :], values[..., lag:, :]
    return earlier.reshape(-1, values.shape[-1]), later.reshape(-1, values.shape[-1])


def _inverse_root(covariance: np.ndarray, cutoff: float) -> np.ndarray:
    """W (d, r) with W' C W = 1 on the directions that carry variance."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > cutoff * values[-1]
    return vectors[:, kept] / np.sqrt(values[kept])


def _check_lags(frames: int, lags: Sequence[int]) -> None:
    if min(lags) < 0 or max(lags) >= frames:
        raise ValueError(f"lags must be in [0, {frames}), got {list(lags)}.")
