r"""Guidance: a denoiser in, a denoiser out.

Solvers see a guided denoiser through its prediction of x_0 (and class logits) only. With g an estimate of
grad_x log p(y | x_t) the guided prediction is

    x0_guided = x0 + (sigma^2/alpha) S g,        S = A A^T,

where eps = A z is the component's unit noise written with independent normal numbers z: the identity on a free space,
the projection on a zero-mean space, pairs counted twice on symmetric matrices, L L^T for a correlated law. So every
solver works unchanged and the state stays in its space.

Objects given to ``sample(..., guidance=[a, b])`` are nested, ``b.wrap(a.wrap(den))``: b guides the model that a
defines, derivatives of a included. `Sum` instead adds the corrections of its terms, all taken at the same unguided
prediction.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser, Part, Prediction
from scidiff.noise import NoiseSource
from scidiff.process import Component, State, Times
from scidiff.samplers.passes import merge_passes
from scidiff.schedules import expand_like

__all__ = ["Guidance", "Guided", "Point", "Shift", "Sum", "gradients", "require_gaussian", "variable"]

Cond = Mapping[str, Any] | None
Shift = dict[str, Tensor]


class Guidance:
    """Base class. A subclass says how the prediction is shifted; `wrap` makes the guided denoiser.

    An object serves one run at a time: it may keep what the last evaluation saw.

    Attributes:
        needs_jacobian: Whether the shift differentiates the network.
    """

    needs_jacobian: ClassVar[bool] = False

    def wrap(self, den: Denoiser) -> Denoiser:
        """The guided denoiser."""
        self.check(den)
        return Guided(den, self)

    def check(self, den: Denoiser) -> None:
        """Raise if this guidance does not apply to the process of ``den``."""

    def evaluations(self, base: int) -> int:
        """Network calls of one guided prediction when the unguided one takes ``base`` (backward passes not counted)."""
        return base

    @abstractmethod
    def shift(self, point: Point) -> Shift:
        """What is added at ``point``: to x0 of a continuous component, to the logits of a categorical one."""


class Guided(Denoiser):
    """A denoiser whose predictions are shifted by a guidance.

    Args:
        base: Denoiser that is guided.
        guidance: What shifts its predictions.
    """

    def __init__(self, base: Denoiser, guidance: Guidance) -> None:
        torch.nn.Module.__init__(self)
        self.base, self.guidance = base, guidance
        self.process, self.prediction, self.data_std = base.process, base.prediction, base.data_std
        self.self_conditioning, self.heuristic = base.self_conditioning, base.heuristic
        self.preconditioning = base.preconditioning
        self.evaluations = guidance.evaluations(base.evaluations)

    def forward(self, x_t: State, t: Times, cond: Cond = None, x_1: State | None = None) -> Prediction:
        """Guided prediction at ``x_t`` (B, ...); works under ``torch.no_grad``, and keeps the graph outside of it."""
        point = Point(self.base, x_t, t, cond, x_1, self.guidance.needs_jacobian)
        return point.shifted(self.guidance.shift(point))

    def __repr__(self) -> str:
        return f"Guided({type(self.guidance).__name__})"


class Point:
    """A denoiser evaluated at x_t, with products of its Jacobian J = d x0/d x_t.

    Args:
        den: Unguided denoiser.
        x_t: Noisy state (B, ...) or a dict.
        t: Times.
        cond: Masks and context.
        x_1: Known endpoints.
        needs_jacobian: Record the graph of the network.

    Attributes:
        prediction: The unguided prediction.
        x: Noisy state by component; leaves of the graph if the Jacobian is needed.
        x0: Unguided x0 by continuous component.
        times: Time by component.
        keeps_graph: Whether the caller differentiates the result.
    """

    def __init__(
        self, den: Denoiser, x_t: State, t: Times, cond: Cond, x_1: State | None, needs_jacobian: bool = False
    ) -> None:
        self.den, self.process, self.cond, self.t, self.x_1 = den, den.process, cond, t, x_1
        self.keeps_graph = torch.is_grad_enabled()
        self.given = self.process.split(x_t)
        self.times = self.process.times(t)
        self.x = dict(self.given)
        if needs_jacobian:
            self.x |= {name: variable(self.given[name]) for name in self.process.continuous}
        with torch.set_grad_enabled(needs_jacobian or self.keeps_graph):
            self.prediction = den(self.process.join(self.x), t, cond=cond, x_1=x_1)
            values = self.prediction.get("x0")
        self.x0 = {name: values[name] for name in self.process.continuous}
        if needs_jacobian and not any(part.raw.requires_grad for part in self.prediction.parts.values()):
            raise RuntimeError(
                "this guidance needs the derivative of x0 in x_t, but the network's output carries no graph. Does the "
                "network run under torch.no_grad or detach its output?"
            )

    def pull(self, weights: Mapping[str, Tensor]) -> Shift:
        """J^T w: the gradient (B, ...) in x_t of sum_names <x0, w>, for every continuous component."""
        names = [name for name in weights if self.x0[name].requires_grad]
        if not names:
            return {name: torch.zeros_like(self.x[name]) for name in self.process.continuous}
        return self.gradients([self.x0[name] for name in names], [weights[name] for name in names])

    def gradients(self, values: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Shift:
        """Gradients in x_t of values that depend on ``x`` (of scalars, if there are no ``weights``)."""
        return gradients(values, {name: self.x[name] for name in self.process.continuous}, weights, self.keeps_graph)

    def lift(self, gradients: Mapping[str, Tensor]) -> Shift:
        """(sigma^2/alpha) S g: the shift of x0 that a gradient g of log p(y | x_t) stands for; 0 where alpha = 0."""
        return {name: self.gain(name) * self.metric(name, g) for name, g in gradients.items()}

    def covariance(self, weights: Mapping[str, Tensor]) -> Shift:
        """V w with V = (sigma^2/alpha) S J^T = Cov[x_0 | x_t], exact for an exact denoiser (one backward pass)."""
        return self.lift(self.pull(weights))

    def gain(self, name: str) -> Tensor:
        """sigma^2/alpha shaped to broadcast against the component; 0 where alpha = 0."""
        alpha, sigma = self._scales(name)
        gain = torch.where(alpha > 0, sigma**2 / torch.where(alpha > 0, alpha, 1), 0)
        return expand_like(gain.to(self.given[name].dtype), self.given[name])

    def noise_ratio(self, name: str) -> Tensor:
        """sigma/alpha, float64 with the shape of t; (1 - kappa)/kappa for a categorical component."""
        component = self.process.components[name]
        if isinstance(component, Component):
            alpha, sigma = self._scales(name)
            return sigma / alpha
        kappa = component.keep.alpha(self.times[name].double())
        return (1 - kappa) / kappa

    def metric(self, name: str, gradient: Tensor) -> Tensor:
        """S g = A A^T g: a gradient in the ambient coordinates turned into a direction of the component's space."""
        component = self.process.continuous[name]

        def place(z: Tensor) -> Tensor:
            live = component.space.live(z, self.cond)
            z = z if live is None else torch.where(live, z, 0)
            return component.shape(z, self.cond) if component.law.is_gaussian else component.space.arrange(z, self.cond)

        with torch.enable_grad():
            z = torch.zeros_like(gradient, requires_grad=True)
            (pulled,) = torch.autograd.grad(place(z), z, gradient, create_graph=self.keeps_graph)
        return place(pulled)

    def evaluate(self, den: Denoiser | None = None, cond: Cond = None) -> Prediction:
        """Another prediction at the same x_t and t: by ``den``, or by the same denoiser under another ``cond``."""
        chosen = den if den is not None else self.den
        with torch.set_grad_enabled(self.keeps_graph):
            return chosen(self.process.join(self.x), self.t, cond=self.cond if cond is None else cond, x_1=self.x_1)

    def shifted(self, shift: Shift) -> Prediction:
        """The prediction with ``shift`` added; free of the graph unless the caller differentiates."""
        parts, ends = {}, self.process.split(self.x_1)
        for name, part in self.prediction.parts.items():
            kind = "x0" if name in shift else part.kind
            raw = self.x0[name] + shift[name] if name in shift else part.raw
            parts[name] = Part(
                kind,
                raw if self.keeps_graph else raw.detach(),
                self.x[name] if self.keeps_graph else self.given[name],
                part.t,
                part.component,
                x_1=ends.get(name),
                cond=self.cond,
                data_std=part.data_std,
                preconditioning=part.preconditioning,
            )
        logits = {k: v + shift[k] if k in shift else v for k, v in self.prediction.logits.items()}
        return Prediction(
            self.process, parts, logits if self.keeps_graph else {k: v.detach() for k, v in logits.items()}
        )

    def _scales(self, name: str) -> tuple[Tensor, Tensor]:
        schedule = self.process.continuous[name].schedule
        t = self.times[name].double()
        return schedule.alpha(t), schedule.sigma(t)


