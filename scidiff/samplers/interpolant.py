"""The stochastic sampler of interpolants: any noise rate, from a velocity and a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.euler import grid_rows
from scidiff.samplers.rows import Curve, Row

__all__ = ["InterpolantSDE"]

Rate = Literal["sigma_squared", "sigma", "constant", "half_g2"]


@register("interpolant_sde")
class InterpolantSDE(Solver):
    r"""x_s = x_t + (s - t)(v - e score) + sqrt(2 e (t - s)) z with any rate e(t) >= 0; weak order 1.

    The marginals are those of the flow for every e, which is 0 where sigma(t) = 0. It needs a velocity and a score (or
    eps) prediction, so it also serves two-sided interpolants whose x_1 the network does not see.

    Args:
        rate: Form of e(t): ``"sigma_squared"`` (stays harmless near both ends), ``"sigma"``, ``"constant"``, or
            ``"half_g2"`` (g^2/2, the reverse SDE of the schedule; not for an unknown x_1).
        scale: Factor of e(t) (1/time for ``"sigma_squared"``), at least 0; 0 is `Euler`.

    Raises:
        ValueError: If ``rate`` is unknown or ``scale`` negative.

    References: Albergo, Boffi, Vanden-Eijnden 2023, "Stochastic Interpolants", section 2; Ma et al. 2024 (SiT).
    """

    model = ("velocity", "eps")
    depth = 2
    needs_score = True

    def __init__(self, rate: Rate = "sigma_squared", scale: float = 1.0) -> None:
        if rate not in ("sigma_squared", "sigma", "constant", "half_g2") or scale < 0:
            raise ValueError(
                f"rate must be 'sigma_squared', 'sigma', 'constant' or 'half_g2' and scale >= 0, got {rate!r}, {scale}."
            )
        self.rate, self.scale = rate, scale

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        dt = curve.s - curve.t
        sigma = curve.sigma_t
        e = {"sigma_squared": sigma**2, "sigma": sigma, "constant": torch.ones_like(sigma)}.get(self.rate)
        e = 0.5 * curve.schedule.diffusion(curve.t) ** 2 if e is None else e
        e = torch.where(sigma == 0, 0.0, self.scale * e)
        # -e score = (e/sigma) eps
        return {
            "x": torch.ones_like(dt),
            "m0": dt,
            "m1": torch.where(sigma == 0, 0.0, dt * e / torch.where(sigma == 0, 1.0, sigma)),
            "noise": (-2 * e * dt).clamp_min(0).sqrt(),
        }
