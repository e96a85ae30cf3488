"""Where a run of the sampler starts: pure noise, trajectories noised to a level, a random base, a noisy history."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scidiff.noise import NoiseSource
from scidiff.process import Process
from trajectories.bases import RandomBase
from trajectories.priors import Prior
from trajectories.tasks import noised_history

__all__ = ["Start", "start_of"]


class Start(NamedTuple):
    """First state (B, F, N, D), grid of times, known endpoint and context of a run."""

    init: Tensor
    grid: str | Tensor
    x_1: Tensor | None
    cond: dict[str, Tensor]


def start_of(
    process: Process,
    prior: Prior,
    state: Tensor,
    x_1: Tensor | None,
    cond: dict[str, Tensor],
    source: NoiseSource,
    *,
    steps: int,
    level: float | None = None,
    history: float = 0.0,
) -> Start:
    """The start of a run.

    Args:
        process: Process of the model.
        prior: Moving mean of the model.
        state: State of `trajectories.diffusion.System.state` (B, F, N, D).
        x_1: Its endpoint, or None.
        cond: Its context.
        source: Noise of the start.
        steps: Solver steps, for the grid that leads down from a level.
        level: Diffusion time to which the state is noised; None for pure noise at t = 1.
        history: Noise level of given entries, 0 for none.

    Raises:
        ValueError: If the model knows no such start.
    """
    if isinstance(prior, RandomBase):
        if level is not None or history:
            raise ValueError("models that start from a random base know neither refinement nor noisy histories.")
        return Start(prior.draw(state, cond["given"], cond, source.normal(state, "base")), "uniform", None, cond)
    if history and x_1 is None:
        raise ValueError(
            "noise of given entries needs a model about a moving mean, such as prior='walk', trained with "
            "TaskMix(history=...), because an informed walk whitens by what is given: use history_level=0."
        )
    grid: str | Tensor = "logsnr"
    if level is None:
        init = process.prior(state, source, cond, x_1)
    else:
        eps = process.join(process.noise(process.split(state), source, cond))
        t = torch.full((len(state),), level, device=state.device)
        init, grid = process.perturb(state, t, eps, x_1=x_1, cond=cond)[0], _grid(process, level, steps)
    assert isinstance(init, Tensor)
    if history:
        levels = init.new_full((len(init),), history)
        init, cond = noised_history(process, init, x_1, cond, levels, source.normal(init, "history"))
    return Start(init, grid, x_1, cond)


def _grid(process: Process, level: float, steps: int) -> Tensor:
    """Times (steps + 1,) from ``level`` on, evenly in lambda."""
    schedule = next(iter(process.continuous.values())).schedule
    lam = schedule.log_snr(torch.tensor([level, schedule.t_min], dtype=torch.float64)) / 2
    return schedule.time(torch.linspace(float(lam[0]), float(lam[1]), steps + 1, dtype=torch.float64))
