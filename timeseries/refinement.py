r"""Refining somebody else's forecast with the density of a diffusion model.

Around noise time tau the energy of a window y is how badly the model recognises the noise that was added to it,

    E(y) = sum |eps - eps_theta(alpha y + sigma eps, tau)|^2 + lambda sum R(y, y~),

with fresh eps at every iteration and R the squared or quantile distance to the start y~ (observed values and the base
forecast). Langevin: y <- y - eta grad E + sqrt(2 eta) gamma xi; plain descent without the noise.

References: Kollovieh et al. 2023, section 4.2 (refinement, Langevin Monte Carlo and maximum likelihood).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import NoiseSource

__all__ = ["RefineOptions", "refine_windows", "representative_time"]

_NOISE = 0.1  # gamma: temperature .01, as published


@dataclass(frozen=True)
class RefineOptions:
    """How windows are refined.

    Attributes:
        steps: Iterations.
        step_size: eta; .1, the published value of most sets (.01 for exchange rates), diverges on the packaged models.
        sampler: ``"langevin"`` or ``"sgd"``.
        loss: R: ``"ms"`` or ``"quantile"``.
        strength: lambda.
        on: ``"all"`` regularises the whole window, ``"observed"`` what is observed.
        rows: Windows times samples that are computed together.
    """

    steps: int = 20
    step_size: float = 0.01
    sampler: str = "langevin"
    loss: str = "quantile"
    strength: float = 1.0
    on: str = "all"
    rows: int = 512

    def __post_init__(self) -> None:
        given = (self.sampler, self.loss, self.on)
        allowed = (("langevin", "sgd"), ("ms", "quantile"), ("all", "observed"))
        if any(value not in names for value, names in zip(given, allowed)):
            raise ValueError(f"expected sampler, loss and on out of {allowed}, got {given}.")
        if self.steps < 0 or self.step_size <= 0 or self.strength < 0 or self.rows < 1:
            raise ValueError("expected steps >= 0, step_size > 0, strength >= 0 and rows >= 1.")


def refine_windows(
    denoiser: Denoiser,
    start: Tensor,
    observed: Tensor,
    levels: Tensor,
    t: float,
    seeds: Sequence[tuple[int, int]],
    options: RefineOptions,
) -> Tensor:
    """Refined windows.

    Args:
        denoiser: Model; its parameters should need no gradient.
        start: y~ (B, L, D, channels) in scaled units.
        observed: Mask of the same shape.
        levels: Quantile level (B,) of each row.
        t: Noise time tau.
        seeds: One a row.
        options: What to do.

    Returns:
        (B, L, D, channels).
    """
    device = next(denoiser.parameters()).device
    parts = []
    with torch.inference_mode(False):
        for begin in range(0, len(start), options.rows):
            part = slice(begin, begin + options.rows)
            y0 = torch.clone(start[part]).to(device)
            weight = observed[part].to(device) | (options.on == "all")
            q = levels[part].to(y0).reshape(-1, *(1,) * (y0.ndim - 1))
            source = NoiseSource(list(seeds[part]), len(y0), device=device)
            parts.append(_descend(denoiser, y0, weight, q, t, source, options).cpu())
    return torch.cat(parts)


def _descend(
    denoiser: Denoiser, start: Tensor, weight: Tensor, q: Tensor, t: float, source: NoiseSource, options: RefineOptions
) -> Tensor:
    process = denoiser.process
    time = torch.full((len(start),), t, device=start.device, dtype=start.dtype)
    y = start
    for _ in range(options.steps):
        noise = process.join(process.noise(process.split(start), source))
        with torch.enable_grad():
            leaf = y.detach().requires_grad_(True)
            x_t, _ = process.perturb(leaf, time, noise)
            energy = (noise - denoiser(x_t, time).eps).square().sum()
            error = start - leaf
            penalty = error.square() if options.loss == "ms" else torch.maximum(q * error, (q - 1) * error)
            energy = energy + options.strength * torch.where(weight, penalty, 0).sum()
            (gradient,) = torch.autograd.grad(energy, leaf)
        y = y - options.step_size * gradient
        if options.sampler == "langevin":
            xi = process.join(process.noise(process.split(start), source))
            y = y + (2 * options.step_size) ** 0.5 * _NOISE * xi
    return y


def representative_time(
    denoiser: Denoiser, states: Tensor, observed: Tensor, num_times: int = 100, seed: int = 0
) -> float:
    """The time whose eps loss on ``states`` (N, L, D, channels) is nearest to the mean over ``num_times`` times.

    Times are the levels (i + 1)/num_times of a variance-preserving process, else evenly spaced in log SNR.
    """
    schedule = next(iter(denoiser.process.continuous.values())).schedule
    fraction = (torch.arange(num_times, dtype=torch.float64) + 1) / num_times
    times = fraction
    if float(schedule.sigma(torch.ones((), dtype=torch.float64))) > 1:
        ends = 0.5 * schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
        times = schedule.time(torch.lerp(ends[0], ends[1], fraction))
    generator = torch.Generator().manual_seed(seed)
    device = next(denoiser.parameters()).device
    losses = []
    with torch.no_grad():
        for i, t in enumerate(times.tolist()):  # a share of the states at each time
            part = slice(i % len(states), None, num_times) if len(states) > num_times else slice(None)
            x_0, mask = states[part].to(device), observed[part].to(device)
            time = torch.full((len(x_0),), t, device=device, dtype=x_0.dtype)
            x_t, eps = denoiser.process.perturb(x_0, time, generator=generator)
            assert isinstance(x_t, Tensor)
            assert isinstance(eps, Tensor)
            error = torch.where(mask, (denoiser(x_t, time).eps - eps).square(), 0)
            losses.append(float(error.sum() / mask.sum().clamp_min(1)))
    values = torch.tensor(losses, dtype=torch.float64)
    return float(times[(values - values.mean()).abs().argmin()])
