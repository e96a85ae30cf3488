"""DDIM with any stochasticity; eta = 1 is ancestral sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.rows import Curve, Row, grid_rows

__all__ = ["DDIM", "Ancestral"]


@register("ddim")
class DDIM(Solver):
    r"""x_s = alpha_s D + sqrt(sigma_s^2 - v) eps + sqrt(v) z with v = eta^2 sigma_s^2 (1 - e^{-2h}).

    Order 1 (weak order 1 for eta > 0), one evaluation a step. eta = 1 is the DDPM posterior. The step is written in
    x0, so that it stays finite at alpha = 0 (first node) and sigma = 0 (last node).

    Args:
        eta: Share of the posterior standard deviation that is drawn anew, in [0, 1].

    Raises:
        ValueError: If ``eta`` is outside [0, 1].

    References: Song, Meng, Ermon 2021 (DDIM), eq. 12 and 16.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {eta}.")
        self.eta = eta
        self.needs_score = eta > 0

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        still = curve.s == curve.t
        variance = self.eta**2 * curve.sigma_s**2 * (1 - curve.decay**2)
        kept = torch.where(still, 1.0, (curve.sigma_s**2 - variance).clamp_min(0).sqrt() / curve.sigma_t)
        return {
            "x": kept,
            "m0": torch.where(still, 0.0, curve.alpha_s - curve.alpha_t * kept),
            "noise": torch.where(still, 0.0, variance.sqrt()),
        }


@register("ancestral")
class Ancestral(Solver):
    """The reverse Markov chain: posterior mean, and noise of the posterior or of the forward transition.

    Args:
        variance: ``"posterior"`` (sigma_s^2 (1 - e^{-2h}), exact for a point mass) or ``"forward"`` (sigma_{t|s}^2, the
            upper choice of Ho et al. 2020 and the VP sampler of Song et al. 2021; none in a step to sigma = 0).

    Raises:
        ValueError: If ``variance`` is neither.

    References: Ho et al. 2020 (DDPM), eq. 7 and section 3.2.
    """

    needs_score = True

    def __init__(self, variance: Literal["posterior", "forward"] = "posterior") -> None:
        if variance not in ("posterior", "forward"):
            raise ValueError(f"variance must be 'posterior' or 'forward', got {variance!r}.")
        self.variance = variance

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        filled = DDIM(eta=1.0).fill(curve, rows)
        if self.variance == "forward":
            alpha_ratio = curve.alpha_t / curve.alpha_s
            forward = (curve.sigma_t**2 - alpha_ratio**2 * curve.sigma_s**2).clamp_min(0).sqrt()
            filled["noise"] = torch.where((curve.s == curve.t) | (curve.sigma_s == 0), 0.0, forward)
        return filled
