"""DPM-Solver++: exponential integrators of the probability flow in the x0 form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.samplers.base import Curve, Row, Solver, register
from scidiff.samplers.euler import grid_rows

__all__ = ["DPMpp2M"]


@register("dpmpp_2m")
class DPMpp2M(Solver):
    r"""x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^{-h}) [D_0 + (D_0 - D_1)/(2 r)], r = h_prev/h.

    Order 2, one evaluation a step. The first step, and a last step to sigma = 0, are of order 1.

    References: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """

    order = 2

    def __init__(self) -> None:
        pass

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        h = curve.lam_s - curve.lam_t
        inverse_r = torch.zeros_like(h)
        inverse_r[1:] = h[1:] / h[:-1]
        inverse_r = torch.where(torch.isfinite(inverse_r) & torch.isfinite(h), inverse_r, 0.0)
        gain = curve.alpha_s * (1 - curve.decay)
        return {"x": curve.shrink, "m0": gain * (1 + inverse_r / 2), "m1": -gain * inverse_r / 2}
