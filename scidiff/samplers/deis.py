"""DEIS: Adams-Bashforth methods for dy/drho = eps, y = x/alpha, rho = sigma/alpha, with polynomials in t or in rho."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from scidiff.coefficients import integral_weights
from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.exponential import Exponential
from scidiff.samplers.rows import Curve, Row, grid_rows, known_nodes, leading_nodes

__all__ = ["DEIS"]


@register("deis_tab0", order=0, variable="t")
@register("deis_tab1", order=1, variable="t")
@register("deis_tab2", order=2, variable="t")
@register("deis_tab3", order=3, variable="t")
@register("deis_rhoab1", order=1, variable="rho")
@register("deis_rhoab2", order=2, variable="rho")
@register("deis_rhoab3", order=3, variable="rho")
class DEIS(Solver):
    r"""x_s = (alpha_s/alpha_t) x_t + alpha_s sum_j e_j int_{rho_t}^{rho_s} l_j d rho.

    l_j are the Lagrange polynomials of the last q + 1 evaluations in the variable t ("tAB") or rho ("rhoAB"); fewer at
    the start, one on a step to sigma = 0. q = 0 is DDIM. Order q + 1, one evaluation a step. The integrals are taken
    in lambda (d rho = -rho d lambda, smooth at both ends) by Gauss-Legendre quadrature.

    Args:
        order: Degree q of the polynomials, 0 to 3.
        variable: ``"t"`` or ``"rho"``.

    Raises:
        ValueError: If an argument is out of range.

    References: Zhang and Chen 2023 (DEIS), section 3 (tAB and rhoAB).
    """

    model = "eps"
    needs_signal = True

    def __init__(self, order: int = 3, variable: Literal["t", "rho"] = "t") -> None:
        if order not in (0, 1, 2, 3) or variable not in ("t", "rho"):
            raise ValueError(f"expected order 0 to 3 and variable 't' or 'rho', got {order} and {variable!r}.")
        self.order, self.variable = order, variable
        self.depth = order + 1

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        schedule, step = curve.schedule, Exponential(curve, "eps")
        lam = known_nodes(lambda t: 0.5 * schedule.log_snr(t), rows, self.depth)
        known = torch.where(step.is_regular, leading_nodes(lam), 1)
        if self.variable == "t":
            nodes, coordinate = known_nodes(lambda t: t, rows, self.depth), schedule.time
        else:
            nodes, coordinate = (-lam).exp(), _rho
        interval = (torch.where(step.is_regular, curve.lam_t, 0.0), torch.where(step.is_regular, curve.lam_s, 0.0))
        weights = torch.zeros_like(lam)
        weights[..., 0] = step.weight
        for count in range(2, self.depth + 1):
            chosen = (known >= count)[..., None]
            safe = torch.where(chosen, nodes[..., :count], torch.arange(count, dtype=torch.float64))
            values = integral_weights(_minus_rho, safe, interval, coordinate) * curve.alpha_s[..., None]
            weights = torch.where(chosen, torch.cat([values, torch.zeros_like(weights[..., count:])], dim=-1), weights)
        return {"x": step.carry, **{f"m{j}": w for j, w in enumerate(weights.unbind(-1))}}


def _rho(lam: Tensor) -> Tensor:
    return (-lam).exp()


def _minus_rho(lam: Tensor) -> Tensor:
    return -(-lam).exp()
