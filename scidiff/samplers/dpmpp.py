"""DPM-Solver++ as multistep methods: exponential integrators in the x0 form, one evaluation a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from scidiff.coefficients import phi
from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.exponential import Exponential
from scidiff.samplers.rows import Curve, Row, grid_rows, known_nodes, leading_nodes

__all__ = ["DPMpp2M", "DPMpp3M", "DPMppSDE2M"]


@register("dpmpp_2m")
class DPMpp2M(Solver):
    r"""x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^{-h}) [D_0 + (D_0 - D_1)/(2 r)], r = h_prev/h.

    Order 2, one evaluation a step. The first step, and a last step to sigma = 0, are of order 1.

    References: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """

    depth = 2

    def __init__(self) -> None:
        pass

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        step = Exponential(curve, "x0")
        inverse_r, _, order = _ratios(curve, rows, step, 2)
        slope = step.higher(step.weight * inverse_r / 2, order >= 2)
        return {"x": step.carry, "m0": step.weight + slope, "m1": -slope}


@register("dpmpp_3m")
class DPMpp3M(Solver):
    r"""x_s = (sigma_s/sigma_t) x_t + alpha_s h [phi_1(-h) D_0 + phi_2(-h) E_1 + phi_3(-h) E_2].

    With r_0 = h_0/h, r_1 = h_1/h, a = (D_0 - D_1)/r_0, b = (D_1 - D_2)/r_1: E_1 = a + r_0 (a - b)/(r_0 + r_1) and
    E_2 = 2 (a - b)/(r_0 + r_1) are h D' and h^2 D'' of the interpolating parabola, so that the step is the exact
    integral. Order 3, one evaluation a step; the first two steps are those of `DPMpp2M`, a step to sigma = 0 is of
    order 1.

    Args:
        legacy_third: Leave out the factor 2 of E_2, as the published multistep third-order update does. That is a
            second-order method, which damps and is a little better below about 48 steps.

    References: Lu et al. 2022 (DPM-Solver++), section 4.2 (multistep form); the factor 2 is the Taylor term.
    """

    depth = 3

    def __init__(self, legacy_third: bool = False) -> None:
        self.legacy_third = legacy_third

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        step = Exponential(curve, "x0")
        q_0, q_1, order = _ratios(curve, rows, step, 3)
        curvature = step.term(3) * (1 if self.legacy_third else 2)
        # factors of a - b and a; E_1 = a + (a - b) r_0/(r_0 + r_1) with r_0/(r_0 + r_1) = q_1/(q_0 + q_1)
        share = torch.where(order >= 3, 1 / (q_0 + q_1), 0.0)
        bend = (step.term(2) * q_1 + curvature * q_0 * q_1) * share
        second = step.higher(step.weight * q_0 / 2, order == 2)
        third = step.higher(step.term(2) + bend, order >= 3) * q_0
        older = step.higher(bend * q_1, order >= 3)
        return {
            "x": step.carry,
            "m0": step.weight + second + third,
            "m1": -second - third - older,
            "m2": older,
        }


@register("dpmpp_sde_2m")
class DPMppSDE2M(Solver):
    r"""x_s = (sigma_s/sigma_t) e^{-eta h} x_t + alpha_s (1 - e^{-H}) D_0 + correction + noise, H = (1 + eta) h.

    The noise is sigma_s sqrt(1 - e^{-2 eta h}) z. With r = h_prev/h the correction is alpha_s (1 - e^{-H}) (D_0 -
    D_1)/(2 r) ("midpoint") or alpha_s (1 - (1 - e^{-H})/H) (D_0 - D_1)/r ("heun"). Weak order 2 for a Gaussian, one
    evaluation a step. eta = 0 with "midpoint" is `DPMpp2M`; the first step with eta = 1 is ancestral.

    Args:
        eta: Stochasticity, at least 0; 1 is the reverse SDE.
        correction: Second-order term.

    Raises:
        ValueError: If an argument is out of range.

    References: Lu et al. 2022 (DPM-Solver++), section 5 (SDE variants).
    """

    depth = 2

    def __init__(self, eta: float = 1.0, correction: Literal["midpoint", "heun"] = "midpoint") -> None:
        if eta < 0 or correction not in ("midpoint", "heun"):
            raise ValueError(f"expected eta >= 0 and correction 'midpoint' or 'heun', got {eta} and {correction!r}.")
        self.eta, self.correction = eta, correction
        self.needs_score = eta > 0

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        step = Exponential(curve, "x0")
        inverse_r, _, order = _ratios(curve, rows, step, 2)
        damping = torch.where(curve.still, 1.0, curve.decay**self.eta)
        carry = step.carry * damping
        weight = torch.where(curve.still, 0.0, curve.alpha_s * (1 - curve.decay ** (1 + self.eta)))
        wide = (1 + self.eta) * step.h
        factor = weight / 2 if self.correction == "midpoint" else curve.alpha_s * wide * phi(2, -wide)
        slope = step.higher(factor * inverse_r, order >= 2)
        noise = curve.sigma_s * (1 - damping**2).clamp_min(0).sqrt()
        return {"x": carry, "m0": weight + slope, "m1": -slope, "noise": torch.where(curve.still, 0.0, noise)}


def _ratios(curve: Curve, rows: Sequence[Row], step: Exponential, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(h/h_0, h/h_1, order): inverse lengths of the last intervals in units of h, and how many values may be used."""
    lam = known_nodes(lambda t: 0.5 * curve.schedule.log_snr(t), rows, count)
    order = leading_nodes(lam)
    lengths = lam[..., :-1] - lam[..., 1:]
    inverse = [torch.where(order >= j + 2, step.h / lengths[..., j], 0.0) for j in range(count - 1)]
    return inverse[0], inverse[-1], order
