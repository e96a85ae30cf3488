r"""Inpainting by replacement: known entries are set to a forward draw q(y at t) after every step, at the end to y
itself. The prediction of a known entry is y, so that self-conditioning sees what is known, too.

With ``resample`` > 1 the sampler goes over every stretch of ``jump`` steps several times and re-noises in between by
the forward transition, which lets the free entries adapt to the known ones (RePaint). Categorical sites are replaced by
forward draws of their classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.discrete import Categorical
from scidiff.guidance.align import align
from scidiff.guidance.base import Guidance, Point, Shift, require_gaussian
from scidiff.guidance.observation import Observation
from scidiff.noise import NoiseSource, ZeroMean
from scidiff.process import Component, State

__all__ = ["Replace"]

_CERTAIN = 50.0  # logit of a known class over the others
_HARD_SHARE = 0.1  # of the steps, at the end, in which known entries are set exactly


class Replace(Guidance):
    """Replacement of known entries, with optional resampling: no extra call a step, ``resample`` times the steps.

    On a zero-mean space the known part is first moved to where the last prediction has it (only its shape is known
    there), and with ``rotate=True`` also turned onto it, so that a fragment keeps its distances but not its place.

    Args:
        observations: One `Observation` with a mask and values, or one for each observed component of a system.
        resample: Passes over each stretch of steps, at least 1 (RePaint uses 10).
        jump: Length of a stretch in steps (RePaint uses 10).
        rotate: Turn known points (B, N, 3) onto the prediction (Kabsch), for equivariant denoisers.
        redraw: False leaves out the forward draws: the solver itself brings known entries to y, along the noise that
            they started with. Right for denoisers trained with coupled noise (optimal transport), whose states at t
            are no forward draws with fresh noise.

    Raises:
        ValueError: If a number is below 1; when wrapping, if a component is unknown or has no mask.

    References: Lugmayr et al. 2022, "RePaint", algorithm 1; Song et al. 2021, "Score-Based Generative Modeling through
    SDEs", appendix I.2 (replacement).
    """

    def __init__(
        self,
        observations: Observation | Sequence[Observation],
        resample: int = 1,
        *,
        jump: int = 10,
        rotate: bool = False,
        redraw: bool = True,
    ) -> None:
        if resample < 1 or jump < 1:
            raise ValueError(f"Replace needs resample >= 1 and jump >= 1, got {resample} and {jump}.")
        self.observations = [observations] if isinstance(observations, Observation) else list(observations)
        self.resample, self.jump, self.rotate, self.redraw = resample, jump, rotate, redraw
        self._point: Point | None = None
        self._hard: Tensor | None = None

    def check(self, den: Denoiser) -> None:
        """Raise for unknown components, observations without a mask, and resampling at finite D."""
        for observation in self.observations:
            observation.check(den.process)
            if observation.mask is None:
                raise ValueError("Replace needs observations with a bool mask H (True = known).")
        if self.resample > 1:
            require_gaussian(den, self)
        self._process, self._point, self._hard = den.process, None, None

    def passes(self, times: Tensor) -> list[tuple[int, int]] | None:
        """Index ranges (first, last) of ``times`` to run over, in order; called by the sampler before it starts."""
        n = len(times) - 1
        self._hard = times[n - max(1, round(_HARD_SHARE * n))]  # states after this time are set exactly
        if self.resample == 1:
            return None
        starts = range(0, n, self.jump)
        return [(start, min(start + self.jump, n)) for start in starts for _ in range(self.resample)]

    def shift(self, point: Point) -> Shift:
        """The prediction of known entries becomes what is known, so that self-conditioning sees it, too."""
        self._point = point
        result: Shift = {}
        for observation in self.observations:
            name = observation.name(point.given)
            component, part = self._process.components[name], point.given[name]
            known = observation.observed(part)
            y = torch.where(known, observation.y.to(part), torch.zeros_like(part))
            if isinstance(component, Categorical):
                logits = point.prediction.logits[name]
                certain = _CERTAIN * torch.nn.functional.one_hot(y, logits.shape[-1]).to(logits)
                result[name] = torch.where(known[..., None], certain - logits, 0)
            else:
                placed = self._placed(name, component, y, known.expand(part.shape), point.cond)
                moved = torch.where(known, placed - point.x0[name], 0)
                result[name] = component.space.project(moved, point.cond)
        return result

    def constrain(self, x: State, t: Tensor, source: NoiseSource) -> State:
        """``x`` with its known entries at time ``t``."""
        if self._point is None:
            return x
        parts, cond = self._process.split(x), self._point.cond
        names = {o.name(parts): o for o in self.observations}
        is_hard = t < self._hard if self._hard is not None else t <= 0
        noise = self._process.noise({name: parts[name] for name in names}, source, cond)
        for name, observation in names.items():
            component, part = self._process.components[name], parts[name]
            known = observation.observed(part).expand(part.shape)
            y = torch.where(known, observation.y.to(part), torch.zeros_like(part))
            time = t.to(part.device).expand(len(part), *t.shape)
            exact = is_hard.to(part.device).expand(len(part), *t.shape)
            exact = exact.reshape(exact.shape + (1,) * (part.ndim - exact.ndim))
            if isinstance(component, Categorical):
                drawn = component.perturb(y, time, noise[name], cond) if self.redraw else part
                parts[name] = torch.where(known, torch.where(exact, y, drawn), part)
                continue
            y = self._placed(name, component, y, known, cond)
            drawn = self._forward(name, component, y, time, noise[name]) if self.redraw else part
            mixed = torch.where(known, torch.where(exact, y, drawn), part)
            parts[name] = component.space.project(mixed, cond)
        return self._process.join(parts)

    def _forward(self, name: str, component: Component, y: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        alpha, beta, sigma = component.coefficients(t, y)
        drawn = alpha * y + sigma * noise
        end = self._process.split(self._point.x_1 if self._point is not None else None).get(name)
        return drawn if end is None else drawn + beta * end

    def _placed(
        self, name: str, component: Component, y: Tensor, known: Tensor, cond: Mapping[str, Any] | None
    ) -> Tensor:
        """``y`` moved (and turned) onto the predicted known part, where the space leaves that open."""
        assert self._point is not None
        space = component.space
        if not self.rotate and not isinstance(space, ZeroMean):
            return y
        axes = space.axes if isinstance(space, ZeroMean) else tuple(range(1, y.ndim - 1))
        predicted = self._point.x0[name].detach().to(y)
        live = space.live(y, cond)
        known = known if live is None else known & live
        return align(y, predicted, known, axes=axes, rotate=self.rotate)