class Sum(Guidance):
    """The sum of several corrections, all taken at the same unguided prediction, which is evaluated once.

    Right for independent conditions. Two correlated observations are conditioned on exactly by nesting (a list given to
    ``sample``) or by one joint `Observation`, not by their sum.

    Args:
        terms: Guidances.

    Raises:
        ValueError: If there is no term.
    """

    def __init__(self, *terms: Guidance) -> None:
        if not terms:
            raise ValueError("Sum needs at least one guidance.")
        self.terms = terms

    @property
    def needs_jacobian(self) -> bool:  # type: ignore[override]
        """Whether any term differentiates the network."""
        return any(term.needs_jacobian for term in self.terms)

    def check(self, den: Denoiser) -> None:
        """Check every term."""
        for term in self.terms:
            term.check(den)

    def evaluations(self, base: int) -> int:
        """The shared evaluation and what the terms add."""
        return base + sum(term.evaluations(base) - base for term in self.terms)

    def shift(self, point: Point) -> Shift:
        """Sum of the shifts."""
        total: Shift = {}
        for term in self.terms:
            for name, value in term.shift(point).items():
                total[name] = total[name] + value if name in total else value
        return total

    def constrain(self, x: State, t: Tensor, source: NoiseSource) -> State:
        """Constraints of the terms, in order."""
        for term in self.terms:
            if hasattr(term, "constrain"):
                x = term.constrain(x, t, source)  # type: ignore[attr-defined]
        return x

    def passes(self, times: Tensor) -> list[tuple[int, int]] | None:
        """Passes over the grid that a term asks for.

        Raises:
            ValueError: If two terms ask for different ones.
        """
        return merge_passes(self.terms, times)


