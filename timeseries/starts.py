r"""A start of guided flows that leans towards what is known, after TSFlow.

Noise x_1 ~ N(0, K) is moved, before the solver starts from it, by a few Langevin steps on

    E(x_1) = c sum max(q e, (q - 1) e) - log N(x_1; 0, K),    e = y - x_0 over the observed numbers,
    x_1 <- x_1 - eta grad E(x_1) + sqrt(2 eta) gamma xi,      xi ~ N(0, 1),

with x_0 reached from x_1 by a few Euler steps of the flow, and the quantile level q of each sample. Constants are the
published ones; there, xi is uniform on [0, 1], which drifts upwards, and levels run from .1 to .9.

References: Kollovieh et al. 2025 (TSFlow), conditional prior sampling of the unconditional model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance import Observation
from scidiff.noise import NoiseSource
from scidiff.process import Component
from scidiff.schedules import Linear

__all__ = ["EULER_STEPS", "check_start", "draw_start"]

EULER_STEPS = 4
_STEP_SIZE = 0.005
_TEMPERATURE = 0.5  # gamma
_STRENGTH = 16.0  # c
_APART = 2**61  # added to the numbers of the paths: the solver's own noise is independent of that of the start


def draw_start(
    denoiser: Denoiser,
    observation: Observation,
    levels: Tensor,
    shape: tuple[int, ...],
    seeds: Sequence[tuple[int, int]],
    iterations: int,
    *,
    step_size: float = _STEP_SIZE,
    temperature: float = _TEMPERATURE,
    strength: float = _STRENGTH,
) -> Tensor:
    """States (B, ...) at t = 1.

    Args:
        denoiser: Flow, see `check_start`.
        observation: What is known, a mask and values (B, ...).
        levels: Quantile level (B,) of each sample.
        shape: (B, ...).
        seeds: One a sample.
        iterations: Langevin steps; each costs `EULER_STEPS` network calls and as many backward passes.
        step_size: eta.
        temperature: gamma.
        strength: c.
    """
    check_start(denoiser)
    component = denoiser.process.continuous[""]
    assert isinstance(component, Component)
    device = next(denoiser.parameters()).device
    source = NoiseSource([(seed, number + _APART) for seed, number in seeds], shape[0], device=device)
    x = denoiser.process.prior(torch.zeros(shape, device=device), source)
    assert isinstance(x, Tensor)
    q = levels.to(x).reshape(-1, *(1,) * (x.ndim - 1))
    for _ in range(iterations):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            error = observation.residual({"": _follow(denoiser, leaf)})
            energy = strength * torch.maximum(q * error, (q - 1) * error).sum()
            energy = energy - component.law.log_prob(leaf, component.schedule.prior_std).sum()
            (slope,) = torch.autograd.grad(energy, leaf)
        x = x - step_size * slope + (2 * step_size) ** 0.5 * temperature * source.normal(x)
    return x


def check_start(denoiser: Denoiser) -> None:
    """Refuse what is not an unconditional flow from noise whose density is known.

    Raises:
        ValueError: See above.
    """
    component = denoiser.process.continuous.get("")
    if component is None or not isinstance(component.schedule, Linear) or not component.law.is_gaussian:
        raise ValueError("a start by Langevin steps is for flows from Gaussian noise (preset='flow'): leave start out.")


def _follow(denoiser: Denoiser, x: Tensor) -> Tensor:
    """x_0 by Euler steps from t = 1."""
    for k in range(EULER_STEPS):
        t = torch.full((len(x),), 1 - k / EULER_STEPS, device=x.device, dtype=x.dtype)
        x = x - denoiser(x, t).velocity / EULER_STEPS
    return x
