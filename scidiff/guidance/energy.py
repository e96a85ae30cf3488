r"""Guidance by a function the user writes: a classifier of x_t, or a reward of the predicted end point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.base import Guidance, Point, Shift, gradients, require_gaussian, variable

__all__ = ["Classifier", "Energy"]


class Classifier(Guidance):
    """x0 = x0 + w (sigma^2/alpha) S grad_x log p(c | x_t): eps is lowered by w sigma S grad log p.

    One network call and one gradient of ``fn``. Exact for w = 1 and the true log p(c | x_t). Categorical components are
    left alone.

    Args:
        fn: ``fn(x_t, t)`` gives log p(c | x_t), shape (B,), up to a constant; ``t`` as the sampler has it.
        scale: w.

    References: Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", algorithms 1 and 2.
    """

    def __init__(self, fn: Callable[[Any, Any], Tensor], scale: float = 1.0) -> None:
        self.fn, self.scale = fn, float(scale)

    def check(self, den: Denoiser) -> None:
        """Refuse finite D."""
        require_gaussian(den, self)

    def shift(self, point: Point) -> Shift:
        """w (sigma^2/alpha) S grad log p."""
        names = list(point.process.continuous)
        with torch.enable_grad():
            x = dict(point.x) | {name: variable(point.x[name]) for name in names}
            value = self.fn(point.process.join(x), point.t).sum()
        slopes = gradients([value], {name: x[name] for name in names}, keeps_graph=point.keeps_graph)
        return {name: self.scale * lifted for name, lifted in point.lift(slopes).items()}


class Energy(Guidance):
    """x0 = x0 + scale P dJ/dx0, logits = logits + scale dJ/dphat: J rises (pass minus an energy to lower it).

    P is the orthogonal projection on the component's space. The network is not differentiated; one network call. An
    invariant J keeps an equivariant denoiser equivariant.

    Args:
        fn: J(x0), shape (B,), of the predicted end point: a tensor, or the dict of a system with class probabilities
            (B, ..., K) for categorical components.
        scale: Strength, in units of x0 squared over units of J.

    References: Bansal et al. 2023, "Universal guidance for diffusion models" (forward guidance, taken in x0).
    """

    def __init__(self, fn: Callable[[Any], Tensor], scale: float = 1.0) -> None:
        self.fn, self.scale = fn, float(scale)

    def shift(self, point: Point) -> Shift:
        """scale P dJ/dx0 and scale dJ/dphat."""
        with torch.enable_grad():
            end = {name: variable(x0) for name, x0 in point.prediction.get("x0").items()}
            value = self.fn(point.process.join(end)).sum()
        slopes = gradients([value], end, keeps_graph=point.keeps_graph)
        for name, component in point.process.continuous.items():
            slopes[name] = component.space.project(slopes[name], point.cond)
        return {name: self.scale * slope for name, slope in slopes.items()}
