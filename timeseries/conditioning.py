r"""What a conditional model sees of a window, and what it is trained to see.

A conditional model diffuses the value channel alone; the lag channels, the known values and their mask are features of
the network (n_lags + 2 a variate). Training hides the horizon and, by chance, more; a model that was trained with the
masks of a task needs no guidance for it.

References: Kollovieh et al. 2023 (TSDiff-Cond), appendix; Tashiro et al. 2021 (CSDI), masks of imputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from timeseries.bases import Base
from timeseries.data.masks import SCENARIOS, missing_mask
from timeseries.data.scaling import SeriesSpec

__all__ = ["FEATURES", "MASKS", "Conditions", "conditions", "training_mask"]

FEATURES = "features"
MASKS = ("forecast", *SCENARIOS, "gaps")


class Conditions(NamedTuple):
    """Features (B, L, D, lags + 2) of the network, and the mean (B, L, D, 1) that the base expects."""

    features: Tensor
    mean: Tensor


def conditions(state: Tensor, observed: Tensor, known: Tensor, spec: SeriesSpec, base: Base | None) -> Conditions:
    """Features of windows.

    Args:
        state: Windows (B, L, D, 1 + lags) in scaled units.
        observed: Mask of the same shape.
        known: Values (B, L, D) that may be seen. A lag that looks at a value that may not is hidden, too.
        spec: Lags.
        base: Where unknown values are expected; 0 if absent.
    """
    value = torch.where(known, state[..., 0], 0)
    mean = torch.zeros_like(value) if base is None else base.mean(value, known)
    parts = [torch.where(known, value, mean)[..., None], known[..., None].to(value.dtype)]
    if spec.lags:
        position = torch.arange(spec.length, device=state.device)[:, None]
        source = position - torch.tensor(spec.lags, device=state.device)  # (L, lags), before the window if negative
        seen = known[:, source.clamp_min(0)].transpose(2, 3) | (source < 0)[:, None]
        parts.append(torch.where(observed[..., 1:] & seen, state[..., 1:], 0))
    return Conditions(torch.cat(parts, -1), mean[..., None])


def training_mask(
    masks: Sequence[str], num_windows: int, spec: SeriesSpec, generator: torch.Generator | None = None
) -> Tensor:
    """Values (B, L, D) to hide: each window follows one of ``masks``, drawn evenly.

    ``"forecast"`` hides the horizon; ``"RM"``, ``"BM-B"`` and ``"BM-E"`` hide it and half of the context (see
    `timeseries.data.masks.missing_mask`); ``"gaps"`` hides, for each variate by itself, a random share of all values or
    a block of random place and length.

    Args:
        masks: Names of `MASKS`.
        num_windows: B.
        spec: Lengths and number of variates.
        generator: Source of the random numbers; the mask is made where it lives.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    shape = (num_windows, spec.length, spec.num_variates)
    hidden = torch.zeros(len(masks), *shape, dtype=torch.bool, device=device)
    for place, mask in zip(hidden, masks):
        if mask == "gaps":
            place |= _gaps(shape, generator, device)
            continue
        place[:, spec.context_length :] = True
        if mask != "forecast":
            missing = missing_mask(mask, num_windows, spec.context_length, generator=generator)
            place[:, : spec.context_length] = missing.to(device)[:, :, None]
    choice = torch.randint(len(masks), (num_windows,), generator=generator, device=device)
    return hidden[choice, torch.arange(num_windows, device=device)]


def _gaps(shape: tuple[int, int, int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Random shares of all values, or blocks, with equal chance for each variate."""
    windows, length, variates = shape

    def uniform(*size: int) -> Tensor:
        return torch.rand(windows, *size, variates, generator=generator, device=device)

    scattered = uniform(length) < uniform(1)
    size = 1 + (uniform(1) * (length - 1)).floor()
    start = (uniform(1) * (length - size + 1)).floor()
    position = torch.arange(length, device=device)[:, None]
    block = (position >= start) & (position < start + size)
    return torch.where(uniform(1) < 0.5, block, scattered)
