r"""Exact log densities along the probability flow.

Along dx/dt = v(x, t) the density obeys d log p/dt = -div v, so

    log p(x, t_min) = log prior(x(t_end)) + int_{t_min}^{t_end} div v(x(t), t) dt,

in nats, for every law whose flow has the marginals of the process: Gaussian, correlated, and Student-t noise (PFGM++
for any D), known endpoints, and interpolants. It is the density of the *noisy* x at t_min, which tends to that of the
data as t_min falls; nothing corrects for the difference. States on a zero-mean, symmetric or masked space get their
density on that space, with one number per dimension.

References: Chen et al. 2018, "Neural Ordinary Differential Equations" (instantaneous change of variables); Song et al.
2021, section 4.3; Grathwohl et al. 2019 (FFJORD: one fixed probe a solve); Hutchinson 1990.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.encoding import encode
from scidiff.noise import NoiseSource
from scidiff.ode import integrate
from scidiff.process import State
from scidiff.random import Seeds

__all__ = ["encode", "log_prob"]

Prior = Callable[[Any], Tensor]


def log_prob(
    den: Denoiser,
    x: State,
    *,
    cond: Mapping[str, Any] | None = None,
    x_1: State | None = None,
    prior: Prior | None = None,
    trace: Literal["exact", "hutchinson"] = "exact",
    rtol: float = 1e-5,
    seed: Seeds = 0,
    num_probes: int = 1,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Tensor:
    """Log density (B,) in nats of ``x`` at ``t_min`` under the probability flow of ``den``.

    The integration adapts its steps to each sample, so the result does not depend on the batch.

    Args:
        den: Denoiser of a process without categorical components.
        x: State (B, ...) at ``t_min``, on the space of the process; a dict for a system.
        cond: Masks and context.
        x_1: Known endpoints; the density is then conditional on them.
        prior: Log density (B,) of a state at ``t_max``; default: prior_endpoint x_1 + prior_std eps of the process.
        trace: ``"exact"`` (one backward pass a dimension and evaluation) or ``"hutchinson"`` (one a probe, unbiased).
        rtol: Tolerance of the integrator, relative and absolute, for the state and for the log density.
        seed: Seed, or one a sample, of the Rademacher probes, which stay fixed during the solve.
        num_probes: Number of probes that are averaged over.
        t_min: First time; default: the largest ``t_min`` of the schedules.
        t_max: Last time; default: 1, or the schedules' ``t_max`` if the prediction is singular at alpha = 0.

    Raises:
        ValueError: If a component is categorical, ``trace`` is unknown, or the prior has no density.
    """
    process = den.process
    if process.discrete:
        raise ValueError(f"log_prob is for continuous components; {sorted(process.discrete)} are categorical.")
    if trace not in ("exact", "hutchinson"):
        raise ValueError(f"trace must be 'exact' or 'hutchinson', got {trace!r}.")
    first = max(c.schedule.t_min for c in process.continuous.values()) if t_min is None else t_min
    last = _last_time(den) if t_max is None else t_max
    flow = _Flow(den, x, cond, x_1)
    probes = None if trace == "exact" else flow.probes(seed, num_probes)

    def slope(t: Tensor, y: Tensor) -> Tensor:
        velocity, divergence = flow(t, y[:, :-1], probes)
        return torch.cat([velocity, divergence[:, None]], dim=1)

    y = flow.flatten(process.split(x))
    start = torch.cat([y, y.new_zeros(len(y), 1)], dim=1)
    end = integrate(slope, start, first, last, rtol=rtol, atol=rtol, norm=flow.norm).y
    state = flow.unflatten(end[:, :-1].to(torch.float64))
    base = _prior_log_prob(den, state, last, cond, x_1) if prior is None else prior(process.join(state))
    return (base.double() + end[:, -1]).to(flow.dtype)


class _Flow:
    """Velocity and its divergence for flat states (B, n) in float64."""

    def __init__(self, den: Denoiser, x: State, cond: Mapping[str, Any] | None, x_1: State | None) -> None:
        self.den, self.cond, self.x_1, self.process = den, cond, x_1, den.process
        parts = self.process.split(x)
        self.shapes = {name: parts[name].shape[1:] for name in self.process.continuous}
        self.dtype = next(iter(parts.values())).dtype
        self.like = parts
        masks = []
        for name, component in self.process.continuous.items():
            live = component.space.live(parts[name], cond)
            masks.append(
                torch.ones_like(parts[name], dtype=torch.bool) if live is None else live.expand_as(parts[name])
            )
        self.live = torch.cat([m.reshape(len(m), -1) for m in masks], dim=1)

    def flatten(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([parts[name].double().reshape(len(parts[name]), -1) for name in self.shapes], dim=1)

    def unflatten(self, y: Tensor) -> dict[str, Tensor]:
        sizes = [shape.numel() for shape in self.shapes.values()]
        pieces = zip(self.shapes.items(), y.split(sizes, dim=1), strict=True)
        return {name: piece.reshape(len(y), *shape) for (name, shape), piece in pieces}

    def arrange(self, values: Tensor) -> Tensor:
        """Independent numbers at live places, put into the spaces (mirrored, centred)."""
        parts = self.unflatten(values)
        return self.flatten({k: c.space.arrange(parts[k], self.cond) for k, c in self.process.continuous.items()})

    def norm(self, error: Tensor) -> Tensor:
        """Root mean square over the live numbers and the log density."""
        squares = error.square()
        return ((torch.where(self.live, squares[:, :-1], 0).sum(1) + squares[:, -1]) / (self.live.sum(1) + 1)).sqrt()

    def probes(self, seed: Seeds, num_probes: int) -> list[Tensor]:
        """Rademacher numbers at live places, zero elsewhere."""
        source = NoiseSource(seed, len(self.live), device=self.live.device)
        like = self.live.double()
        draws = [source.uniform(like, "probe", self.live) for _ in range(num_probes)]
        return [torch.where(self.live, torch.where(u < 0.5, -1.0, 1.0).to(u.dtype), 0) for u in draws]

    def __call__(self, t: Tensor, y: Tensor, probes: list[Tensor] | None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            variable = y.detach().clone().requires_grad_(True)
            velocity = self.velocity(t, variable)
            if probes is None:
                divergence = self.exact(velocity, variable)
            else:
                rows = [self.row(velocity, variable, z) for z in probes]
                pairs = zip(rows, probes, strict=True)
                divergence = torch.stack([(row * self.arrange(z)).sum(1) for row, z in pairs]).mean(0)
        return velocity.detach(), divergence.detach()

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        parts = {name: value.to(self.dtype) for name, value in self.unflatten(y).items()}
        prediction = self.den(self.process.join(parts), t.to(self.dtype), cond=self.cond, x_1=self.x_1)
        velocities = prediction.get("velocity")
        for name, component in self.process.continuous.items():
            fixed = component.space.fixed(parts[name], self.cond)
            if fixed is not None:
                velocities[name] = torch.where(fixed, 0, velocities[name])
        return self.flatten(velocities)

    def exact(self, velocity: Tensor, y: Tensor) -> Tensor:
        """sum_k of the change of the k-th live number of v when that of x (with all numbers tied to it) changes."""
        total = velocity.new_zeros(len(velocity))
        for k in range(velocity.shape[1]):
            if not bool(self.live[:, k].any()):
                continue
            unit = torch.zeros_like(velocity)
            unit[:, k] = self.live[:, k].to(unit.dtype)
            total = total + (self.row(velocity, y, unit) * self.arrange(unit)).sum(1)
        return total

    @staticmethod
    def row(velocity: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """J^T weights; zero where the velocity does not depend on the state."""
        (row,) = torch.autograd.grad(velocity, y, weights, retain_graph=True, allow_unused=True)
        return torch.zeros_like(y) if row is None else row


def _last_time(den: Denoiser) -> float:
    """1, or t_max of a schedule with alpha(1) = 0 whose noise prediction says nothing about x0 there."""
    one = torch.ones((), dtype=torch.float64)
    times = [1.0]
    for name, component in den.process.continuous.items():
        kind = den.prediction[name]
        needs_signal = kind in ("eps", "score") or (kind == "edm" and den.preconditioning != "edm")
        if needs_signal and float(component.schedule.alpha(one)) == 0:
            times.append(component.schedule.t_max)
    return min(times)


def _prior_log_prob(
    den: Denoiser, state: Mapping[str, Tensor], t: float, cond: Mapping[str, Any] | None, x_1: State | None
) -> Tensor:
    ends = den.process.split(x_1)
    time = torch.tensor(t, dtype=torch.float64)
    total = torch.zeros(())
    for name, component in den.process.continuous.items():
        schedule, value = component.schedule, state[name]
        std = schedule.prior_std if t >= 1 else float(schedule.sigma(time))
        if std == 0 or (schedule.has_endpoint and ends.get(name) is None):
            raise ValueError(
                f"component {name!r} with {schedule!r} has no prior density of its own: it ends at a point, or at a "
                "base law that the process does not know. Pass prior=, the log density of the state at t_max."
            )
        if schedule.has_endpoint:
            weight = schedule.prior_endpoint if t >= 1 else float(schedule.endpoint(time))
            value = value - weight * ends[name]
        total = total + component.log_prob(value, std, cond)
    return total
