"""S4: Langevin correction and symmetric splitting of the reverse SDE with one evaluation a step, made for systems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.samplers.base import register
from scidiff.samplers.predictor_corrector import LangevinSolver, langevin_row, refuse_vector_time
from scidiff.samplers.rows import Curve, Row, grid_rows, interval_ends, like_rows

__all__ = ["S4"]


@register("s4")
class S4(LangevinSolver):
    r"""With m = (t + s)/2: correct at t, linear half step t -> m, score step, linear half step m -> s.

    Correction x + delta score + scale sqrt(2 delta) z with delta = 2 a (snr |z|/|score|)^2 as in `PredictorCorrector`,
    for each component and sample; half step x/alpha_{t|m} + noise of variance sigma_{t|m}^2/alpha_{t|m}^2; score step
    x + (t - s) g(t)^2 score with the score of the step's only evaluation. The last step returns its mean. Weak order 1:
    the splitting saves evaluations, not order. Singular at alpha = 0.

    Args:
        snr: Signal-to-noise ratio of the correction; 0 switches it off.
        scale_eps: Factor of the noise of the correction.
        legacy_variance: Variance sigma_{t|m}^2 in the half steps, without the division by alpha_{t|m}^2, as published
            for variance-preserving components.
        batch_norms: Average both norms over the batch, as the published sampler does; this couples the samples.

    Raises:
        ValueError: If ``snr`` is negative, or times differ between elements.

    References: Jo, Lee and Hwang 2022 (GDSS), section 3.3 and appendix (S4 solver).
    """

    def __init__(
        self, snr: float = 0.15, scale_eps: float = 0.7, legacy_variance: bool = False, batch_norms: bool = False
    ) -> None:
        if snr < 0:
            raise ValueError(f"snr must be at least 0, got {snr}.")
        self.snr, self.scale_eps, self.legacy_variance = snr, scale_eps, legacy_variance
        self.batch_norms = batch_norms

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        refuse_vector_time(self, grid)
        rows = []
        for row in grid_rows(grid):
            t, s, middle, i = row.t, row.s, (row.t + row.s) / 2, row.step
            correction = Row(t, t, i, is_last=False, corrects=True)
            half_and_score = Row(t, middle, i, evaluate=False, is_last=False)
            rows += [correction, half_and_score, Row(middle, s, i, evaluate=False)]
        return rows

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        begin, end = interval_ends(rows)
        corrects = like_rows([row.corrects for row in rows], curve.t)
        correction = langevin_row(Curve(curve.schedule, begin, end), self.snr, self.scale_eps)
        variance = curve.forward_variance
        if not self.legacy_variance:
            variance = variance / curve.forward_ratio**2
        scores = like_rows([not row.corrects and not row.is_last for row in rows], curve.t)
        score = (end - begin) * curve.schedule.diffusion(curve.t) ** 2 / curve.sigma_t
        half = {
            "x": 1 / curve.forward_ratio,
            "m0": torch.where(scores, score, 0.0),
            "noise": variance.sqrt(),
        }
        half["noise"][-1] = 0
        return {key: torch.where(corrects, correction[key], half[key]) for key in half}
