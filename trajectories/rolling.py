r"""A rolling window: forecasts of any length, one frame at a time, from a model with a noise level per frame.

Behind the last ``keep`` clean frames lie W noisy ones, at first at the levels t_j = (j + 1) / W. A pass lowers the
level of frame j to its share j / (j + 1): the first frame becomes clean and is handed out, the window moves on, and
pure noise is added at its end. Frames far ahead thus stay undecided until they come near.

When the window moves, what the clean frames suggest moves too, from the mean m and the spread s of an entry to m' and
s'. The noisy entry is carried over exactly, with the same data and noise behind it:

    about a moving mean          x_t <- x_t + (1 - alpha) (m' - m),    at the same level
    about an `InformedWalk`      y_t <- (r y_t + alpha (m - m') / s') / c,    r = s / s',  c^2 = alpha^2 + r^2 sigma^2

y_t = alpha (x_0 - m) / s + sigma eps becomes alpha / c (x_0 - m') / s' + r sigma / c eps, a state about m' and s' at
the time t' with lambda(t') = lambda(t) - log r. Spreads shrink as the clean frames come near, so noise grows in their
units; they differ from node to node, so every entry then has a level of its own.

Reference: Ruhe et al. 2024, "Rolling Diffusion Models". The change of units is ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from scidiff import random
from scidiff.denoiser import Denoiser
from scidiff.noise import Masked, NoiseSource
from scidiff.process import Process
from scidiff.progress import Bar
from scidiff.samplers import sample
from scidiff.schedule_base import Schedule
from trajectories.bases import RandomBase
from trajectories.batch import TrajectoryBatch
from trajectories.generator import TrajectoryGenerator
from trajectories.informed import InformedWalk
from trajectories.process import LIVE

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
    device: str | torch.device | None = None,
    progress: bool = False,
    **features: Any,
) -> TrajectoryBatch:
    """Go on from observed frames with a rolling window.

    Args:
        generator: A model that was trained with independent levels (``TaskMix(independent=...)``), about a moving mean
            or an `InformedWalk`; of the packaged ones ``ethanol_all_tasks``.
        observed: As for `TrajectoryGenerator.forecast`, at least ``keep`` frames.
        num_frames: Frames to add.
        window: Noisy frames W.
        keep: Clean frames that the model sees.
        steps_per_frame: Solver steps of a pass.
        num_samples: Samples of each system.
        solver: A deterministic solver.
        seed: Seed, or one a sample.
        device: Where to compute; stays the device of the generator.
        progress: Show a bar.
        features: ``h``, ``edge_attr``, ``node_mask`` of the systems, if ``observed`` is an array.

    Returns:
        The observed frames and, after them, the new ones.

    Raises:
        ValueError: If a number is out of range, there are too few frames, or the model has another prior or law.
    """
    batch = TrajectoryBatch.of(observed, **features)
    if min(num_frames, window, keep, steps_per_frame, num_samples) < 1 or batch.pos.shape[2] < keep:
        raise ValueError(
            "num_frames, window, keep, steps_per_frame and num_samples must be positive and there must be at least "
            f"keep={keep} observed frames, got {batch.pos.shape[2]}."
        )
    component = next(iter(generator.denoiser.process.continuous.values()))
    if isinstance(generator.prior, RandomBase) or not component.law.is_gaussian:
        raise ValueError(
            "a rolling window needs Gaussian noise about a moving mean or an informed walk, one frame after the other, "
            f"got {generator.prior!r} and {component.law!r}. Use generator.rollout instead."
        )
    seeds = random.seed_pairs(seed, len(batch) * num_samples)
    start = replace(batch, pos=batch.pos[:, :, -keep:])
    first = generator.forecast(start, window, num_samples, seed=seeds, solver=solver, device=device)
    batch = batch.index(torch.arange(len(batch)).repeat_interleave(num_samples))
    roller = _Roller(generator, first, keep, seeds)
    found = []
    with Bar(num_frames, progress) as bar:
        for _ in range(num_frames):
            found.append(roller.advance(solver, steps_per_frame).to(batch.pos))
            bar.advance()
    pos = torch.cat([batch.pos, torch.stack(found, 2)], 2)
    meta = {"nfe": first.meta["nfe"] + roller.nfe, "num_samples": num_samples, "solver": solver}
    meta["cond_frames"] = batch.pos.shape[2]
    return replace(first, pos=pos, meta=meta)


class _Roller:
    """The window: ``keep`` clean and W noisy frames of the same origin, in units of the model.

    ``state`` is (B, F, N, D); ``times``, float64 on the CPU, (F,), or (B, F, N) about an informed walk.
    """

    def __init__(
        self, generator: TrajectoryGenerator, forecast: TrajectoryBatch, keep: int, seeds: list[tuple[int, int]]
    ) -> None:
        self.generator, self.keep, self.nfe = generator, keep, 0
        b, n, f, _ = forecast.pos.shape
        given = (torch.arange(f) < keep)[None, :, None].expand(b, f, n)
        self.system = generator._arranged(forecast, given)
        state, self.ends, self.cond = self.system.state(generator.prior)
        self.source = NoiseSource([(s, i + _STREAM) for s, i in seeds], b, device=state.device)
        level = torch.arange(1, f - keep + 1, dtype=torch.float64) / (f - keep)
        self.times = torch.cat([level[:1].expand(keep), level])
        if self.is_whitened:
            self.times = self.times[None, :, None].expand(b, f, n)
        eps = self.source.normal(state, "roll")
        times = self.times.to(state.device).expand(b, f, *self.times.shape[2:])
        x, _ = generator.denoiser.process.perturb(state, times, eps, x_1=self.ends, cond=self.cond)
        assert isinstance(x, Tensor)
        self.state = x

    @property
    def is_whitened(self) -> bool:
        """True about an informed walk."""
        return isinstance(self.generator.prior, InformedWalk)

    @property
    def schedule(self) -> Schedule:
        """Schedule of the model."""
        return next(iter(self.generator.denoiser.process.continuous.values())).schedule

    def advance(self, solver: str, steps: int) -> Tensor:
        """One pass; the positions (B, N, D) of the frame that became clean."""
        number = torch.arange(self.state.shape[1] - self.keep, dtype=torch.float64)
        kept = torch.cat([number.new_zeros(self.keep), number / (number + 1)])  # of the level of each frame
        kept = kept[:, None] if self.is_whitened else kept
        share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        grid = torch.stack([self.times * (1 - s * (1 - kept)) for s in share])
        self.state = self._denoised(grid, solver)
        clean = self.system.positions(self.state, self.cond)[:, self.keep]
        clean = torch.where(self.cond[LIVE][:, self.keep, :, None], clean, 0)
        self._move(clean - self.system.origin[:, 0], grid[-1])
        return clean * self.generator.scale

    def _denoised(self, grid: Tensor, solver: str) -> Tensor:
        """The state at the end of ``grid``."""
        den, state = self.generator.denoiser, self.state
        if not self.is_whitened:
            x, info = sample(den, state, solver=solver, cond=self.cond, x_1=self.ends, grid=grid, save="none")
        else:
            network = _ByEntry(den.network, state.shape, self.cond)
            part = {"prediction": den.prediction[""], "preconditioning": den.preconditioning}
            flat = Denoiser(network, Process(self.schedule, space=Masked(LIVE)), **part)
            live = {LIVE: self.cond[LIVE].reshape(1, -1)}
            entries = state.reshape(1, -1, state.shape[-1])
            x, info = sample(flat, entries, solver=solver, cond=live, grid=grid.flatten(1), save="none")
            x = x.reshape(state.shape)
        self.nfe += info.nfe
        return x

    def _move(self, clean: Tensor, times: Tensor) -> None:
        """The window one frame on, with the positions ``clean`` (B, N, D) of its new last given frame."""
        x_0 = self.system.x_0.clone()
        x_0[:, self.keep] = clean
        self.system.x_0 = _next(x_0)
        before, ends = self.cond, self.ends
        _, self.ends, self.cond = self.system.state(self.generator.prior)
        axis = 1 if self.is_whitened else 0
        state, times = _next(self.state), _next(times, axis)
        fresh = self.source.normal(state[:, -1:], "roll")
        if self.ends is not None and ends is not None:
            weight = self.schedule.endpoint(times).to(state)[:, None, None]
            state = state + weight * (self.ends - _next(ends))
            fresh = self.ends[:, -1:] + self.schedule.prior_std * fresh
        else:
            state, times = self._carried(state, times, _next(before["mean"]), _next(before["spread"]))
        state = torch.cat([state[:, :-1], fresh], 1)
        given = self.system.x_0 if self.ends is not None else torch.zeros_like(state)
        self.state = torch.where(self.cond[LIVE][..., None], state, given)
        times.narrow(axis, -1, 1).fill_(1.0)
        self.times = times

    def _carried(self, y: Tensor, times: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """The state about an old mean and spread, about the present ones, and its times; see the module.

        Times end at 1, where the prior counts what is left of the data as nothing.
        """
        time = times.to(y.device)
        alpha, sigma = self.schedule.alpha(time)[..., None], self.schedule.sigma(time)[..., None]
        ratio = (spread / self.cond["spread"]).double()
        moved = ratio * y + alpha * (mean - self.cond["mean"]) / self.cond["spread"]
        moved = moved * (alpha**2 + (ratio * sigma) ** 2).rsqrt()
        lam = (alpha / (ratio * sigma).clamp_min(_TINY)).log()[..., 0]
        return moved.to(y), self.schedule.time(lam).clamp_max(1.0).cpu()


class _ByEntry(nn.Module):
    """A network of states (B, F, N, D), for a sampler that takes all entries as elements of one sample."""

    def __init__(self, network: Any, shape: torch.Size, cond: dict[str, Tensor]) -> None:
        super().__init__()
        self.network, self.shape, self.cond = network, shape, cond

    def forward(self, y: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Output (1, B F N, D) of the network for ``y`` (1, B F N, D) at times ``t`` (1, B F N)."""
        return self.network(y.reshape(self.shape), t.reshape(self.shape[:3]), self.cond).reshape(y.shape)


def _next(value: Tensor, axis: int = 1) -> Tensor:
    """The values of the window one frame on; the last one stands for the frame that is new."""
    size = value.shape[axis]
    return torch.cat([value.narrow(axis, 1, size - 1), value.narrow(axis, size - 1, 1)], axis)


_STREAM = 1 << 40  # draws of the window are told apart from those of the first forecast
_TINY = 1e-12
