"""Made-up demand: laws of its parts, gaps, independence of the number of sites."""

import numpy as np

from timeseries.data.demand import _autoregressive, demand


def test_autoregression_has_its_spread_and_memory():
    """AR(1) of 10^5 steps: std within 4 %, correlation exp(-k/time) within .04 (some 2000 independent stretches)."""
    x = _autoregressive(100_000, 48.0, 0.08, np.random.default_rng(0))
    assert abs(x.std() / 0.08 - 1) < 0.04
    for lag in (1, 24, 96):
        measured = np.corrcoef(x[lag:], x[:-lag])[0, 1]
        assert abs(measured - np.exp(-lag / 48)) < 0.04 + 0.05 * (lag > 24)


def test_days_and_weeks_can_be_seen():
    for s in demand(6, 364, with_gaps=False):
        power = np.abs(np.fft.rfft(s.values - s.values.mean())) ** 2
        day, week = 364, 52
        assert power[day] > 20 * np.median(power[day - 20 : day + 20])
        assert power[week] > 5 * np.median(power[week - 20 : week + 20])
        assert s.values.min() > 0


def test_sites_and_gaps():
    three, five = demand(3), demand(5)
    for a, b in zip(three, five):
        np.testing.assert_array_equal(a.values, b.values)
    whole = demand(3, with_gaps=False)
    for s, full in zip(three, whole):
        missing = np.isnan(s.values)
        np.testing.assert_array_equal(s.values[~missing], full.values[~missing])
        lengths = np.diff(np.flatnonzero(np.diff(np.r_[0, missing, 0])))[::2]
        assert lengths.max() >= 30
        assert not missing[-48:].any()
    assert not np.array_equal(demand(1, seed=1)[0].values, five[0].values, equal_nan=True)
