"""Fill the gaps of hourly series with the packaged model, and count the error beside two simple rules.

Run as ``python examples/impute_gaps.py``; results go to ``out/example_imputation``.
"""

from pathlib import Path

import numpy as np

from timeseries import DiffusionForecaster
from timeseries.data.demand import demand
from timeseries.plots import plot_imputation

folder = Path("out") / "example_imputation"
folder.mkdir(parents=True, exist_ok=True)
model = DiffusionForecaster.from_pretrained("demand")  # or DiffusionForecaster("h", 24, 96, lags=[168]).fit(data)
truth = demand(3, with_gaps=False)  # three sites, four weeks
series = demand(3)  # the same with a day, half a day and single hours missing

filled = model.impute(series, num_samples=16, steps=12, seed=0)
filled.frame().to_csv(folder / "filled.csv", index=False)
plot_imputation(filled, folder / "filled.png")


def error(guess: list[np.ndarray]) -> float:
    """Mean absolute error at the missing hours, relative to their mean."""
    missing = [np.isnan(s.values) for s in series]
    gaps = [np.abs(g - t.values)[m] for g, t, m in zip(guess, truth, missing)]
    return float(np.concatenate(gaps).mean() / np.concatenate([t.values[m] for t, m in zip(truth, missing)]).mean())


def straight(values: np.ndarray) -> np.ndarray:
    """Gaps filled by straight lines."""
    known = np.flatnonzero(np.isfinite(values))
    return np.interp(np.arange(len(values)), known, values[known])


def day_before(values: np.ndarray) -> np.ndarray:
    """Gaps filled by the same hour of the last day that is known."""
    result = values.copy()
    for k in np.flatnonzero(np.isnan(values)):
        result[k] = result[k - 24] if k >= 24 else np.nanmean(values)
    return result


share = [
    ((low <= t.values) & (t.values <= high))[np.isnan(s.values)]
    for s, t, (low, high) in zip(series, truth, (np.quantile(x, [0.05, 0.95], axis=0) for x in filled.samples))
]
print(f"median of the model  {error([np.median(x, 0) for x in filled.samples]):.3f}")
print(f"straight lines       {error([straight(s.values) for s in series]):.3f}")
print(f"the day before       {error([day_before(s.values) for s in series]):.3f}")
print(f"90 % intervals hold  {np.concatenate(share).mean():.0%} of the missing values")
