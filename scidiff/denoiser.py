r"""A denoiser: a network and a process, with one prediction that converts into all others.

From y = x_t - beta x_1 = alpha x_0 + sigma eps, every prediction type is linear in the others. `Prediction` converts on
demand and by the shortest route, so that nothing passes through a singular pair (eps -> x0 at alpha = 0, x0 -> eps at
sigma = 0, velocity -> score at sigma = 0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from scidiff import preconditioning as pre
from scidiff.configurable import Configurable
from scidiff.discrete import Categorical
from scidiff.process import Component, Process, State, Times
from scidiff.schedules import expand_like

__all__ = ["PREDICTIONS", "Denoiser", "Part", "Prediction"]

PREDICTIONS = ("x0", "eps", "v", "score", "velocity", "edm")
PAIRS = (("velocity", "score"), ("velocity", "eps"))
Kind = str | tuple[str, str]
Cond = Mapping[str, Any] | None


class Part:
    """Prediction for one continuous component; ``x0``, ``eps``, ``score`` and ``velocity`` are computed when asked for.

    Args:
        kind: What ``raw`` is: one of `PREDICTIONS`.
        raw: Network output, shape of ``x``.
        x: Noisy state (B, ...).
        t: Time (B,) or (B, elements).
        component: Schedule, law and space.
        x_1: Known endpoint, if any.
        cond: Masks.
        data_std: Standard deviation for ``"edm"``.
        preconditioning: Kind for ``"edm"``.
    """

    def __init__(
        self,
        kind: str,
        raw: Tensor,
        x: Tensor,
        t: Tensor,
        component: Component,
        *,
        x_1: Tensor | None = None,
        cond: Cond = None,
        data_std: float = 1.0,
        preconditioning: pre.Preconditioning = "edm",
    ) -> None:
        self.kind, self.raw, self.x, self.t = kind, raw, x, t
        self.component, self.x_1, self.cond = component, x_1, cond
        self.data_std = data_std
        self.preconditioning: pre.Preconditioning = preconditioning

    def replace(self, x0: Tensor) -> Part:
        """The same point with another x0 prediction."""
        return Part("x0", x0, self.x, self.t, self.component, x_1=self.x_1, cond=self.cond)

    @cached_property
    def x0(self) -> Tensor:
        """Prediction of the clean data E[x_0 | x_t]; x_t/alpha where sigma(t) = 0."""
        y, alpha, sigma, raw = self._shifted, self._alpha, self._sigma, self.raw
        if self.kind == "x0":
            x0 = raw
        elif self.kind == "eps":
            x0 = (y - sigma * raw) / alpha
        elif self.kind == "score":
            x0 = (y + sigma**2 * self._covary(raw)) / alpha
        elif self.kind == "v":
            x0 = (alpha * y - sigma * raw) / (alpha**2 + sigma**2)
        elif self.kind == "velocity":
            x0 = (self._sigma_dot * y - sigma * self._unshifted_velocity) / self._determinant
        else:
            x0 = self._preconditioner.skip * y + self._preconditioner.out * raw
        is_clean = (sigma == 0) & (alpha != 0)  # a bridge has alpha = sigma = 0 at t = 1
        return self._project(torch.where(is_clean, y / torch.where(is_clean, alpha, 1), x0))

    @cached_property
    def eps(self) -> Tensor:
        """Prediction of the unit noise; 0 where sigma(t) = 0."""
        y, alpha, sigma, raw = self._shifted, self._alpha, self._sigma, self.raw
        if self.kind == "eps":
            eps = raw
        elif self.kind == "score":
            eps = -sigma * self._covary(raw)
        elif self.kind == "v":
            eps = (sigma * y + alpha * raw) / (alpha**2 + sigma**2)
        elif self.kind == "velocity":
            eps = (alpha * self._unshifted_velocity - self._alpha_dot * y) / self._determinant
        elif self.kind == "edm" and self.preconditioning == "edm":
            variance = (alpha * self.data_std) ** 2 + sigma**2  # no cancellation for small sigma
            eps = sigma / variance * y - alpha * self.data_std / variance.sqrt() * raw
        else:
            eps = (y - alpha * self.x0) / torch.where(sigma == 0, 1, sigma)
        return self._project(torch.where(sigma == 0, 0, eps))

    @cached_property
    def score(self) -> Tensor:
        """Gradient of log p_t(x).

        Raises:
            ValueError: If the noise law is not Gaussian: the field is then not a score, use ``velocity``.
        """
        if not self.component.law.is_gaussian:
            raise ValueError(
                "the PFGM++ field with finite D is not a score, got law "
                f"{self.component.law!r}. Use prediction.velocity and a deterministic solver."
            )
        if self.kind == "score":
            return self._project(self.raw)
        return -self.component.law.whiten(self.eps, self._live) / self._sigma

    @cached_property
    def velocity(self) -> Tensor:
        """Right-hand side of the probability flow: alpha' x_0 + sigma' eps + beta' x_1."""
        if self.kind == "velocity":
            return self._project(self.raw)
        eps = self.eps  # 0 where sigma = 0, so the value of sigma' does not matter there
        velocity = self._alpha_dot * self.x0 + self._sigma_dot * eps
        if self.x_1 is not None and self.component.schedule.has_endpoint:
            velocity = velocity + self._at(self.component.schedule.endpoint_dot) * self.x_1
        return velocity

    @cached_property
    def _shifted(self) -> Tensor:
        if not self.component.schedule.has_endpoint:
            return self.x
        if self.x_1 is None:
            raise ValueError(
                "x0, eps and score need the known endpoint of this schedule: pass x_1=. With an unknown x_1 only the "
                "velocity is defined, and solvers of the flow (euler, heun, rk45) apply."
            )
        return self.x - self._at(self.component.schedule.endpoint) * self.x_1

    @cached_property
    def _unshifted_velocity(self) -> Tensor:
        if self.x_1 is None or not self.component.schedule.has_endpoint:
            return self.raw
        return self.raw - self._at(self.component.schedule.endpoint_dot) * self.x_1

    @cached_property
    def _alpha(self) -> Tensor:
        return self._at(self.component.schedule.alpha)

    @cached_property
    def _sigma(self) -> Tensor:
        return self._at(self.component.schedule.sigma)

    @cached_property
    def _alpha_dot(self) -> Tensor:
        return self._at(self.component.schedule.alpha_dot)

    @cached_property
    def _sigma_dot(self) -> Tensor:
        return torch.where(self._sigma == 0, 0, self._at(self.component.schedule.sigma_dot))  # infinite for VP at t = 0

    @cached_property
    def _determinant(self) -> Tensor:
        return torch.where(self._sigma == 0, 1, self._alpha * self._sigma_dot - self._sigma * self._alpha_dot)

    @cached_property
    def _preconditioner(self) -> pre.Coefficients:
        return _preconditioner(self.preconditioning, self.component, self.t, self.x, self.data_std)

    def _at(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return expand_like(function(self.t.double()).to(self.x.dtype), self.x)

    @property
    def _live(self) -> Tensor | None:
        return self.component.space.live(self.x, self.cond)

    def _covary(self, value: Tensor) -> Tensor:
        return self.component.law.covary(value, self._live)

    def _project(self, value: Tensor) -> Tensor:
        return self.component.space.project(value, self.cond)


class PairPart(Part):
    """Velocity and noise from two heads: all there is to know of a path whose x_1 the network does not see.

    Args:
        kinds: One of `PAIRS`.
        raw: The two outputs, each of the shape of the state.
        args: State, time and component, as for `Part`.
        kwargs: The rest, as for `Part`.
    """

    def __init__(self, kinds: tuple[str, str], raw: Sequence[Tensor], *args: Any, **kwargs: Any) -> None:
        super().__init__("velocity", raw[0], *args, **kwargs)
        self.noise_kind, self.noise = kinds[1], raw[1]

    @cached_property
    def x0(self) -> Tensor:
        """From the noise, if x_1 is known or absent."""
        return Part("eps", self.eps, self.x, self.t, self.component, x_1=self.x_1, cond=self.cond).x0

    @cached_property
    def eps(self) -> Tensor:
        """Unit noise E[eps | x_t]."""
        noise = self.noise if self.noise_kind == "eps" else -self._sigma * self._covary(self.noise)
        return self._project(noise)

    @cached_property
    def score(self) -> Tensor:
        """Gradient of log p_t(x), the second head itself if it is a score."""
        if self.noise_kind == "score" and self.component.law.is_gaussian:
            return self._project(self.noise)
        return super().score


class Prediction:
    """What a denoiser says about x_t: for a single component tensors, for a system dicts of them.

    Categorical components have ``x0`` (probabilities) only.
    """

    def __init__(self, process: Process, parts: Mapping[str, Part], logits: Mapping[str, Tensor] | None = None) -> None:
        self.process, self.parts, self.logits = process, dict(parts), dict(logits or {})

    @property
    def x0(self) -> Any:
        """E[x_0 | x_t]; class probabilities for categorical components."""
        return self.process.join(self.get("x0"))

    @property
    def eps(self) -> Any:
        """Unit noise."""
        return self.process.join(self.get("eps"))

    @property
    def score(self) -> Any:
        """Gradient of log p_t."""
        return self.process.join(self.get("score"))

    @property
    def velocity(self) -> Any:
        """Velocity of the probability flow."""
        return self.process.join(self.get("velocity"))

    @cached_property
    def probabilities(self) -> dict[str, Tensor]:
        """Class probabilities of the categorical components."""
        return {name: torch.softmax(logits, -1) for name, logits in self.logits.items()}

    def get(self, kind: str) -> dict[str, Tensor]:
        """One quantity ("x0", "eps", "score", "velocity") of every component that has it."""
        values = {name: getattr(part, kind) for name, part in self.parts.items()}
        return values | self.probabilities if kind == "x0" else values

    def replace(self, x0: Mapping[str, Tensor] | None = None, logits: Mapping[str, Tensor] | None = None) -> Prediction:
        """The same point with other x0 predictions or logits for the named components (guidance)."""
        parts = {k: part.replace(x0[k]) if x0 and k in x0 else part for k, part in self.parts.items()}
        return Prediction(self.process, parts, self.logits | dict(logits or {}))


class Denoiser(Configurable, nn.Module):
    """A network that estimates one of (x0, eps, v, score, velocity, F) for a process.

    The call is ``network(x_t, t, cond)`` with raw ``t``. With ``prediction="edm"`` the network sees c_in (x_t - beta
    x_1), and c_noise in place of t; in a system it keeps seeing the common raw t, because its components have different
    noise levels.

    Args:
        network: Called as ``network(x_t, t, cond)``; returns a tensor, or a dict for a system.
        process: Schedules, laws and spaces.
        prediction: One of `PREDICTIONS`, or a dict with one entry a component ("logits" for categorical ones, which may
            be left out). If the network does not see x_1, also one of `PAIRS`; it then returns two tensors.
        self_conditioning: The network takes the previous x0 prediction as ``cond["self_cond"]`` (samplers pass it,
            zeros first).
        heuristic: Allow methods that are only approximate for this process.
        data_std: Standard deviation of the clean data for ``"edm"``; a number, or a dict by component.
        preconditioning: Which coefficients ``"edm"`` uses.

    Raises:
        ValueError: If a prediction is unknown or a component is missing.

    Attributes:
        evaluations: Network calls of one prediction; more than 1 under some guidances.
    """

    evaluations: int = 1

    def __init__(
        self,
        network: Callable[..., Any],
        process: Process,
        prediction: str | Sequence[str] | Mapping[str, str | Sequence[str]] = "x0",
        self_conditioning: bool = False,
        heuristic: bool = False,
        data_std: float | Mapping[str, float] = 1.0,
        preconditioning: pre.Preconditioning = "edm",
    ) -> None:
        nn.Module.__init__(self)
        self.network, self.process = network, process
        self.self_conditioning, self.heuristic = self_conditioning, heuristic
        self.preconditioning: pre.Preconditioning = preconditioning
        named = prediction if isinstance(prediction, Mapping) else dict.fromkeys(process.continuous, prediction)
        self.prediction = {name: _kind(named.get(name, "x0"), name) for name in process.continuous}
        unknown = set(named) - set(process.components)
        if unknown:
            raise ValueError(f"prediction names {sorted(unknown)}, but the process has {sorted(process.components)}.")
        std = data_std if isinstance(data_std, Mapping) else dict.fromkeys(process.continuous, data_std)
        self.data_std = {name: float(std.get(name, 1.0)) for name in process.continuous}

    def forward(self, x_t: State, t: Times, cond: Cond = None, x_1: State | None = None) -> Prediction:
        """Predict at ``x_t`` (B, ...) and time ``t`` (B,) or (B, elements), or dicts of these."""
        process = self.process
        states, times, ends = process.split(x_t), process.times(t), process.split(x_1)
        inputs, network_time = self._inputs(states, times, ends, t)
        output = process.split(self.network(process.join(inputs), network_time, cond if cond is not None else {}))
        parts = {
            name: _part(self.prediction[name])(
                self.prediction[name],
                output[name],
                states[name],
                times[name],
                component,
                x_1=ends.get(name),
                cond=cond,
                data_std=self.data_std[name],
                preconditioning=self.preconditioning,
            )
            for name, component in process.continuous.items()
        }
        return Prediction(process, parts, {name: output[name] for name in process.discrete})

    def _inputs(
        self, states: dict[str, Tensor], times: dict[str, Tensor], ends: dict[str, Tensor], t: Times
    ) -> tuple[dict[str, Tensor], Times]:
        inputs = dict(states)
        for name, component in self.process.continuous.items():
            if self.prediction[name] != "edm":
                continue
            x, time = states[name], times[name]
            y = x
            if component.schedule.has_endpoint and name in ends:
                y = x - component.coefficients(time, x)[1] * ends[name]
            scales = _preconditioner(self.preconditioning, component, time, x, self.data_std[name])
            inputs[name] = scales.scale * y
            if not self.process.is_system:
                t = scales.noise.reshape(time.shape)
        return inputs, t


def _kind(value: str | Sequence[str], name: str) -> Kind:
    kind: Kind = value if isinstance(value, str) else (str(value[0]), str(value[-1]))
    if kind not in (PREDICTIONS if isinstance(kind, str) else PAIRS):
        raise ValueError(
            f"prediction of {name or 'the state'!r} must be one of {PREDICTIONS}, or a pair of {PAIRS}, got {value!r}."
        )
    return kind


def _part(kind: Kind) -> Any:
    return Part if isinstance(kind, str) else PairPart


def _preconditioner(
    kind: pre.Preconditioning, component: Component | Categorical, t: Tensor, x: Tensor, data_std: float
) -> pre.Coefficients:
    assert isinstance(component, Component)
    time = t.double()
    values = pre.coefficients(kind, component.schedule.alpha(time), component.schedule.sigma(time), time, data_std)
    return pre.Coefficients(*(expand_like(v.to(x.dtype), x) for v in values))
