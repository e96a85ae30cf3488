"""EDM's second-order sampler with optional churn, in the scaled frame x/alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.rows import Curve, Row, anchor_values, grid_rows, is_singular, like_rows

__all__ = ["EDMHeun"]


@register("edm_heun")
class EDMHeun(Solver):
    r"""Heun's method for dy/drho = eps with y = x/alpha and rho = sigma/alpha, after an optional increase of the noise.

    gamma = min(s_churn/n, sqrt(2) - 1) where s_min <= rho <= s_max; rho_hat = (1 + gamma) rho;
    y_hat = y + sqrt(rho_hat^2 - rho^2) s_noise z; Euler to rho_s; then y_s = y_hat + (rho_s - rho_hat)(e_hat + e_s)/2.
    Order 2 without churn, two evaluations a step. A step to sigma = 0, or from alpha = 0, is a single Euler (DDIM)
    stage, so that n steps of the "edm" grid cost 2n - 1 evaluations. In a system the first component fixes the time of
    rho_hat and the others are noised by their own forward transition to it. rho_hat is held below its value at t = 1.

    Args:
        s_churn: Amount of added noise, at least 0; over all steps.
        s_min: Smallest rho at which noise is added.
        s_max: Largest rho at which noise is added.
        s_noise: Factor of the added noise.

    Raises:
        ValueError: If ``s_churn`` is negative.

    References: Karras et al. 2022, algorithm 2.
    """

    depth = 2

    def __init__(self, s_churn: float = 0.0, s_min: float = 0.0, s_max: float = math.inf, s_noise: float = 1.0) -> None:
        if s_churn < 0:
            raise ValueError(f"s_churn must be at least 0, got {s_churn}.")
        self.s_churn, self.s_min, self.s_max, self.s_noise = s_churn, s_min, s_max, s_noise
        self.needs_score = s_churn > 0

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        rows = []
        for interval in grid_rows(grid):
            t, s, i = interval.t, interval.s, interval.step
            t_hat = self._raised(process, t, s, len(grid) - 1)
            if bool((t_hat != t).any()):
                rows.append(Row(t, t_hat, i, evaluate=False, is_last=False))
            if is_singular(process, t_hat, s):
                rows.append(Row(t_hat, s, i, mark=True))
            else:
                rows += [Row(t_hat, s, i, mark=True, is_last=False), Row(s, s, i)]
        return rows

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        churns = like_rows([not row.evaluate for row in rows], curve.t)
        is_second = like_rows([row.evaluate and not row.mark for row in rows], curve.t)
        whole = Curve(curve.schedule, anchor_values(curve.t, rows), curve.s)
        carry, weight = whole.first_order("x0")
        # y_s = y_hat + (rho_s - rho_hat)(e_hat + e_s)/2 with both e = (x - alpha D)/sigma,
        # half = alpha_s (rho_s - rho_hat)/2
        half = (whole.sigma_s - whole.alpha_s * whole.sigma_t / whole.alpha_t) / 2
        average = (whole.alpha_s / whole.alpha_t + whole.sigma_s / whole.sigma_t) / 2
        second = is_second & ~whole.still
        scale = torch.where(churns, torch.where(curve.still, 1.0, curve.alpha_s / curve.alpha_t), carry)
        added = curve.sigma_s**2 - (curve.alpha_s / curve.alpha_t * curve.sigma_t) ** 2
        return {
            "x": torch.where(second, half / whole.sigma_s, torch.where(is_second, 1.0, scale)),
            "anchor": torch.where(second, average, 0.0),
            "m0": torch.where(
                second, -half * whole.alpha_s / whole.sigma_s, torch.where(churns | is_second, 0.0, weight)
            ),
            "m1": torch.where(second, -half * whole.alpha_t / whole.sigma_t, 0.0),
            "noise": torch.where(churns & ~curve.still, self.s_noise * added.clamp_min(0).sqrt(), 0.0),
        }

    def _raised(self, process: Process, t: Tensor, s: Tensor, n: int) -> Tensor:
        """Time of (1 + gamma) rho of the first component; elements that stand still stay."""
        component = next(iter(process.continuous.values()), None)
        gamma = min(self.s_churn / n, math.sqrt(2) - 1)
        if gamma == 0 or component is None:
            return t
        lam = 0.5 * component.schedule.log_snr(t)
        rho = (-lam).exp()
        raised = component.schedule.time(lam - math.log1p(gamma)).clamp(max=1.0)
        return torch.where((rho >= self.s_min) & (rho <= self.s_max) & (s != t), torch.maximum(raised, t), t)
