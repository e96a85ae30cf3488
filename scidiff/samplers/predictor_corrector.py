"""Reverse diffusion, and the predictor-corrector sampler: Langevin steps at one noise level, then a step in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.samplers.base import Plan, Solver, register
from scidiff.samplers.euler import EulerMaruyama
from scidiff.samplers.rows import Curve, Row, grid_rows, interval_ends, like_rows
from scidiff.schedules import expand_like

__all__ = ["LangevinSolver", "PredictorCorrector", "ReverseDiffusion", "langevin_row", "refuse_vector_time"]


@register("reverse_diffusion")
class ReverseDiffusion(Solver):
    r"""x_s = x_t - F + G^2 score + G z with F = (alpha_{t|s} - 1) x_t, G^2 = sigma_{t|s}^2 of the forward step s -> t.

    Weak order 1, one evaluation a step.

    Args:
        flow: Half the score and no noise: the deterministic variant.
        last_mean: Leave out the noise of the last step.

    References: Song et al. 2021, appendix E (reverse diffusion sampler).
    """

    model = "eps"

    def __init__(self, flow: bool = False, last_mean: bool = False) -> None:
        self.flow, self.last_mean = flow, last_mean
        self.needs_score = not flow

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        return grid_rows(grid)

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        variance = curve.forward_variance
        noise = torch.zeros_like(variance) if self.flow else variance.sqrt()
        if self.last_mean:
            noise[-1] = 0
        score = -variance / curve.sigma_t * (0.5 if self.flow else 1)
        return {"x": 2 - curve.forward_ratio, "m0": torch.where(curve.still, 0.0, score), "noise": noise}


class LangevinSolver(Solver):
    """Base of solvers with rows that correct: the step size of such a row follows from the norms of noise and score."""

    model = "eps"
    needs_score = True
    batch_norms: bool = False

    def step(
        self,
        plan: Plan,
        i: int,
        x: dict[str, Tensor],
        anchor: dict[str, Tensor],
        history: Sequence[dict[str, Tensor]],
        noise: dict[str, Tensor] | None,
        x_1: Mapping[str, Tensor] | None = None,
        norm: Callable[[str, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Row ``i``; in a correction eps is scaled by (|z|/|eps|)^2 and the noise by |z|/|eps|."""
        if plan.rows[i].corrects and noise is not None:
            size = norm or _norm
            gains = {
                name: _ratio(size(name, noise[name]), size(name, eps), eps, self.batch_norms)
                for name, eps in history[0].items()
            }
            history = ({name: gains[name] ** 2 * eps for name, eps in history[0].items()},)
            noise = {name: gains[name] * noise[name] for name in gains}
        return super().step(plan, i, x, anchor, history, noise, x_1, norm)


@register("pc")
class PredictorCorrector(LangevinSolver):
    r"""Langevin corrections at t, then a predictor step to s; 1 + ``corrector_steps`` evaluations a step.

    A correction is x + delta score + sqrt(2 delta) z with delta = 2 a (snr |z|/|score|)^2 and a = alpha_{t|s}^2 (1 -
    beta_i of a variance-preserving chain, 1 of a variance-exploding one). Norms are those of each sample and component
    on its space, so that neither batch nor padding changes a sample; |z|/|score| = sigma |z|/|eps|. For a correlated
    law they are those of the whitened noise and score.

    Args:
        snr: Signal-to-noise ratio of the corrections; 0 switches them off (but not their evaluations).
        corrector_steps: Corrections at each time.
        predictor: ``"reverse_diffusion"`` or ``"euler_maruyama"``.
        corrector: ``"langevin"``, or ``"ald"`` for annealed Langevin dynamics, delta = 2 a (snr sigma)^2.
        batch_norms: Average both norms over the batch, as the published sampler does; this couples the samples.
        scale_eps: Factor of the noise of the corrections (Jo et al. 2022 take 0.7 to 0.9).
        last_mean: Leave out the noise of the last predictor step.

    Raises:
        ValueError: If an argument is out of range, or times differ between elements.

    References: Song et al. 2021, algorithms 2 to 5 (appendix G).
    """

    def __init__(
        self,
        snr: float = 0.16,
        corrector_steps: int = 1,
        predictor: Literal["reverse_diffusion", "euler_maruyama"] = "reverse_diffusion",
        corrector: Literal["langevin", "ald"] = "langevin",
        batch_norms: bool = False,
        scale_eps: float = 1.0,
        last_mean: bool = True,
    ) -> None:
        predictors = {"reverse_diffusion": ReverseDiffusion(), "euler_maruyama": EulerMaruyama()}
        if snr < 0 or corrector_steps < 0 or predictor not in predictors or corrector not in ("langevin", "ald"):
            raise ValueError(
                f"expected snr >= 0, corrector_steps >= 0, a predictor of {sorted(predictors)} and corrector "
                f"'langevin' or 'ald', got {snr}, {corrector_steps}, {predictor!r}, {corrector!r}."
            )
        self.snr, self.corrector_steps, self.corrector = snr, corrector_steps, corrector
        self.batch_norms, self.scale_eps, self.last_mean = batch_norms, scale_eps, last_mean
        self._predictor = predictors[predictor]

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        refuse_vector_time(self, grid)
        rows = []
        for row in grid_rows(grid):
            correction = replace(row, s=row.t, is_last=False, corrects=self.corrector == "langevin")
            rows += [replace(correction) for _ in range(self.corrector_steps)] + [row]
        return rows

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        begin, end = interval_ends(rows)
        whole = Curve(curve.schedule, begin, end)
        filled = self._predictor.fill(whole, rows)
        is_correction = like_rows([not row.is_last for row in rows], curve.t)
        correction = langevin_row(whole, self.snr, self.scale_eps)
        filled = {key: torch.where(is_correction, correction[key], value) for key, value in filled.items()}
        if self.last_mean:
            filled["noise"][-1] = 0
        return filled


def langevin_row(curve: Curve, snr: float, scale: float = 1.0) -> dict[str, Tensor]:
    """x - (delta/sigma) eps + scale sqrt(2 delta) z with delta = 2 alpha_{t|s}^2 (snr sigma)^2, for equal norms."""
    ratio = curve.forward_ratio
    return {
        "x": torch.ones_like(ratio),
        "m0": -2 * (ratio * snr) ** 2 * curve.sigma_t,
        "noise": 2 * scale * snr * ratio * curve.sigma_t,
    }


def refuse_vector_time(solver: Solver, grid: Tensor) -> None:
    """Raise for a grid with an element axis.

    Raises:
        ValueError: If the grid has one.
    """
    if grid.ndim > 1:
        raise ValueError(
            f"solver {type(solver).__name__} needs one time for all elements, got a grid of shape {tuple(grid.shape)}: "
            "its step sizes are norms over a sample. Use dpmpp_2m, unipc_2, ddim, ... for vector times."
        )


def _norm(name: str, x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _ratio(top: Tensor, bottom: Tensor, like: Tensor, over_batch: bool) -> Tensor:
    """Quotient of norms (B,), shaped (B, 1, ...)."""
    if over_batch:
        top, bottom = top.mean().expand_as(top), bottom.mean().expand_as(bottom)
    return expand_like(top / bottom.clamp_min(torch.finfo(like.dtype).tiny), like)