def require_gaussian(den: Denoiser, guidance: Guidance) -> None:
    """Refuse finite-D Student-t noise, where Tweedie's formulas are only approximate.

    Raises:
        ValueError: If a component's law is not Gaussian and the denoiser was not built with ``heuristic=True``.
    """
    for name, component in den.process.continuous.items():
        if not component.law.is_gaussian and not den.heuristic:
            raise ValueError(
                f"{type(guidance).__name__} rests on Tweedie's formula, which is only approximate for component "
                f"{name!r} with law {component.law!r}. Build the Denoiser with heuristic=True to use it all the same."
            )


def gradients(
    values: Sequence[Tensor],
    variables: Mapping[str, Tensor],
    weights: Sequence[Tensor] | None = None,
    keeps_graph: bool = False,
) -> Shift:
    """Gradients of sum <value, weight> in named ``variables``; zero where nothing depends on one."""
    found = torch.autograd.grad(
        list(values),
        list(variables.values()),
        weights,
        retain_graph=True,
        create_graph=keeps_graph,
        materialize_grads=True,
        allow_unused=True,
    )
    return dict(zip(variables, found, strict=True))


def variable(x: Tensor) -> Tensor:
    """``x`` itself if it is part of a graph that is being recorded, else a new leaf with the same values.

    Raises:
        RuntimeError: Under ``torch.inference_mode``, where no gradient can be taken.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "gradient guidance cannot run under torch.inference_mode, which forbids gradients: use torch.no_grad "
            "(in Lightning: Trainer(inference_mode=False))."
        )
    if x.requires_grad:
        return x
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_(True)
