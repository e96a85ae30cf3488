"""Rows of a plan (which evaluations a solver makes, and where), and alpha, beta, sigma along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.schedules import Schedule

__all__ = [
    "Curve",
    "Row",
    "anchor_values",
    "grid_rows",
    "interval_ends",
    "is_singular",
    "known_nodes",
    "leading_nodes",
    "like_rows",
]


@dataclass
class Row:
    """One row: where it is evaluated and where it leads.

    Args:
        t: Time () or (elements,) of the state when the row starts; the model is evaluated there.
        s: Time of the state after the row.
        step: Index of the grid interval that the row belongs to.
        evaluate: Whether the model is called.
        mark: Whether the state at the start of the row becomes the anchor.
        is_last: Whether the row completes its grid interval.
        is_start: Whether the row is a first-order step in x0 whatever the solver combines (set by `Solver.plan`).
        corrects: Whether the row is a Langevin correction, whose step size follows from the norms of noise and score.
        is_jump: Whether the row re-noises a finished state (resampling), so that classes move down to its start and up.
    """

    t: Tensor
    s: Tensor
    step: int
    evaluate: bool = True
    mark: bool = False
    is_last: bool = True
    is_start: bool = False
    corrects: bool = False
    is_jump: bool = False


class Curve:
    """alpha, beta and sigma of one schedule between times ``t`` and ``s`` (rows [, elements]), float64 on the CPU."""

    def __init__(self, schedule: Schedule, t: Tensor, s: Tensor) -> None:
        self.schedule, self.t, self.s = schedule, t, s
        self.alpha_t, self.alpha_s = schedule.alpha(t), schedule.alpha(s)
        self.sigma_t, self.sigma_s = schedule.sigma(t), schedule.sigma(s)
        self.beta_t, self.beta_s = schedule.endpoint(t), schedule.endpoint(s)

    @property
    def still(self) -> Tensor:
        """Where s = t."""
        return self.s == self.t

    @property
    def decay(self) -> Tensor:
        """e^{-h} = alpha_t sigma_s/(alpha_s sigma_t), h = lambda_s - lambda_t; 1 where s = t, 0 where sigma_s = 0."""
        ratio = self.alpha_t * self.sigma_s / (self.alpha_s * self.sigma_t)
        return torch.where(self.still, 1.0, ratio)

    @property
    def shrink(self) -> Tensor:
        """sigma_s/sigma_t; 1 where s = t."""
        return torch.where(self.still, 1.0, self.sigma_s / self.sigma_t)

    @property
    def lam_t(self) -> Tensor:
        """lambda at t (may be infinite)."""
        return 0.5 * self.schedule.log_snr(self.t)

    @property
    def lam_s(self) -> Tensor:
        """lambda at s (may be infinite)."""
        return 0.5 * self.schedule.log_snr(self.s)

    @property
    def forward_ratio(self) -> Tensor:
        """alpha_{t|s} = alpha_t/alpha_s of the forward step s -> t; 1 where s = t."""
        return torch.where(self.still, 1.0, self.alpha_t / self.alpha_s)

    @property
    def forward_variance(self) -> Tensor:
        """sigma_{t|s}^2 = sigma_t^2 - alpha_{t|s}^2 sigma_s^2; 0 where s = t."""
        variance = self.sigma_t**2 - (self.forward_ratio * self.sigma_s) ** 2
        return torch.where(self.still, 0.0, variance.clamp_min(0))

    def first_order(self, model: str) -> tuple[Tensor, Tensor]:
        """(carry, weight) of x_s = carry x_t + weight m, exact for a constant model value m: DDIM in its two forms."""
        if model == "x0":
            return self.shrink, torch.where(self.still, 0.0, self.alpha_s - self.alpha_t * self.shrink)
        carry = torch.where(self.still, 1.0, self.alpha_s / self.alpha_t)
        return carry, torch.where(self.still, 0.0, self.sigma_s - carry * self.sigma_t)


def grid_rows(grid: Tensor) -> list[Row]:
    """One evaluation per grid interval."""
    return [Row(grid[i], grid[i + 1], i) for i in range(len(grid) - 1)]


def interval_ends(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """First and last time of the grid interval that each row belongs to, (rows [, elements])."""
    first = {row.step: row.t for row in reversed(rows)}
    last = {row.step: row.s for row in rows}
    return torch.stack([first[r.step] for r in rows]), torch.stack([last[r.step] for r in rows])


def is_singular(process: Process, t: Tensor, s: Tensor) -> bool:
    """True if lambda is infinite at an end of a step that some element of some component makes."""
    for component in process.continuous.values():
        ends = component.schedule.log_snr(torch.stack([t, s]))
        if bool((~torch.isfinite(ends).all(0) & (t != s)).any()):
            return True
    return False


def known_nodes(function: Callable[[Tensor], Tensor], rows: Sequence[Row], count: int) -> Tensor:
    """``function`` of the times of the ``count`` newest evaluations at each row, newest last axis first.

    Shape (rows [, elements], count); NaN where there are fewer, or where a first-order start in x0 cuts the history.
    """
    evaluated: list[int] = []
    index = torch.full((len(rows), count), -1)
    for i, row in enumerate(rows):
        if row.evaluate:
            evaluated = [i] if row.is_start or (evaluated and rows[evaluated[0]].is_start) else [i, *evaluated]
        recent = evaluated[:count]
        index[i, : len(recent)] = torch.tensor(recent, dtype=torch.int64)
    values = function(torch.stack([row.t for row in rows]))
    chosen = values[index.clamp_min(0)]  # (rows, count [, elements])
    known = (index >= 0).reshape(*index.shape, *(1,) * (values.ndim - 1))
    return torch.where(known, chosen, torch.nan).movedim(1, -1)


def leading_nodes(nodes: Tensor) -> Tensor:
    """How many of the first ``nodes`` (..., count) may be interpolated: finite, and not equal to the one before."""
    good = torch.isfinite(nodes)
    good[..., 1:] &= nodes[..., 1:] != nodes[..., :-1]
    return good.long().cumprod(-1).sum(-1)


def like_rows(flags: Sequence[bool], values: Tensor) -> Tensor:
    """One flag a row, shaped to broadcast against ``values`` (rows [, elements])."""
    return torch.tensor(flags, dtype=torch.bool).reshape(-1, *(1,) * (values.ndim - 1))


def anchor_values(values: Tensor, rows: Sequence[Row]) -> Tensor:
    """``values`` (rows, ...) at the start of the row that last marked the anchor."""
    index, marked = [], 0
    for i, row in enumerate(rows):
        marked = i if row.mark else marked
        index.append(marked)
    return values[index]
