"""Frequencies of every pandas since 2.0, with warnings as errors; season lengths against GluonTS."""

import warnings

import pandas as pd
import pytest

from timeseries.data.calendar import default_lags, normalize_freq, offset_freq, period, quiet, season_length, timestamps

SPELLINGS = {
    "h": ("h", "H", "1h"),
    "min": ("min", "T"),
    "15min": ("15min", "15T"),
    "s": ("s", "S"),
    "ms": ("ms", "L"),
    "D": ("D",),
    "2D": ("2D",),
    "B": ("B",),
    "W-SUN": ("W", "W-SUN"),
    "W-MON": ("W-MON",),
    "M": ("M", "ME", "MS"),
    "Q-DEC": ("Q", "QE", "Q-DEC", "QE-DEC", "QS", "QS-JAN"),
    "Q-SEP": ("Q-SEP", "QE-SEP", "QS-OCT"),
    "Y-DEC": ("A", "Y", "YE", "A-DEC", "Y-DEC", "YE-DEC", "YS", "AS", "YS-JAN"),
    "Y-MAR": ("A-MAR", "YE-MAR", "YS-APR"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_all_spellings_become_one_that_periods_and_offsets_take(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for spelling in SPELLINGS[name]:
            assert normalize_freq(spelling) == name
        p = period("2021-02-17 05:00", name)
        assert normalize_freq(p.freqstr) == name
        assert period(p, name) == p
        moments = timestamps(p, 3)
        assert list(moments) == sorted(moments)
        with quiet():
            assert moments[0] == p.start_time
        pd.date_range("2020-01-01", periods=3, freq=offset_freq(name))
        assert normalize_freq(offset_freq(name)) == name


@pytest.mark.parametrize("freq", ["BM", "bh", "", "5", "0h", "W-XYZ", "Q-FOO", "hourly"])
def test_unknown_frequencies_are_refused(freq):
    with pytest.raises(ValueError, match="unknown frequency"):
        normalize_freq(freq)


@pytest.mark.parametrize("freq", ["h", "2h", "30min", "min", "D", "B", "W-SUN", "M", "Q-DEC", "5h", "15min"])
def test_seasons_are_those_of_gluonts(freq):
    theirs = pytest.importorskip("gluonts.time_feature").get_seasonality(offset_freq(freq))
    assert season_length(freq) == theirs


def test_lags():
    assert default_lags("H") == tuple(24 * k for k in (1, 2, 3, 4, 5, 6, 7, 14, 21, 28))
    assert default_lags("B") == default_lags("D") == tuple(range(30, 361, 30))
    assert default_lags("30min", [3000]) == tuple(48 * k for k in (1, 2, 3, 4, 5, 6, 7, 14))
    assert default_lags("M", [30, 144, 10]) == ()
