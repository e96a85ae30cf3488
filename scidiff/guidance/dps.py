r"""Diffusion posterior sampling: a gradient step on the misfit after every step of the solver."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.base import Guidance, Point, Shift, require_gaussian
from scidiff.guidance.observation import Observation
from scidiff.noise import NoiseSource
from scidiff.process import State

__all__ = ["DPS"]


class DPS(Guidance):
    r"""x_s = step(x_t) - zeta/|r| grad_x |r|^2 with r = y - H(x0(x_t)); |r| is the norm over one sample.

    The prediction is not changed: the gradient of the last evaluation moves the state after the step. One network call
    and one backward pass. ``H`` may be non-linear. zeta is a length in the units of the state and has to be tuned to
    the number of steps.

    Args:
        observation: What was measured; ``noise_std`` is not used.
        zeta: Step length.

    References: Chung et al. 2023, "Diffusion posterior sampling for general noisy inverse problems", algorithm 1.
    """

    needs_jacobian: ClassVar[bool] = True

    def __init__(self, observation: Observation, zeta: float = 1.0) -> None:
        self.observation, self.zeta = observation, float(zeta)
        self._move: Shift = {}

    def check(self, den: Denoiser) -> None:
        """Refuse finite D and unknown components."""
        require_gaussian(den, self)
        self.observation.check(den.process)
        self._process, self._move = den.process, {}

    def shift(self, point: Point) -> Shift:
        """Nothing; the step is kept for `constrain`."""
        with torch.enable_grad():
            norm = self.observation.residual(point.x0).flatten(1).square().sum(1).clamp_min(1e-30).sqrt()
            value = 2 * norm.sum()  # grad |r|^2 / |r| = 2 grad |r|
        slopes = point.gradients([value])
        self._move = {name: -self.zeta * point.metric(name, slope) for name, slope in slopes.items()}
        return {}

    def constrain(self, x: State, t: Tensor, source: NoiseSource) -> State:
        """Move the state by the gradient of the last evaluation, once."""
        parts, move = self._process.split(x), self._move
        self._move = {}
        return self._process.join({name: part + move[name] if name in move else part for name, part in parts.items()})
