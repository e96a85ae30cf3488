"""How real are synthetic windows? Scores of downstream use (LPS, TSTR) and of telling them apart.

References: Kollovieh et al. 2023, section 5.3 (linear predictive score); Esteban et al. 2017 (train on synthetic, test
on real); Yoon et al. 2019 (discriminative score).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional as F

from timeseries.baselines import Ridge
from timeseries.metrics import normalized_deviation

__all__ = [
    "TSTR",
    "autocorrelation",
    "autocorrelation_distance",
    "discriminative_score",
    "linear_predictive_score",
    "spectrum",
    "spectrum_distance",
    "train_synthetic_test_real",
    "wasserstein",
]


class TSTR(NamedTuple):
    """Normalised deviation on real test windows after training on synthetic and on real windows, and their ratio."""

    synthetic: float
    real: float

    @property
    def ratio(self) -> float:
        """Synthetic over real: 1 means that synthetic windows serve as well."""
        return self.synthetic / self.real


def linear_predictive_score(
    windows: np.ndarray,
    past: Sequence[np.ndarray],
    target: np.ndarray,
    *,
    scaling: Literal["mean", "std"] = "mean",
    is_scaled: bool = True,
    alpha: float = 1.0,
) -> float:
    """LPS: CRPS (= ND) of a ridge regression that was fitted to ``windows``, on real test windows. Lower is better.

    Args:
        windows: Training windows (N, C + P); C is what the target leaves.
        past: Values before each test window, without NaN in the last C.
        target: Test windows (W, P).
        scaling: How windows are scaled: that of the model which drew them.
        is_scaled: Whether ``windows`` are in scaled units, as synthetic ones are; False for real ones.
        alpha: Ridge penalty.
    """
    steps = target.shape[1]
    context = windows.shape[1] - steps
    ridge = Ridge(context, steps, alpha, scaling).fit(windows, is_scaled=is_scaled)
    recent = np.stack([np.asarray(series, dtype=np.float64)[-context:] for series in past])
    return normalized_deviation(ridge.predict(recent), target)


def train_synthetic_test_real(
    synthetic: np.ndarray,
    real: np.ndarray,
    past: Sequence[np.ndarray],
    target: np.ndarray,
    *,
    scaling: Literal["mean", "std"] = "mean",
    alpha: float = 1.0,
) -> TSTR:
    """Train the same linear forecaster on synthetic (scaled) and on real (unscaled) windows, test both on real ones."""
    options = {"scaling": scaling, "alpha": alpha}
    return TSTR(
        linear_predictive_score(synthetic, past, target, **options),
        linear_predictive_score(real, past, target, is_scaled=False, **options),
    )


def discriminative_score(
    real: np.ndarray, synthetic: np.ndarray, *, width: int = 64, epochs: int = 60, seed: int = 0
) -> float:
    """|accuracy - 1/2| of a classifier on windows it has not seen; 0 if they cannot be told apart, 1/2 if always.

    A two-layer network on the standardised window and its differences, trained on half of the windows (balanced).

    Args:
        real: Real windows (N, L) in the units of the synthetic ones.
        synthetic: Synthetic windows (M, L).
        width: Hidden units.
        epochs: Passes over the training half.
        seed: Seed of halves, weights and batches.

    Raises:
        ValueError: If lengths differ or there are fewer than 8 windows of a kind.
    """
    count = min(len(real), len(synthetic))
    if real.shape[1:] != synthetic.shape[1:] or count < 8:
        raise ValueError(f"expected two sets of at least 8 windows of one length, got {real.shape}, {synthetic.shape}.")
    generator = torch.Generator().manual_seed(seed)
    both = [torch.as_tensor(v, dtype=torch.float32).flatten(1) for v in (real, synthetic)]
    x = torch.cat([v[torch.randperm(len(v), generator=generator)[:count]] for v in both])
    x = torch.cat([x, x.diff(dim=1)], 1)
    label = torch.arange(2 * count) // count
    order = torch.randperm(2 * count, generator=generator)
    train, test = order[:count], order[count:]
    x = (x - x[train].mean(0)) / x[train].std(0).clamp_min(1e-6)
    weights = [_initial(width, x.shape[1], generator), _initial(2, width, generator)]
    biases = [torch.zeros(len(w), requires_grad=True) for w in weights]
    optimizer = torch.optim.AdamW([*weights, *biases], lr=3e-3, weight_decay=1e-2)

    def logits(rows: torch.Tensor) -> torch.Tensor:
        return F.linear(F.relu(F.linear(rows, weights[0], biases[0])), weights[1], biases[1])

    for _ in range(epochs):
        for rows in train[torch.randperm(count, generator=generator)].split(128):
            optimizer.zero_grad()
            F.cross_entropy(logits(x[rows]), label[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        right = logits(x[test]).argmax(1) == label[test]
    return abs(float(right.double().mean()) - 0.5)


def wasserstein(real: np.ndarray, synthetic: np.ndarray, max_windows: int = 500, seed: int = 0) -> float:
    """W2 between two samples of windows (N, L), a number: sqrt(min_pi mean_i |x_i - y_pi(i)|^2 / L), exact.

    Also between two samples of one law it is above 0, by what a sample of that size differs from its law; compare with
    the distance between two halves of the real windows.

    Args:
        real: Windows (N, L).
        synthetic: Windows (M, L).
        max_windows: Windows of each that are compared, equally many.
        seed: Seed of which.
    """
    rng = np.random.default_rng(seed)
    count = min(len(real), len(synthetic), max_windows)
    x, y = (torch.as_tensor(v[rng.permutation(len(v))[:count]]).double().flatten(1) for v in (real, synthetic))
    cost = torch.cdist(x, y).square().numpy() / x.shape[1]
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def autocorrelation_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Root mean square difference of the mean autocorrelations at lags 1 to L/2."""
    lags = slice(1, real.shape[1] // 2 + 1)
    return float(np.sqrt(np.mean((autocorrelation(real)[lags] - autocorrelation(synthetic)[lags]) ** 2)))


def spectrum_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Root mean square difference of the log mean powers (nats) at frequencies above 0."""
    power = [np.log(spectrum(v)[1:].clip(1e-300)) for v in (real, synthetic)]
    return float(np.sqrt(np.mean((power[0] - power[1]) ** 2)))


def autocorrelation(windows: np.ndarray) -> np.ndarray:
    """Mean autocorrelation (L,) of windows (N, L): sums of lagged products about each window's mean, over lag 0."""
    centred = windows - windows.mean(1, keepdims=True)
    length = windows.shape[1]
    spectra = np.abs(np.fft.rfft(centred, 2 * length, axis=1)) ** 2
    products = np.fft.irfft(spectra, axis=1)[:, :length]
    return products.sum(0) / products[:, 0].sum().clip(1e-300)


def spectrum(windows: np.ndarray) -> np.ndarray:
    """Mean power |sum_l x_l e^{-2 pi i k l / L}|^2 / L (L // 2 + 1,) of centred windows (N, L)."""
    centred = windows - windows.mean(1, keepdims=True)
    return (np.abs(np.fft.rfft(centred, axis=1)) ** 2).mean(0) / windows.shape[1]


def _initial(rows: int, columns: int, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns, generator=generator) * columns**-0.5)
