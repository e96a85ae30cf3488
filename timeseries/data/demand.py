r"""Hourly demand of made-up sites, for examples: daily and weekly cycles, weather, noise, gaps. Any number, no licence.

    x_t = base exp(a_t) (floor + w(day) morning(hour) + evening(hour)) (1 + b_t),

two bumps a day, a morning that is weaker at weekends, a_t a slow and b_t a fast AR(1) process (48 and 3 hours).
"""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from timeseries.data import calendar
from timeseries.data.series import TimeSeries

__all__ = ["demand"]

_DAY, _WEEK = 24, 168
_START = "2024-01-01 00:00"  # a Monday
_SLOW, _FAST = (48.0, 0.08), (3.0, 0.025)  # correlation time in hours, standard deviation


def demand(num_sites: int = 4, num_days: int = 28, *, seed: int = 0, with_gaps: bool = True) -> list[TimeSeries]:
    """Demand in kW, rounded to .1.

    Args:
        num_sites: Series.
        num_days: Length of each, in days of 24 values.
        seed: Seed of the sites; a site does not depend on how many there are.
        with_gaps: Remove a block of 30 hours, one of 10 hours and 1 % of single values; the last two days stay.
    """
    start = calendar.period(_START, "h")
    series = []
    for site in range(num_sites):
        rng = np.random.default_rng((seed, site))
        values = _site(num_days * _DAY, rng).round(1)
        if with_gaps:
            values[_missing(len(values), rng)] = np.nan
        series.append(TimeSeries(values, start, f"site_{site + 1}"))
    return series


def _site(length: int, rng: np.random.Generator) -> np.ndarray:
    hour, day = np.arange(length) % _DAY, np.arange(length) // _DAY % 7
    morning = rng.uniform(0.3, 0.9) * _bump(hour, rng.uniform(7, 10), rng.uniform(1.5, 2.5))
    evening = rng.uniform(0.5, 1.2) * _bump(hour, rng.uniform(17.5, 20.5), rng.uniform(1.8, 3.0))
    weekend = np.where(day >= 5, rng.uniform(0.1, 0.5), 1.0)
    level, fast = (_autoregressive(length, time, std, rng) for time, std in (_SLOW, _FAST))
    base = np.exp(rng.uniform(np.log(50), np.log(500)))
    return base * np.exp(level) * (rng.uniform(0.5, 1.0) + weekend * morning + evening) * (1 + fast)


def _bump(hour: np.ndarray, center: float, width: float) -> np.ndarray:
    distance = (hour - center + _DAY / 2) % _DAY - _DAY / 2
    return np.exp(-0.5 * (distance / width) ** 2)


def _autoregressive(length: int, time: float, std: float, rng: np.random.Generator) -> np.ndarray:
    """Stationary AR(1) with correlation exp(-1/time) from step to step."""
    decay = np.exp(-1 / time)
    noise = rng.standard_normal(length) * std * np.sqrt(1 - decay**2)
    noise[0] = rng.standard_normal() * std
    return np.asarray(lfilter([1.0], [1.0, -decay], noise))


def _missing(length: int, rng: np.random.Generator) -> np.ndarray:
    missing = rng.random(length) < 0.01
    for steps in (30, 10):
        begin = int(rng.integers(length // 2, max(length // 2 + 1, length - 3 * _DAY - steps)))
        missing[begin : begin + steps] = True
    missing[-2 * _DAY :] = False
    return missing
