"""A process: schedule + noise for one state, or for a dict of named ones (a system of SDEs).

Every continuous component follows x_t = alpha(t) x_0 + beta(t) x_1 + sigma(t) eps; categorical components keep their
class with probability kappa(t). All components of a system share one time unless a dict of times is given.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from scidiff import random
from scidiff.configurable import Configurable
from scidiff.discrete import Categorical
from scidiff.laws import GaussianNoise, NoiseLaw
from scidiff.noise import Compose, Free, NoiseSource, Space, Symmetric, ZeroMean
from scidiff.schedules import Schedule, expand_like

__all__ = ["Component", "Process", "State", "Times"]

State = Tensor | dict[str, Tensor]
Times = Tensor | Mapping[str, Tensor]
Shape = tuple[int, ...] | Mapping[str, tuple[int, ...]]
_T = TypeVar("_T")
_SINGLE = ""


class Component(Configurable):
    """A continuous component: schedule, law of the unit noise, space it lives on.

    Raises:
        ValueError: If the noise is correlated along an axis that the space averages over or mirrors.
    """

    def __init__(self, schedule: Schedule, law: NoiseLaw | None = None, space: Space | None = None) -> None:
        self.schedule = schedule
        self.law = law if law is not None else GaussianNoise()
        self.space = space if space is not None else Free()
        _check_axis(self.law, self.space)

    def shape(self, z: Tensor, cond: Mapping[str, Any] | None, **radial: Any) -> Tensor:
        """Unit noise of the law from independent standard normal numbers, zero outside the live entries."""
        live = self.space.live(z, cond)
        return self.law.shape(self.space.arrange(z, cond), live=live, **radial)

    def log_prob(self, x: Tensor, sigma: Tensor | float, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Log density (B,) in nats of sigma eps at ``x``, over the independent numbers of the space."""
        live = self.space.live(x, cond)
        values = x if live is None else torch.where(live, x, 0)
        return self.law.log_prob(values, sigma, self.space.dims(x, cond), live)

    def coefficients(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, beta, sigma) at ``t``, computed in float64, cast and shaped to broadcast against ``x``."""
        time = t.double()
        values = (self.schedule.alpha(time), self.schedule.endpoint(time), self.schedule.sigma(time))
        alpha, beta, sigma = (expand_like(v.to(x.dtype), x) for v in values)
        return alpha, beta, sigma


class Process(Configurable):
    """One component, or a system of named components.

    Args:
        components: A `Schedule`, `Component` or `Categorical`; or a dict of these, where a tuple
            ``(schedule, space)``, ``(schedule, law)`` or ``(schedule, law, space)`` is short for a `Component`.
        law: Noise law, if ``components`` is a schedule.
        space: Space, if ``components`` is a schedule.

    Example:
        >>> Process({"pos": (Linear(), ZeroMean()), "atom": Categorical([0.5, 0.5])})
    """

    def __init__(self, components: Any, law: NoiseLaw | None = None, space: Space | None = None) -> None:
        self.is_system = isinstance(components, Mapping)
        if isinstance(components, Schedule):
            components = Component(components, law, space)
        named = components if self.is_system else {_SINGLE: components}
        self.components: dict[str, Component | Categorical] = {str(k): _component(v) for k, v in named.items()}

    @property
    def continuous(self) -> dict[str, Component]:
        """The continuous components."""
        return {k: c for k, c in self.components.items() if isinstance(c, Component)}

    @property
    def discrete(self) -> dict[str, Categorical]:
        """The categorical components."""
        return {k: c for k, c in self.components.items() if isinstance(c, Categorical)}

    def split(self, state: Any) -> dict[str, Any]:
        """A state (or anything arranged like it) as a dict of components; a missing state gives an empty dict."""
        if state is None:
            return {}
        if self.is_system:
            return dict(state)
        return {_SINGLE: state}

    def join(self, parts: Mapping[str, _T]) -> Any:
        """Inverse of `split`."""
        return dict(parts) if self.is_system else parts[_SINGLE]

    def times(self, t: Times) -> dict[str, Tensor]:
        """One time tensor per component."""
        if isinstance(t, Mapping):
            return {name: t[name] for name in self.components}
        return dict.fromkeys(self.components, t)

    def perturb(
        self,
        x_0: State,
        t: Times,
        eps: State | None = None,
        generator: torch.Generator | None = None,
        x_1: State | None = None,
        cond: Mapping[str, Any] | None = None,
    ) -> tuple[State, State]:
        """Draw x_t given x_0.

        Args:
            x_0: Clean state, (B, ...) or a dict; categorical components as int64 classes.
            t: Times (B,) or (B, elements), or a dict of these.
            eps: Unit noise to use as it is (couplings, antithetic pairs); drawn where absent.
            generator: Source of the randomness that is drawn here; may live on another device than ``x_0``.
            x_1: Known endpoints, if the schedule has one.
            cond: Masks and context.

        Returns:
            ``(x_t, eps)``; categorical components have no entry in ``eps``.
        """
        states, times, given, ends = self.split(x_0), self.times(t), self.split(eps), self.split(x_1)
        noisy: dict[str, Tensor] = {}
        noises: dict[str, Tensor] = {}
        for name, component in self.components.items():
            x, time = states[name], times[name]
            if isinstance(component, Categorical):
                u = random.drawn(torch.rand, x.shape, generator=generator, device=x.device, dtype=torch.float32)
                noisy[name] = component.perturb(x, time, u, cond)
                continue
            noise = given.get(name)
            if noise is None:
                noise = _draw(component, x, generator, cond)
            alpha, beta, sigma = component.coefficients(time, x)
            x_t = alpha * x + sigma * noise
            if component.schedule.has_endpoint:
                x_t = x_t + beta * _endpoint(ends, name)
            fixed = component.space.fixed(x, cond)
            noisy[name] = x_t if fixed is None else torch.where(fixed, x, x_t)
            noises[name] = noise
        return self.join(noisy), (dict(noises) if self.is_system else noises.get(_SINGLE, torch.empty(0)))

    def noise(
        self, like: Mapping[str, Tensor], source: NoiseSource, cond: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """One draw from ``source`` for the parts in ``like``: unit noise, or uniform numbers for classes."""
        if source.recorded is not None:
            return self.split(source.replay())
        drawn: dict[str, Tensor] = {}
        for name, x in like.items():
            component = self.components[name]
            live = component.space.live(x, cond)
            if isinstance(component, Categorical):
                drawn[name] = component.space.arrange(source.uniform(x, name, live), cond)
            else:
                radial = None
                if component.law.has_radius:
                    radial = source.uniform(x.new_zeros(len(x), 1, dtype=torch.float64), f"{name}/radius")[:, 0]
                drawn[name] = component.shape(source.normal(x, name, live), cond, radial=radial)
        source.history.append(self.join(drawn))
        return drawn

    def prior(
        self, like: State, source: NoiseSource, cond: Mapping[str, Any] | None = None, x_1: State | None = None
    ) -> State:
        """State at t = 1: prior_endpoint x_1 + prior_std eps, classes from their priors.

        ``like`` gives shapes and fixed values.
        """
        noises, ends = self.noise(self.split(like), source, cond), self.split(x_1)
        state: dict[str, Tensor] = {}
        for name, x in self.split(like).items():
            component = self.components[name]
            if isinstance(component, Categorical):
                state[name] = component.prior(x, noises[name], cond)
                continue
            x_t = component.schedule.prior_std * noises[name]
            if component.schedule.has_endpoint:
                x_t = x_t + component.schedule.prior_endpoint * _endpoint(ends, name)
            fixed = component.space.fixed(x, cond)
            state[name] = x_t if fixed is None else torch.where(fixed, x, x_t)
        return self.join(state)

    def project(self, x: State, cond: Mapping[str, Any] | None = None) -> State:
        """Project the continuous components (noise, predictions, gradients) onto their spaces."""
        parts = self.split(x)
        for name, component in self.continuous.items():
            if name in parts:
                parts[name] = component.space.project(parts[name], cond)
        return self.join(parts)

    def check(self, max_snr: float = 1e-2) -> None:
        """Warn about components whose terminal signal-to-noise ratio alpha^2/sigma^2 at t = 1 exceeds ``max_snr``."""
        one = torch.ones((), dtype=torch.float64)
        for name, component in self.components.items():
            schedule = component.keep if isinstance(component, Categorical) else component.schedule
            alpha, sigma = float(schedule.alpha(one)), float(schedule.sigma(one))
            ratio = alpha if isinstance(component, Categorical) else (alpha / max(sigma, 1e-12)) ** 2
            if ratio > max_snr and (math.isclose(schedule.prior_std, 1) or alpha < 1) and sigma > 0:
                warnings.warn(
                    f"component {name!r} keeps a signal-to-noise ratio of {ratio:.3g} at t = 1: x_1 is not its prior.",
                    stacklevel=2,
                )


def _component(entry: Any) -> Component | Categorical:
    if isinstance(entry, Component | Categorical):
        return entry
    parts = list(entry) if isinstance(entry, list | tuple) else [entry]
    schedules = [p for p in parts if isinstance(p, Schedule)]
    laws = [p for p in parts if isinstance(p, NoiseLaw)]
    spaces = [p for p in parts if isinstance(p, Space)]
    if len(schedules) != 1 or len(laws) > 1 or len(spaces) > 1 or len(parts) != 1 + len(laws) + len(spaces):
        raise TypeError(
            f"a component is a schedule, (schedule, law), (schedule, space), (schedule, law, space), Component or "
            f"Categorical, got {entry!r}."
        )
    return Component(schedules[0], laws[0] if laws else None, spaces[0] if spaces else None)


def _draw(component: Component, x: Tensor, generator: torch.Generator | None, cond: Any) -> Tensor:
    z = random.drawn(torch.randn, x.shape, generator=generator, device=x.device, dtype=x.dtype)
    live = component.space.live(x, cond)
    z = z if live is None else torch.where(live, z, 0)
    return component.shape(z, cond, generator=generator)


def _check_axis(law: NoiseLaw, space: Space) -> None:
    for part in space.spaces if isinstance(space, Compose) else (space,):
        mixed = (1, 2) if isinstance(part, Symmetric) else part.axes if isinstance(part, ZeroMean) else ()
        if law.axis in mixed:
            raise ValueError(
                f"noise correlated along axis {law.axis} does not live on {part!r}, which ties the elements of "
                "that axis. Choose another axis, or the free space."
            )


def _endpoint(ends: Mapping[str, Tensor], name: str) -> Tensor:
    end = ends.get(name)
    if end is None:
        raise ValueError(f"the schedule of component {name!r} has an endpoint: pass x_1=. See scidiff.Process.perturb.")
    return end
