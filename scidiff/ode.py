r"""Dormand-Prince 5(4) with a step size of its own for every sample.

dy/dt = f(t, y) is integrated from t_0 to t_1 for a batch y (B, ...). Each sample has its own time, step and error
estimate, so its result depends neither on the batch nor on padding; the number of evaluations is that of the slowest
sample. The local error e of a step is measured as the root mean square of e/(atol + rtol max(|y|, |y_new|)), and the
step follows by the PI rule h <- h 0.9 e_n^{-0.7/5} e_{n-1}^{0.4/5}.

References: Dormand and Prince 1980 (the tableau); Hairer, Norsett, Wanner 1993, "Solving Ordinary Differential
Equations I", section II.4 (error norm, starting step); Hairer, Wanner 1996, II, section IV.2 (PI control).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidiff.schedule_base import expand_like

__all__ = ["ODESolution", "integrate", "rms"]

Field = Callable[[Tensor, Tensor], Tensor]
Norm = Callable[[Tensor], Tensor]
Scale = Callable[[Tensor, Tensor], Tensor]

_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_FIFTH = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
_ORDER = 5
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0


class ODESolution(NamedTuple):
    """State (B, ...) at t_1, number of evaluations of f, accepted and rejected steps (B,) of each sample.

    ``step`` (B,) is the length of the next step and ``slope`` (B, ...) the slope at t_1, to go on from there.
    """

    y: Tensor
    nfe: int
    accepted: Tensor
    rejected: Tensor
    step: Tensor
    slope: Tensor


def rms(error: Tensor) -> Tensor:
    """Root mean square (B,) over all numbers of a sample."""
    return error.reshape(len(error), -1).square().mean(1).sqrt()


def integrate(
    f: Field,
    y: Tensor,
    t_0: float,
    t_1: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    norm: Norm = rms,
    scale: Scale | None = None,
    max_steps: int = 10_000,
    first_step: Tensor | None = None,
    first_slope: Tensor | None = None,
) -> ODESolution:
    """Integrate dy/dt = f(t, y) from ``t_0`` to ``t_1`` (either direction).

    Args:
        f: Called with times (B,) and states (B, ...); returns slopes (B, ...).
        y: State at ``t_0``; the integration runs in its dtype.
        t_0: First time.
        t_1: Last time.
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step (units of ``y``).
        norm: Norm (B,) of scaled errors (B, ...); restrict it to the live numbers of ragged batches.
        scale: Size (broadcastable to B, ...) that the error of a step from y to y_new is measured in; default:
            atol + rtol max(|y|, |y_new|), elementwise.
        max_steps: Largest number of attempted steps.
        first_step: Length (B,) of the first step, chosen here by default.
        first_slope: f(t_0, y), if it is known.

    Raises:
        RuntimeError: If ``max_steps`` is reached, or a slope stops being finite.
    """
    direction = 1.0 if t_1 >= t_0 else -1.0
    t = torch.full((len(y),), float(t_0), dtype=torch.float64, device=y.device)
    span = abs(t_1 - t_0)
    measure = scale or (lambda y, y_new: atol + rtol * torch.maximum(y.abs(), y_new.abs()))
    nfe = int(first_slope is None) + int(first_step is None)
    slope = f(t, y) if first_slope is None else first_slope
    h = _first_step(f, t, y, slope, direction, span, measure(y, y), norm) if first_step is None else first_step
    previous = torch.ones_like(h)
    accepted, rejected = (torch.zeros(len(y), dtype=torch.int64, device=y.device) for _ in range(2))
    for _ in range(max_steps):
        left = (t_1 - t) * direction
        active = left > 1e-14 * span
        if not bool(active.any()):
            return ODESolution(y, nfe, accepted, rejected, h, slope)
        wanted, is_last = h, h >= left * (1 - 1e-12)
        h = torch.where(is_last, left, h)
        y_new, slope_new, error = _step(f, t, y, slope, direction * h)
        nfe += len(_NODES)
        size = norm(error / measure(y, y_new)).double()
        if not bool(torch.isfinite(size[active]).all()):
            size = torch.where(torch.isfinite(size), size, torch.inf)
            if bool((active & torch.isinf(size) & (h < 1e-12 * span)).any()):
                raise RuntimeError(f"the slope is not finite near t = {float(t[torch.isinf(size)][0]):.4g}.")
        passed = active & (size <= 1)
        t = torch.where(passed, torch.where(is_last, torch.full_like(t, t_1), t + direction * h), t)
        chosen = expand_like(passed, y)
        y, slope = torch.where(chosen, y_new, y), torch.where(chosen, slope_new, slope)
        accepted, rejected = accepted + passed, rejected + (active & ~passed)
        h = h * _factor(size, previous, passed)
        h = torch.where(active & ~(passed & is_last), h, torch.maximum(h, wanted))  # being cut short is no evidence
        previous = torch.where(passed, size.clamp_min(1e-4), previous)
    raise RuntimeError(
        f"{max_steps} steps were not enough to reach t = {t_1:g} (the slowest sample is at {float(t.min()):.4g}); "
        "loosen rtol, or is the right-hand side random or not finite?"
    )


def _step(f: Field, t: Tensor, y: Tensor, slope: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(y of order 5, its slope, estimate of the error of order 4) after steps ``dt`` (B,)."""
    scale = expand_like(dt, y).to(y.dtype)
    slopes = [slope]
    for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
        slopes.append(f(t + node * dt, y + scale * _combine(weights, slopes)))
    y_new = y + scale * _combine(_FIFTH, slopes)
    slopes.append(f(t + dt, y_new))
    difference = [a - b for a, b in zip((*_FIFTH, 0.0), _FOURTH, strict=True)]
    return y_new, slopes[-1], scale * _combine(difference, slopes)


def _combine(weights: tuple[float, ...] | list[float], slopes: list[Tensor]) -> Tensor:
    result = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        result = result + weight * slope
    return result


def _factor(size: Tensor, previous: Tensor, passed: Tensor) -> Tensor:
    size = size.clamp_min(1e-10)
    grown = _SAFETY * size ** (-0.7 / _ORDER) * previous ** (0.4 / _ORDER)
    shrunk = _SAFETY * size ** (-1 / _ORDER)
    return torch.where(passed, grown.clamp(_SHRINK, _GROW), shrunk.clamp(_SHRINK, 1.0))


def _first_step(
    f: Field, t: Tensor, y: Tensor, slope: Tensor, direction: float, span: float, scale: Tensor, norm: Norm
) -> Tensor:
    """Hairer's starting step: the scaled change of y and of its slope over a small Euler step stay at 1e-2."""
    size, speed = norm(y / scale).double(), norm(slope / scale).double()
    h = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed.clamp_min(1e-30)).clamp_max(span)
    ahead = f(t + direction * h, y + expand_like(direction * h, y).to(y.dtype) * slope)
    bend = norm((ahead - slope) / scale).double() / h
    largest = torch.maximum(speed, bend)
    second = torch.where(
        largest <= 1e-15, (h * 1e-3).clamp_min(1e-6), (0.01 / largest.clamp_min(1e-30)) ** (1 / _ORDER)
    )
    return torch.minimum(100 * h, second).clamp(1e-12 * span, span)
