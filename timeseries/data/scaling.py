r"""Scales of windows, from what is observed of context or series; and `SeriesSpec`, which says how windows are made.

* ``"mean"``: location 0, scale = sum |x| m / sum m;
* ``"longmean"``: the same mean over the whole series (in training: over all but its held-out values), at least a
  hundredth of the mean over the training data;
* ``"std"``: location and scale are mean and standard deviation of the observed context;
* ``"robust"``: median, and 1.4826 times the median absolute deviation.

Where a rule has nothing to go by (nothing observed, or only zeros, or a constant context) the statistics of the
training data take over, which are stored with the model: results never depend on the other windows of a batch.

References: Kollovieh et al. 2023 (mean scaling); Kollovieh et al. 2025 (TSFlow, long means); Salinas et al. 2020
(DeepAR), section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidiff.configurable import Configurable
from timeseries.data import calendar

__all__ = ["SCALINGS", "Scale", "SeriesSpec", "measure", "window_scale"]

SCALINGS = ("mean", "longmean", "std", "robust")
_COMMON = ("prediction_length", "context_length", "lags", "scaling", "num_variates")
_FLOOR = 1e-10
_CONSTANT = 1e-6  # spread over size below which a context counts as constant
_NORMAL_MAD = 1.4826
_LONG_FLOOR = 0.01  # of long means, over the mean of the training data


class Scale(NamedTuple):
    """Location and scale (B, 1, D): scaled = (x - location) / scale."""

    location: Tensor
    scale: Tensor


class SeriesSpec(Configurable):
    """Calendar, lengths, lags and scaling of the windows a model was trained on, with the fallback statistics.

    Args:
        freq: Frequency, any pandas spelling.
        prediction_length: P, steps to forecast.
        context_length: C, steps before them.
        lags: Lags in steps; each is one more channel.
        scaling: One of `SCALINGS`.
        num_variates: D.
        location: Mean of the training values (D,).
        size: Mean absolute training value (D,).
        spread: Typical spread of a context (D,).

    Raises:
        ValueError: If a length is not positive or a name is unknown.
    """

    def __init__(
        self,
        freq: str,
        prediction_length: int,
        context_length: int,
        lags: Sequence[int] = (),
        scaling: str = "std",
        num_variates: int = 1,
        location: Sequence[float] | None = None,
        size: Sequence[float] | None = None,
        spread: Sequence[float] | None = None,
    ) -> None:
        if prediction_length < 1 or context_length < 1 or num_variates < 1 or any(lag < 1 for lag in lags):
            raise ValueError(
                "prediction_length, context_length, num_variates and all lags must be at least 1, got "
                f"{prediction_length}, {context_length}, {num_variates} and {list(lags)}."
            )
        if scaling not in SCALINGS:
            raise ValueError(f"unknown scaling {scaling!r}; known: {', '.join(SCALINGS)}.")
        self.freq = calendar.normalize_freq(freq)
        self.prediction_length, self.context_length = int(prediction_length), int(context_length)
        self.lags, self.scaling, self.num_variates = tuple(int(lag) for lag in lags), scaling, int(num_variates)
        self.location = tuple(location) if location is not None else (0.0,) * num_variates
        self.size = tuple(size) if size is not None else (1.0,) * num_variates
        self.spread = tuple(spread) if spread is not None else (1.0,) * num_variates
        for name in ("location", "size", "spread"):
            if len(getattr(self, name)) != num_variates:
                raise ValueError(f"{name} needs one number for each of {num_variates} variates.")

    @property
    def length(self) -> int:
        """L = C + P."""
        return self.context_length + self.prediction_length

    @property
    def channels(self) -> int:
        """Channels of a variate: its value and its lags."""
        return 1 + len(self.lags)

    @property
    def history(self) -> int:
        """Past values that a complete window needs: C + the longest lag."""
        return self.context_length + max(self.lags, default=0)

    def replaced(self, **changes: Any) -> SeriesSpec:
        """The same with some arguments changed."""
        names = ("freq", *_COMMON, "location", "size", "spread")
        return SeriesSpec(**{**{name: getattr(self, name) for name in names}, **changes})

    def is_compatible(self, other: SeriesSpec) -> bool:
        """Whether windows of ``other`` mean the same to a model: all but the statistics."""
        return all(getattr(self, name) == getattr(other, name) for name in ("freq", *_COMMON))


def window_scale(values: Tensor, observed: Tensor, spec: SeriesSpec, series_size: Tensor | None = None) -> Scale:
    """Scale of contexts.

    Args:
        values: Contexts (B, C, D); values that are not observed are ignored.
        observed: Mask (B, C, D).
        spec: How to scale.
        series_size: Mean absolute values (B, 1, D) of whole series, for ``"longmean"``; of the context if absent.
    """
    m = observed.to(values.dtype)
    x = torch.where(observed, values, 0)
    count = m.sum(1, keepdim=True)
    size = x.abs().sum(1, keepdim=True) / count.clamp_min(1)
    location, typical, spread = (values.new_tensor(v) for v in (spec.location, spec.size, spec.spread))
    if spec.scaling in ("mean", "longmean"):
        if spec.scaling == "longmean" and series_size is not None:
            size = torch.maximum(series_size.to(values), (series_size > 0) * _LONG_FLOOR * typical)
        scale = torch.where(size > 0, size, typical).clamp_min(_FLOOR)
        return Scale(torch.zeros_like(scale), scale)
    if spec.scaling == "std":
        center = x.sum(1, keepdim=True) / count.clamp_min(1)
        width = ((x - center).square() * m).sum(1, keepdim=True).div(count.clamp_min(1)).sqrt()
    else:
        marked = torch.where(observed, values, torch.nan)
        center = _median(marked)
        width = _NORMAL_MAD * _median((marked - center).abs())
        center, width = torch.nan_to_num(center), torch.nan_to_num(width)
    fallback = torch.where(size > 0, spread * size / typical.clamp_min(_FLOOR), spread)
    scale = torch.where((count > 1) & (width > _CONSTANT * size), width, fallback).clamp_min(_FLOOR)
    return Scale(torch.where(count > 0, center, location), scale)


def measure(values: Tensor, observed: Tensor, spec: SeriesSpec) -> dict[str, list[float]]:
    """Fallback statistics ``location``, ``size``, ``spread`` of training contexts (N, C, D)."""
    m = observed.to(values.dtype)
    count = m.sum((0, 1)).clamp_min(1)
    location = (values * m).sum((0, 1)) / count
    size = (values.abs() * m).sum((0, 1)) / count
    if spec.scaling in ("mean", "longmean"):
        spread = size
    else:
        scale = window_scale(values, observed, spec.replaced(location=None, size=None, spread=None)).scale[:, 0]
        spread = torch.where(observed.sum(1) > 1, scale, torch.nan).nanmedian(0).values.nan_to_num(1.0)
    return {"location": location.tolist(), "size": size.clamp_min(_FLOOR).tolist(), "spread": spread.tolist()}


def _median(values: Tensor) -> Tensor:
    """Median (B, 1, D) over time of the numbers that are not NaN; NaN if there are none."""
    return torch.nanquantile(values, 0.5, dim=1, keepdim=True)
