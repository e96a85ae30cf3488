"""Solvers in time: Euler and Heun for the probability flow, Euler-Maruyama for the reverse SDE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.rows import Curve, Row, grid_rows, like_rows

__all__ = ["Euler", "EulerMaruyama", "Heun"]


@register("euler")
class Euler(Solver):
    """x_s = x_t + (s - t) v(x_t, t); order 1, one evaluation a step. A step to sigma = 0 lands on the x0 prediction."""

    model = "velocity"

    def __init__(self) -> None:
        pass

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        x, weight = _euler_weights(curve)
        return {"x": x, "m0": weight}


@register("heun")
class Heun(Solver):
    """Euler to s, then x_s = x_t + (s - t)(v_t + v_s)/2; order 2, two evaluations a step.

    A step to sigma(s) = 0, where the slope is singular, is an Euler step: it lands on the x0 prediction.

    References: Karras et al. 2022, algorithm 1 (in t instead of sigma).
    """

    model = "velocity"
    depth = 2

    def __init__(self) -> None:
        pass

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        rows = []
        for i in range(len(grid) - 1):
            t, s = grid[i], grid[i + 1]
            if _is_single(process, t, s):
                rows.append(Row(t, s, i, mark=True))
            else:
                rows += [Row(t, s, i, mark=True, is_last=False), Row(s, s, i)]
        return rows

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        is_second = like_rows([not row.mark for row in rows], curve.t)
        previous = torch.roll(curve.s - curve.t, 1, 0)  # step length of the first stage
        x, weight = _euler_weights(curve)
        return {
            "x": torch.where(is_second, 0.0, x),
            "anchor": torch.where(is_second, torch.ones_like(curve.t), 0.0),
            "m0": torch.where(is_second, previous / 2, weight),
            "m1": torch.where(is_second, previous / 2, 0.0),
        }


@register("euler_maruyama")
class EulerMaruyama(Solver):
    """x_s = x_t + (f x_t - g^2 score)(s - t) + g sqrt(t - s) z; weak order 1, one evaluation a step.

    References: Song et al. 2021, eq. 6 and appendix D.
    """

    model = "eps"
    needs_score = True

    def __init__(self) -> None:
        pass

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        dt = curve.s - curve.t
        g = curve.schedule.diffusion(curve.t)
        still = dt == 0
        return {
            "x": torch.where(still, 1.0, 1 + curve.schedule.drift_coefficient(curve.t) * dt),
            "m0": torch.where(still, 0.0, g**2 / curve.sigma_t * dt),
            "noise": torch.where(still, 0.0, g * (-dt).clamp_min(0).sqrt()),
        }


def _euler_weights(curve: Curve) -> tuple[Tensor, Tensor]:
    """Weights of x and v: (1, s - t), or those of alpha_s x0, x0 = (sigma' x - sigma v)/(alpha sigma' - sigma alpha').

    The latter is used for steps to sigma(s) = 0, where sigma ~ sqrt(t) of a variance-preserving SDE would leave an
    Euler step half way. Without the (possibly unknown) endpoint there is no x0 to land on, and Euler stays.
    """
    x, weight = torch.ones_like(curve.t), curve.s - curve.t
    schedule = curve.schedule
    if schedule.has_endpoint:
        return x, weight
    lands = (curve.sigma_s == 0) & (curve.s != curve.t)
    t = torch.where(lands, curve.t, 0.5)  # any regular time
    alpha, sigma, alpha_dot, sigma_dot = (
        schedule.alpha(t),
        schedule.sigma(t),
        schedule.alpha_dot(t),
        schedule.sigma_dot(t),
    )
    scale = curve.alpha_s / (alpha * sigma_dot - sigma * alpha_dot)
    return torch.where(lands, scale * sigma_dot, x), torch.where(lands, -scale * sigma, weight)


def _is_single(process: Process, t: Tensor, s: Tensor) -> bool:
    """True if some element moves to sigma = 0, or away from a point (alpha = sigma = 0)."""
    for component in process.continuous.values():
        schedule = component.schedule
        lands = (schedule.sigma(s) == 0) & (schedule.sigma(t) != 0)  # without noise at either end the slope is regular
        leaves = (schedule.alpha(t) == 0) & (schedule.sigma(t) == 0) & (schedule.sigma(s) != 0)
        if bool(((lands | leaves) & (t != s)).any()):
            return True
    return False
