r"""Fractional noise and motion of a known Hurst index: exact covariances, an exact generator, a Markov approximation.

Fractional Gaussian noise (steps of fractional Brownian motion B^H) has the autocovariance

    gamma(k) = (|k + 1|^{2H} - 2 |k|^{2H} + |k - 1|^{2H})/2,

white for H = 1/2, with long memory above and alternating below. `fractional_noise` draws it exactly by circulant
embedding. The Markov approximation (MA-fBM) writes the Riemann-Liouville process as a sum of Ornstein-Uhlenbeck
processes with one common Brownian motion, dY_k = -g_k Y_k dt + dW, and weights that minimise the mean squared error.

References: Davies and Harte 1987 (circulant embedding); Daems et al. 2024, "Variational Inference for SDEs Driven by
Fractional Noise" (optimal weights).
"""

from __future__ import annotations

import numpy as np
from scipy.special import gamma, gammainc

__all__ = [
    "fractional_noise",
    "markov_covariance",
    "markov_rates",
    "markov_weights",
    "motion_covariance",
    "motion_variance",
    "noise_autocovariance",
]


def noise_autocovariance(hurst: float, length: int) -> np.ndarray:
    """gamma(0) = 1, ..., gamma(length - 1) of fractional Gaussian noise.

    Raises:
        ValueError: If the Hurst index lies outside (0, 1).
    """
    _check(hurst)
    k = np.arange(length, dtype=np.float64)
    return 0.5 * ((k + 1) ** (2 * hurst) - 2 * k ** (2 * hurst) + np.abs(k - 1) ** (2 * hurst))


def motion_covariance(hurst: float, times: np.ndarray) -> np.ndarray:
    """(s^{2H} + t^{2H} - |t - s|^{2H})/2: covariance (n, n) of fractional Brownian motion at ``times`` (n,)."""
    _check(hurst)
    t = np.asarray(times, dtype=np.float64)
    power = t ** (2 * hurst)
    return 0.5 * (power[:, None] + power - np.abs(t[:, None] - t) ** (2 * hurst))


def fractional_noise(num_series: int, length: int, hurst: float, *, seed: int = 0) -> np.ndarray:
    """Fractional Gaussian noise (num_series, length) of variance 1, exact; cumulative sums are fractional motion.

    Args:
        num_series: How many independent series.
        length: Steps of each.
        hurst: Hurst index in (0, 1).
        seed: Seed.

    Raises:
        ValueError: If the Hurst index lies outside (0, 1).
    """
    covariance = noise_autocovariance(hurst, length + 1)
    circle = np.concatenate([covariance, covariance[-2:0:-1]])  # of length 2 n: its eigenvalues are not negative
    power = np.fft.fft(circle).real.clip(0)
    z = np.random.default_rng(seed).standard_normal((2, num_series, len(circle)))
    waves = np.fft.fft(np.sqrt(power / len(circle)) * (z[0] + 1j * z[1]), axis=1)
    return waves.real[:, :length]


def markov_rates(num_modes: int = 6, ratio: float = 3.0) -> np.ndarray:
    """Rates g_k = ratio^(k - (num_modes + 1)/2), k = 1 ... num_modes, times ratio: 3 * 3^(k - 3.5) for six modes."""
    return ratio * ratio ** (np.arange(1, num_modes + 1) - (num_modes + 1) / 2)


def markov_weights(hurst: float, rates: np.ndarray, horizon: float = 1.0) -> np.ndarray:
    """Weights w = M^{-1} b for which sum_k w_k Y_k is nearest to the Riemann-Liouville motion on [0, ``horizon``]."""
    _check(hurst)
    g, a, end = np.asarray(rates, dtype=np.float64), hurst + 0.5, horizon
    pair = g[:, None] + g
    m = (end + np.expm1(-pair * end) / pair) / pair
    b = g**-a * (end * gammainc(a, g * end) - a / g * gammainc(a + 1, g * end))
    return np.linalg.solve(m, b)


def markov_covariance(hurst: float, times: np.ndarray, rates: np.ndarray | None = None) -> np.ndarray:
    """Covariance (n, n) of the Markov approximation at ``times`` (n,) in [0, 1].

    Its variance approaches t^{2H}/(2H Gamma(H + 1/2)^2), that of Riemann-Liouville motion.
    """
    g = markov_rates() if rates is None else np.asarray(rates, dtype=np.float64)
    w = markov_weights(hurst, g)
    t = np.asarray(times, dtype=np.float64)
    low, high = np.minimum(t[:, None], t), np.maximum(t[:, None], t)
    total = np.zeros_like(low)
    for j, rate in enumerate(g):  # Y_j at the earlier, Y_k at the later time
        decay = np.exp(-g[:, None, None] * (high - low))
        early = -np.expm1(-(rate + g)[:, None, None] * low) / (rate + g)[:, None, None]
        total += w[j] * np.tensordot(w, decay * early, 1)
    return total


def motion_variance(hurst: float, times: np.ndarray) -> np.ndarray:
    """t^{2H}/(2H Gamma(H + 1/2)^2), the variance of Riemann-Liouville motion."""
    return np.asarray(times, dtype=np.float64) ** (2 * hurst) / (2 * hurst * gamma(hurst + 0.5) ** 2)


def _check(hurst: float) -> None:
    if not 0 < hurst < 1:
        raise ValueError(f"the Hurst index must lie in (0, 1), got {hurst}.")
