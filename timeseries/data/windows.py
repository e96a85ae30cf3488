"""Windows of series, gathered on the device where the values live: value channel, lag channels and their masks.

Element (l, d, k) of a window that is cut at c is x[c - C + l - lag_k] of variate d (lag_0 = 0), observed if that index
lies inside the series, is not NaN, and is not hidden. One gather makes values and masks, so a lag that is shorter than
the horizon is unobserved exactly where it would look into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries

__all__ = ["Cuts", "WindowStore", "Windows", "series_size"]


class Windows(NamedTuple):
    """Windows of one specification.

    Attributes:
        values: (B, L, D, 1 + lags) in the units of the data, 0 where not observed.
        observed: Mask of the same shape.
        size: Mean absolute value (B, 1, D) of the whole series, for ``"longmean"`` scaling; else absent.
    """

    values: Tensor
    observed: Tensor
    size: Tensor | None = None

    def at(self, index: Tensor | slice) -> Windows:
        """Some of the windows."""
        return Windows(self.values[index], self.observed[index], None if self.size is None else self.size[index])

    def to(self, device: torch.device | str) -> Windows:
        """The windows on a device, as new tensors."""
        parts = (None if v is None else torch.clone(v).to(device) for v in self)
        return Windows(*parts)  # type: ignore[arg-type]


class Cuts(NamedTuple):
    """Which windows: index of the series (B,) and number of values before the horizon (B,)."""

    series: Tensor
    cut: Tensor


class WindowStore:
    """All values of a set of series in one tensor, and the windows that can be cut from them.

    A window needs ``min_past`` values before its cut; a series that is too short for that gives one window at its last
    cut, padded on the left, provided it has ``min_context`` values before it. Cuts are drawn uniformly over all
    admissible (series, cut), which is what the loader of the reference converges to.

    Args:
        series: Series, all with D variates.
        spec: Lengths and lags.
        holdout: Number of last values of each series that no drawn window may touch.
        min_past: Values before a cut; default: context length and longest lag.
        min_context: Least number of values before the cut of a short series.
        size: Mean absolute value (N, D) of each series, for ``"longmean"`` scaling; measured on all but the held-out
            values if absent.
        device: Where the values live.

    Raises:
        ValueError: If no series has an admissible window.
    """

    def __init__(
        self,
        series: Sequence[TimeSeries],
        spec: SeriesSpec,
        *,
        holdout: int = 0,
        min_past: int | None = None,
        min_context: int = 1,
        size: np.ndarray | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        for s in series:
            if s.num_variates != spec.num_variates:
                raise ValueError(
                    f"series {s.item_id!r} has {s.num_variates} variates, the model takes {spec.num_variates}."
                )
        self.spec = spec
        lengths = np.array([len(s) for s in series])
        self.values = torch.as_tensor(np.concatenate([s.table for s in series]), dtype=torch.float64, device=device)
        self.length = torch.as_tensor(lengths, device=device)
        self.size: Tensor | None = None
        if spec.scaling == "longmean":
            size = series_size([s.table[: len(s) - holdout] for s in series]) if size is None else size
            self.size = torch.as_tensor(size, dtype=torch.float64, device=device)[:, None]
        self.start = self.length.cumsum(0) - self.length
        past = spec.history if min_past is None else min_past
        last = self.length - holdout - spec.prediction_length
        self.first = last.clamp_max(past)
        self.count = torch.where(last >= max(min_context, 0), last - self.first + 1, 0)
        self._ends = self.count.cumsum(0)
        self._steps = torch.arange(-spec.context_length, spec.prediction_length, device=device)
        self._lags = torch.tensor([0, *spec.lags], device=device)

    @property
    def num_windows(self) -> int:
        """Number of admissible (series, cut)."""
        return int(self._ends[-1])

    def draw(self, num_windows: int, generator: torch.Generator | None = None) -> Cuts:
        """Random cuts, uniform over all admissible ones."""
        if self.num_windows == 0:
            spec = self.spec
            raise ValueError(
                f"no series is long enough for a window: {spec.prediction_length} values to forecast and one before "
                f"them are needed (twice as many with a hold-out); the longest series has {int(self.length.max())}."
            )
        home = generator.device if generator is not None else "cpu"
        index = torch.randint(self.num_windows, (num_windows,), generator=generator, device=home)
        return self.at(index.to(self.values.device))

    def at(self, index: Tensor) -> Cuts:
        """Admissible cuts by their number in 0 ... ``num_windows`` - 1."""
        series = torch.searchsorted(self._ends, index, right=True)
        return Cuts(series, self.first[series] + index - (self._ends[series] - self.count[series]))

    def ends(self, back: int = 0) -> Cuts:
        """The cut ``back`` values before the end of each series; 0: the forecast starts where the series ends."""
        return Cuts(torch.arange(len(self.length), device=self.length.device), self.length - back)

    def take(self, cuts: Cuts, *, hide_future: bool = False) -> Windows:
        """Gather windows.

        Args:
            cuts: Which.
            hide_future: Treat everything from the cut on as unobserved, also where a lag looks at it.
        """
        series, cut = (part[:, None, None] for part in cuts)
        position = cut + self._steps[:, None] - self._lags  # (B, L, 1 + lags)
        limit = cut.clamp_max(self.length[series]) if hide_future else self.length[series]
        inside = (position >= 0) & (position < limit)
        index = self.start[series] + torch.minimum(position.clamp_min(0), self.length[series] - 1)
        values = self.values[index].transpose(2, 3)
        observed = inside[:, :, None] & torch.isfinite(values)
        return Windows(
            torch.where(observed, values, 0), observed, None if self.size is None else self.size[cuts.series]
        )


def series_size(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Mean absolute value (N, D) of the observed values of tables (T, D); 0 where there are none."""
    known = [np.isfinite(table) for table in tables]
    sums = [np.where(m, np.abs(table), 0).sum(0) for table, m in zip(tables, known)]
    return np.stack([total / m.sum(0).clip(1) for total, m in zip(sums, known)])
