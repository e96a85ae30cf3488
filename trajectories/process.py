r"""The process of trajectories: variance preserving around a moving mean x_r, on the entries that are not given.

    x_t = x_r + alpha(t) (x_0 - x_r) + sigma(t) eps,    alpha^2 + sigma^2 = 1

so y = x - x_r is an ordinary variance-preserving diffusion and every solver of the core works on it. States are (B, F,
N, D), frames first, so that a time (B, F) is a noise level for each frame.

Han et al. 2024, "Geometric Trajectory Diffusion Models" (GeoTDM), eq. 4-5 and 9-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.laws import NoiseLaw
from scidiff.noise import Masked
from scidiff.process import Process
from scidiff.schedule_base import Schedule, VariancePreserving
from scidiff.schedules import VPSDE, DiscreteVP

__all__ = [
    "CENTRED",
    "LIVE",
    "MovingMean",
    "TrajectorySpace",
    "published_schedule",
    "trajectory_process",
    "whitened_process",
]

LIVE, CENTRED = "live", "centred"
Cond = Mapping[str, Any] | None


class MovingMean(VariancePreserving):
    """A variance-preserving schedule around x_1: alpha and sigma of ``base``, beta = 1 - alpha.

    Args:
        base: Schedule of x - x_1; `VPSDE` by default.
    """

    def __init__(self, base: VariancePreserving | None = None) -> None:
        self.base = base if base is not None else VPSDE()
        self.t_min, self.t_max = self.base.t_min, self.base.t_max

    @property
    def prior_endpoint(self) -> float:
        """1: the part alpha(1) x_0 that is left at t = 1 is counted as alpha(1) x_1."""
        return 1.0

    def log_alpha(self, t: Tensor) -> Tensor:
        return self.base.log_alpha(t)

    def endpoint(self, t: Tensor) -> Tensor:
        """beta(t) = 1 - alpha(t)."""
        return -torch.expm1(self.base.log_alpha(t))

    def endpoint_dot(self, t: Tensor) -> Tensor:
        return -self.alpha_dot(t)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return self.base.drift_coefficient(t)

    def time(self, lam: Tensor) -> Tensor:
        return self.base.time(lam)


class TrajectorySpace(Masked):
    """Entries that are not given, (B, F, N, D); with a mean of zero where the whole system is unknown.

    Reads two masks from ``cond``: ``"live"`` (B, F, N), True where an entry is noised (all if absent), and
    ``"centred"`` (B,), True for systems without any given entry. Their mean over all nodes and frames is zero, which
    leaves (F N - 1) D dimensions; beside given entries the noise is free, because they hold the origin.
    """

    def __init__(self) -> None:
        super().__init__(LIVE)

    def project(self, x: Tensor, cond: Cond) -> Tensor:
        live = self.live(x, cond)
        x = x if live is None else torch.where(live, x, 0)
        centred = None if cond is None else cond.get(CENTRED)
        if centred is None:
            return x
        live = torch.ones_like(x[..., :1], dtype=torch.bool) if live is None else live
        mean = x.sum((1, 2), keepdim=True) / live.sum((1, 2), keepdim=True).clamp_min(1)
        return torch.where(live & centred.reshape(-1, 1, 1, 1), x - mean, x)

    def dims(self, x: Tensor, cond: Cond) -> Tensor:
        total = self.count(x, cond)
        centred = None if cond is None else cond.get(CENTRED)
        return total if centred is None else total - x.shape[-1] * (centred & (total > 0)).to(total)


def published_schedule(num_levels: int = 1000) -> DiscreteVP:
    """Betas from 1e-4 to 0.02 for 1000 levels, larger in proportion for fewer."""
    return DiscreteVP.linear(1e-4 * 1000 / num_levels, 0.02 * 1000 / num_levels, num_levels)


def trajectory_process(schedule: Schedule | None = None, law: NoiseLaw | None = None) -> Process:
    """Process of trajectories.

    Args:
        schedule: A variance-preserving schedule of x - x_r, `VPSDE` by default; or one with an endpoint of its own,
            such as `MeanReverting`, whose ``max_sigma`` is the size of the noise in units of the model.
        law: Law of the noise, Gaussian by default. With `StudentTNoise` one chi-square serves all entries of a system
            that are not given: Student-t noise in the (F N - 1) D dimensions about the centre, if none is.

    Raises:
        TypeError: If the schedule is of another kind.
    """
    if schedule is not None and schedule.has_endpoint:
        return Process(schedule, law, TrajectorySpace())
    if schedule is not None and not isinstance(schedule, VariancePreserving):
        raise TypeError(f"expected a variance-preserving schedule or one with an endpoint, got {schedule!r}.")
    return Process(MovingMean(schedule), law, TrajectorySpace())


def whitened_process(schedule: Schedule | None = None, law: NoiseLaw | None = None) -> Process:
    """Process of whitened trajectories (x - mean) / spread, which have no endpoint.

    Args:
        schedule: A variance-preserving schedule, `VPSDE` by default.
        law: Law of the noise, Gaussian by default.

    Raises:
        TypeError: If the schedule is of another kind.
    """
    schedule = schedule if schedule is not None else VPSDE()
    if not isinstance(schedule, VariancePreserving):
        raise TypeError(f"expected a variance-preserving schedule, got {schedule!r}.")
    return Process(schedule, law, TrajectorySpace())
