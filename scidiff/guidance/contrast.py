r"""Guidance by contrast of two predictions: x0 = x0_b + w (x0_a - x0_b), and the same for class logits.

a is the conditional (or the good) model, b the unconditional (or a worse) one: w = 1 gives a, w = 0 gives b.
Papers that write (1 + w) count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser, Prediction
from scidiff.guidance.base import Guidance, Point, Shift
from scidiff.schedules import expand_like

__all__ = ["Auto", "AutoGuidance", "ClassifierFree"]

Interval = tuple[float, float] | None
_STRUCTURE = frozenset({"node_mask", "edge_mask", "batch", "edge_index", "self_cond"})


class ClassifierFree(Guidance):
    """Classifier-free guidance: x0 = x0_u + w (x0_c - x0_u). Two network calls a prediction.

    The unconditional prediction is the one without the condition's keys in ``cond``.

    Args:
        scale: w; 1 = conditional, 0 = unconditional, above 1 sharpens.
        interval: (lo, hi] in sigma/alpha of each component ((1 - kappa)/kappa of categorical ones) where w applies;
            outside it w = 1.
        keys: Keys of ``cond`` that make up the condition. Default: all but masks that the spaces read, ``batch``,
            ``edge_index``, ``edge_mask`` and ``self_cond``.

    Raises:
        ValueError: If the interval is empty; when used, if ``cond`` has none of the keys.

    References: Ho and Salimans 2022, "Classifier-free diffusion guidance"; Kynkaanniemi et al. 2024, "Applying guidance
    in a limited interval".
    """

    def __init__(self, scale: float, interval: Interval = None, keys: Sequence[str] | None = None) -> None:
        self.scale, self.interval, self.keys = float(scale), _checked(interval), keys

    def evaluations(self, base: int) -> int:
        """Conditional and unconditional."""
        return 2 * base

    def shift(self, point: Point) -> Shift:
        """(w - 1)(x0_c - x0_u)."""
        cond = point.cond or {}
        masks = {getattr(c.space, "mask", None) for c in point.process.components.values()}
        dropped = set(cond) - _STRUCTURE - masks if self.keys is None else set(self.keys) & set(cond)
        if not dropped:
            raise ValueError(
                f"classifier-free guidance found no condition to drop: cond has the keys {sorted(cond)} and keys="
                f"{self.keys}. Pass the condition in sample(..., cond=...)."
            )
        other = point.evaluate(cond={k: v for k, v in cond.items() if k not in dropped})
        return _contrast(point, other, self.scale, self.interval)


class AutoGuidance(Guidance):
    """A worse model of the same process in place of the unconditional one: x0 = x0_bad + w (x0 - x0_bad).

    Args:
        bad_denoiser: Smaller or less trained denoiser.
        scale: w; 1 = the model as it is.
        interval: (lo, hi] in sigma/alpha where w applies; outside it w = 1.

    Raises:
        ValueError: If the interval is empty; when wrapping, if the components of the two processes differ.

    References: Karras et al. 2024, "Guiding a diffusion model with a bad version of itself".
    """

    def __init__(self, bad_denoiser: Denoiser, scale: float, interval: Interval = None) -> None:
        self.bad_denoiser, self.scale, self.interval = bad_denoiser, float(scale), _checked(interval)

    def check(self, den: Denoiser) -> None:
        """Raise if the two processes have other components."""
        known, bad = sorted(den.process.components), sorted(self.bad_denoiser.process.components)
        if known != bad:
            raise ValueError(f"the bad denoiser has components {bad}, the guided one {known}.")

    def evaluations(self, base: int) -> int:
        """One call of each model."""
        return base + self.bad_denoiser.evaluations

    def shift(self, point: Point) -> Shift:
        """(w - 1)(x0 - x0_bad)."""
        return _contrast(point, point.evaluate(self.bad_denoiser), self.scale, self.interval)


Auto = AutoGuidance


def _contrast(point: Point, other: Prediction, scale: float, interval: Interval) -> Shift:
    here = point.x0 | point.prediction.logits
    there = {k: v for k, v in other.get("x0").items() if k in point.x0} | other.logits
    return {name: _weight(point, name, value, scale, interval) * (value - there[name]) for name, value in here.items()}


def _weight(point: Point, name: str, like: Tensor, scale: float, interval: Interval) -> Tensor | float:
    """w - 1, shaped to broadcast against ``like``; 0 outside the interval."""
    if interval is None:
        return scale - 1
    ratio = point.noise_ratio(name)
    is_inside = (ratio > interval[0]) & (ratio <= interval[1])
    return expand_like(torch.where(is_inside, scale - 1, 0.0).to(like.dtype), like)


def _checked(interval: Interval) -> Interval:
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ValueError(f"interval must be (lo, hi] in sigma/alpha with 0 <= lo < hi, got {interval}.")
    return interval
