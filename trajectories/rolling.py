r"""A rolling window: forecasts of any length, one frame at a time, from a model with a noise level per frame.

Behind the last ``keep`` clean frames lie W noisy ones at the levels t_j = (j + 1) / W. A pass lowers every level by
1 / W: the first frame becomes clean and is handed out, the window moves on, and pure noise is added at its end. Frames
far ahead thus stay undecided until they come near. When the window moves, the mean x_r that the clean frames suggest
moves too; the noisy frames are carried over exactly, x_t <- x_t + (1 - alpha) (x_r' - x_r), with the same data and
noise behind them.

Reference: Ruhe et al. 2024, "Rolling Diffusion Models".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scidiff import random
from scidiff.noise import NoiseSource
from scidiff.samplers import sample
from trajectories.batch import TrajectoryBatch
from trajectories.generator import TrajectoryGenerator

__all__ = ["roll"]


@torch.no_grad()
def roll(
    generator: TrajectoryGenerator,
    observed: Any,
    num_frames: int,
    *,
    window: int = 20,
    keep: int = 10,
    steps_per_frame: int = 2,
    num_samples: int = 1,
    solver: str = "dpmpp_2m",
    seed: random.Seeds = 0,
    **features: Any,
) -> TrajectoryBatch:
    """Go on from observed frames with a rolling window.

    Args:
        generator: A model that was trained with independent levels (``TaskMix(independent=...)``), about a moving mean.
        observed: As for `TrajectoryGenerator.forecast`, at least ``keep`` frames.
        num_frames: Frames to add.
        window: Noisy frames W.
        keep: Clean frames that the model sees.
        steps_per_frame: Solver steps of a pass.
        num_samples: Samples of each system.
        solver: A deterministic solver.
        seed: Seed, or one a sample.
        features: ``h``, ``edge_attr``, ``node_mask`` of the systems, if ``observed`` is an array.

    Returns:
        The observed frames and, after them, the new ones.

    Raises:
        ValueError: If a number is out of range, there are too few frames, or the model has no moving mean.
    """
    batch = TrajectoryBatch.of(observed, **features)
    if min(num_frames, window, keep, steps_per_frame, num_samples) < 1 or batch.pos.shape[2] < keep:
        raise ValueError(
            "num_frames, window, keep, steps_per_frame and num_samples must be positive and there must be at least "
            f"keep={keep} observed frames, got {batch.pos.shape[2]}."
        )
    schedule = next(iter(generator.denoiser.process.continuous.values())).schedule
    if not schedule.has_endpoint:
        raise ValueError("a rolling window needs a model about a moving mean, such as prior='walk'.")
    seeds = random.seed_pairs(seed, len(batch) * num_samples)
    start = replace(batch, pos=batch.pos[:, :, -keep:])
    first = generator.forecast(start, window, num_samples, seed=seeds, solver=solver)
    rows = torch.arange(len(batch)).repeat_interleave(num_samples)
    batch, nfe = batch.index(rows), first.meta["nfe"]
    roller = _Roller(generator, first, keep, seeds)
    found = []
    for _ in range(num_frames):
        found.append(roller.advance(solver, steps_per_frame))
        nfe += steps_per_frame
    pos = torch.cat([batch.pos, torch.stack(found, 2).to(batch.pos)], 2)
    meta = {"nfe": nfe, "num_samples": num_samples, "cond_frames": batch.pos.shape[2], "solver": solver}
    return replace(batch, pos=pos, meta=meta)


class _Roller:
    """The window: ``keep`` clean and W noisy frames (B, keep + W, N, D) of the same origin, in units of the model."""

    def __init__(
        self, generator: TrajectoryGenerator, forecast: TrajectoryBatch, keep: int, seeds: list[tuple[int, int]]
    ) -> None:
        self.generator, self.keep = generator, keep
        b, n, f, _ = forecast.pos.shape
        given = (torch.arange(f) < keep)[None, :, None].expand(b, f, n)
        system = generator._arranged(forecast, given)
        self.origin, self.cond = system.origin, system.cond
        self.source = NoiseSource([(s, i + _STREAM) for s, i in seeds], b, device=system.x_0.device)
        self.mean = self._mean(system.x_0)
        width = f - keep
        level = torch.arange(1, width + 1, device=system.x_0.device) / width
        self.levels = torch.cat([level.new_full((keep,), float(level[0])), level]).double()
        eps = self.source.normal(system.x_0, "roll")
        times = self.levels.to(system.x_0).expand(b, f)
        x, _ = self.process.perturb(system.x_0, times, eps, x_1=self.mean, cond=self.cond)
        assert isinstance(x, Tensor)
        self.x = x

    @property
    def process(self) -> Any:
        """Process of the model."""
        return self.generator.denoiser.process

    def advance(self, solver: str, steps: int) -> Tensor:
        """One pass; the positions (B, N, D) of the frame that became clean."""
        width = self.x.shape[1] - self.keep
        share = torch.arange(steps + 1, dtype=torch.float64)[:, None] / steps
        grid = (self.levels.cpu() - share / width).clamp_min(0.0)
        options = {"solver": solver, "cond": self.cond, "x_1": self.mean, "grid": grid}
        x = sample(self.generator.denoiser, self.x, **options)
        assert isinstance(x, Tensor)
        clean = x[:, self.keep]
        self._shift(x, grid[-1])
        return (clean + self.origin[:, 0]) * self.generator.scale

    def _shift(self, x: Tensor, times: Tensor) -> None:
        """The window one frame on: a new mean, and noise at its end."""
        x = torch.cat([x[:, 1:], x[:, -1:]], 1)
        before = torch.cat([self.mean[:, 1:], self.mean[:, -1:]], 1)
        self.mean = self._mean(x)
        schedule = next(iter(self.process.continuous.values())).schedule
        weight = schedule.endpoint(torch.cat([times[1:], times[-1:]])).to(x)[:, None, None]
        fresh = self.mean[:, -1:] + schedule.prior_std * self.source.normal(x[:, -1:], "roll")
        moved = torch.cat([(x + weight * (self.mean - before))[:, :-1], fresh], 1)
        self.x = torch.where(self.cond["given"][..., None], x, moved)

    def _mean(self, x: Tensor) -> Tensor:
        return self.generator.prior(x, self.cond["given"], self.cond)


_STREAM = 1 << 40  # draws of the window are told apart from those of the first forecast
