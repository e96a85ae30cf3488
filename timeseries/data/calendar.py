"""Frequencies: one spelling for pandas' two worlds of aliases, season lengths, and lags.

`pandas.Period` takes ``M Q Y`` and rejects ``ME QE YE MS``; offsets take ``ME QE YE MS`` and warn on ``M Q Y``; both
warn on ``H T S A``. Here every spelling of every pandas since 2.0 becomes the one that periods take.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

__all__ = [
    "default_lags",
    "normalize_freq",
    "offset_freq",
    "period",
    "quiet",
    "season_length",
    "shift",
    "split_freq",
    "timestamps",
]

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_PLAIN = {
    **dict.fromkeys(("H", "h"), "h"),
    **dict.fromkeys(("T", "min"), "min"),
    **dict.fromkeys(("S", "s"), "s"),
    **dict.fromkeys(("L", "ms"), "ms"),
    **dict.fromkeys(("U", "us"), "us"),
    **dict.fromkeys(("N", "ns"), "ns"),
    **dict.fromkeys(("D", "d"), "D"),
    "B": "B",
    **dict.fromkeys(("M", "ME", "MS"), "M"),
}
_SEASONS = {"s": 3600, "min": 1440, "h": 24, "D": 1, "B": 5, "W": 1, "M": 12, "Q": 4, "Y": 1}
_REFERENCE_LAGS = {
    "h": tuple(24 * k for k in (1, 2, 3, 4, 5, 6, 7, 14, 21, 28)),
    "D": tuple(30 * k for k in range(1, 13)),
    "B": tuple(30 * k for k in range(1, 13)),
}
_GENERAL_LAGS = (1, 2, 3, 4, 5, 6, 7, 14, 21, 28)


def normalize_freq(freq: str) -> str:
    """The spelling of a frequency that `pandas.Period` takes: ``"h"``, ``"30min"``, ``"W-SUN"``, ``"M"``, ``"Q-DEC"``.

    Month, quarter and year starts (``MS``, ``QS-OCT``, ``YS``) become the periods that begin there. A business-month or
    business-hour frequency has no periods and is refused.

    Raises:
        ValueError: If the frequency is unknown.
    """
    match = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]+)(?:-([A-Za-z]{3}))?\s*", str(freq))
    base = None if match is None else _base(match[2], (match[3] or "").upper())
    if match is None or base is None or match[1] == "0":
        raise ValueError(
            f"unknown frequency {freq!r}; expected a pandas alias such as 'h', '30min', 'D', 'B', 'W-SUN', 'M', "
            "'Q-DEC' or 'Y'."
        )
    count = int(match[1] or 1)
    return base if count == 1 else f"{count}{base}"


def offset_freq(freq: str) -> str:
    """The spelling that pandas' offsets and ``date_range`` take: ``ME``, ``QE-DEC``, ``YE-DEC`` for the period ends."""
    count, base = split_freq(normalize_freq(freq))
    head, _, anchor = base.partition("-")
    if head in ("M", "Q", "Y"):
        base = f"{head}E" + (f"-{anchor}" if anchor else "")
    return base if count == 1 else f"{count}{base}"


def season_length(freq: str) -> int:
    """Steps a season as GluonTS counts: h 24, 30min 48, D 1, B 5, W 1, M 12, Q 4; 1 if it is not a whole number."""
    count, base = split_freq(normalize_freq(freq))
    season, rest = divmod(_SEASONS.get(base.partition("-")[0], 1), count)
    return 1 if rest or season == 0 else season


def default_lags(freq: str, lengths: Sequence[int] = ()) -> tuple[int, ...]:
    """Lags in steps: TSDiff's for h, D and B; for others 1-7, 14, 21, 28 seasons up to a third of the median length.

    References: Kollovieh et al. 2023 (TSDiff), lag lists.
    """
    name = normalize_freq(freq)
    if name in _REFERENCE_LAGS:
        return _REFERENCE_LAGS[name]
    season = season_length(name)
    limit = sorted(lengths)[len(lengths) // 2] / 3 if len(lengths) else float("inf")
    return tuple(season * k for k in _GENERAL_LAGS if season * k <= limit)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pandas' announcement that business-day periods will go; nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(BDay freq|PeriodDtype\\[B\\]).*", category=FutureWarning)
        yield


def period(value: Any, freq: str) -> pd.Period:
    """The period of ``freq`` that holds a time stamp, a period or a text."""
    with quiet():
        if isinstance(value, pd.Period):
            value = value.to_timestamp()
        found = pd.Period(value, freq=normalize_freq(freq))
    if not isinstance(found, pd.Period):
        raise ValueError(f"{value!r} is not a time.")
    return found


def shift(start: pd.Period, steps: int) -> pd.Period:
    """The period ``steps`` later."""
    with quiet():
        return start + int(steps)


def timestamps(start: pd.Period, length: int, offset: int = 0) -> pd.DatetimeIndex:
    """First moments of ``length`` periods from ``start`` + ``offset`` on."""
    with quiet():
        return pd.period_range(start + offset, periods=length, freq=start.freq).to_timestamp()


def split_freq(freq: str) -> tuple[int, str]:
    """Count and base of a normalised frequency."""
    match = re.fullmatch(r"(\d*)(.+)", freq)
    assert match is not None
    return int(match[1] or 1), match[2]


def _base(name: str, anchor: str) -> str | None:
    if name == "W":
        anchor = anchor or "SUN"
        return f"W-{anchor}" if anchor in _DAYS else None
    if not anchor and name in _PLAIN:
        return _PLAIN[name]
    head = {"Q": "Q", "QE": "Q", "QS": "Q", "A": "Y", "Y": "Y", "YE": "Y", "AS": "Y", "YS": "Y"}.get(name)
    if head is None or (anchor and anchor not in _MONTHS):
        return None
    if name.endswith("S"):  # anchored by the month that begins: the period ends with the month before
        return f"{head}-{_MONTHS[_MONTHS.index(anchor or 'JAN') - 1]}"
    return f"{head}-{anchor or 'DEC'}"
