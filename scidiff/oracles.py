r"""Exact denoisers for data laws that have closed forms: Gaussian, Gaussian mixture, points.

For x = alpha x_0 + sigma eps with unit Gaussian eps and x_0 ~ sum_k w_k N(m_k, S_k), C_k = alpha^2 S_k + sigma^2 I,

    p(x) = sum_k w_k N(alpha m_k, C_k),    E[x_0 | x] = sum_k r_k(x) [m_k + alpha S_k C_k^{-1} (x - alpha m_k)],

where r_k are the responsibilities. They test samplers, guidance and likelihoods, and show what a perfectly trained
network would do. Everything is float64; only the network of a denoiser answers in the dtype of its state.

References: Karras et al. 2022, appendix B.3 (points); Xu et al. 2023 (PFGM++), eq. 4 (Student-t kernel).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from scidiff import preconditioning as pre
from scidiff.configurable import Configurable
from scidiff.denoiser import Denoiser
from scidiff.exact_network import ExactNetwork
from scidiff.process import Component, Process
from scidiff.samplers.base import Plan
from scidiff.schedules import Schedule

__all__ = ["DeltaOracle", "GaussianOracle", "MixtureOracle", "Oracle"]

Level = float | Tensor


class Oracle(Configurable, nn.Module):
    """A data law on vectors of ``event_shape`` whose posterior mean under noise is known.

    Methods take x (B, *event_shape) and the scales alpha and sigma as numbers, as (B,), or as one value per element
    (B, *event_shape).
    """

    event_shape: tuple[int, ...]

    @abstractmethod
    def posterior_mean(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """E[x_0 | x], shape of ``x``."""

    @abstractmethod
    def score(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Gradient of log p(x), shape of ``x``."""

    @abstractmethod
    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """log p(x) in nats, (B,)."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw clean data x_0, float64 (n, *event_shape)."""

    @abstractmethod
    def mapped(self, matrix: Tensor) -> Oracle:
        """The law of ``matrix @ x_0`` for a matrix (r, d) that acts on the flattened event."""

    def noise_mean(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """E[eps | x], shape of ``x``."""
        return (-_level(sigma, x) * self.score(x, alpha, sigma).reshape(len(x), -1)).reshape(x.shape)

    def with_kernel(self, D: float) -> Oracle:
        """The same law seen through Student-t noise of D degrees of freedom (``math.inf``: Gaussian).

        Raises:
            ValueError: If the posterior mean has no closed form; only `DeltaOracle` has one for finite D.
        """
        if not math.isinf(D):
            raise ValueError(
                f"{type(self).__name__} has no closed form for Student-t noise (D = {D:g}); use DeltaOracle."
            )
        return self

    def velocity(self, x: Tensor, schedule: Schedule, t: float) -> Tensor:
        """Velocity of the probability flow at a common time ``t``, shape of ``x``."""
        time = torch.tensor(float(t), dtype=torch.float64)
        alpha, sigma = float(schedule.alpha(time)), float(schedule.sigma(time))
        x0, eps = self.posterior_mean(x, alpha, sigma), self.noise_mean(x, alpha, sigma)
        return float(schedule.alpha_dot(time)) * x0 + float(schedule.sigma_dot(time)) * eps

    def network(self, component: Component, prediction: str = "x0", **options: Any) -> nn.Module:
        """An exact "network" for one component, called as ``network(x_t, t, cond)``.

        Args:
            component: Schedule, law and space. The data are projected onto the space; a known endpoint is read from
                ``cond["x_1"]`` and taken as independent of x_0.
            prediction: What it returns, one of `scidiff.denoiser.PREDICTIONS`.
            **options: ``data_std`` and ``preconditioning`` for ``"edm"``; ``cond`` with masks (batch of 1); ``name``.
        """
        return ExactNetwork(self, component, prediction, **options)

    def denoiser(
        self,
        process: Process,
        prediction: str = "x0",
        data_std: float = 1.0,
        preconditioning: pre.Preconditioning = "edm",
        cond: Mapping[str, Any] | None = None,
    ) -> Denoiser:
        """Exact denoiser of a process with one continuous component; its default state is float64."""
        ((name, component),) = process.continuous.items()
        exact = self.network(
            component, prediction, data_std=data_std, preconditioning=preconditioning, cond=cond, name=name
        )
        return Denoiser(exact, process, prediction, data_std=data_std, preconditioning=preconditioning)


class MixtureOracle(Oracle):
    """Mixture of Gaussians.

    Args:
        weights: Weights (K,), normalised here.
        means: Means (K, *event_shape).
        covs: Covariances (K, d, d) of the flattened event; they may be singular.

    Raises:
        ValueError: If the shapes do not fit.
    """

    weights: Tensor
    means: Tensor
    covs: Tensor
    values: Tensor
    vectors: Tensor

    def __init__(self, weights: Any, means: Any, covs: Any) -> None:
        nn.Module.__init__(self)
        weights, means, covs = (torch.as_tensor(v, dtype=torch.float64) for v in (weights, means, covs))
        self.event_shape = tuple(means.shape[1:])
        count, dims = len(means), math.prod(self.event_shape)
        if weights.shape != (count,) or covs.shape != (count, dims, dims):
            raise ValueError(
                f"expected weights ({count},) and covs ({count}, {dims}, {dims}) for means {tuple(means.shape)}, "
                f"got {tuple(weights.shape)} and {tuple(covs.shape)}."
            )
        values, vectors = torch.linalg.eigh(covs)
        self.register_buffer("weights", weights / weights.sum())
        self.register_buffer("means", means.reshape(count, dims))
        self.register_buffer("covs", covs)
        self.register_buffer("values", values.clamp_min(0))
        self.register_buffer("vectors", vectors)

    def posterior_mean(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        log_joint, means, _ = self._terms(x, alpha, sigma)
        return (torch.softmax(log_joint, 1)[..., None] * means).sum(1).reshape(x.shape)

    def score(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        log_joint, _, scores = self._terms(x, alpha, sigma)
        return (torch.softmax(log_joint, 1)[..., None] * scores).sum(1).reshape(x.shape)

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        return torch.logsumexp(self._terms(x, alpha, sigma)[0], 1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        index = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64, device=self.means.device)
        x = self.means[index] + torch.einsum("bij,bj->bi", self.vectors[index], self.values[index].sqrt() * z)
        return x.reshape(n, *self.event_shape)

    def mapped(self, matrix: Tensor) -> MixtureOracle:
        return MixtureOracle(self.weights, self.means @ matrix.T, matrix @ self.covs @ matrix.T)

    def jacobian(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """d E[x_0 | x]/dx = alpha Cov(x_0 | x)/sigma^2, (B, d, d); without per-element scales."""
        log_joint, means, scores = self._terms(x, alpha, sigma)
        weights = torch.softmax(log_joint, 1)
        a, s = (_level(v, x)[:, None] for v in (alpha, sigma))
        gain = a * self.values / _positive(a**2 * self.values + s**2)
        within = torch.einsum("bk,kij,bkj,klj->bil", weights, self.vectors, gain, self.vectors)
        centred = scores - (weights[..., None] * scores).sum(1, keepdim=True)
        return within + torch.einsum("bk,bki,bkj->bij", weights, means, centred)

    def divergence(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Divergence (B,) of E[x_0 | x]."""
        return self.jacobian(x, alpha, sigma).diagonal(dim1=1, dim2=2).sum(1)

    def flow(self, x: Tensor, schedule: Schedule, t: float, s: float) -> Tensor:
        """Carry x (B, *event_shape) along the probability flow from ``t`` to ``s`` (either way), by DOP853 at 1e-12."""

        def slope(time: float, flat: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(flat.copy()).reshape(x.shape)
            return self.velocity(state, schedule, time).flatten().numpy()

        start = x.detach().double().flatten().numpy()
        solution = solve_ivp(slope, (float(t), float(s)), start, method="DOP853", rtol=1e-12, atol=1e-12)
        if not solution.success:
            raise RuntimeError(f"the reference flow from t = {t} to s = {s} failed: {solution.message}")
        return torch.from_numpy(solution.y[:, -1].copy()).reshape(x.shape)

    def _terms(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor, Tensor]:
        """log(w_k N(x; ...)) (B, K), E[x_0 | x, k] and grad log N_k, both (B, K, d)."""
        a, s = (_level(v, x)[:, None] for v in (alpha, sigma))
        residual = x.double().reshape(len(x), 1, -1) - a * self.means
        dims = residual.shape[-1]
        if a.shape[-1] == 1 and s.shape[-1] == 1:
            variance = a**2 * self.values + s**2
            turned = torch.einsum("kij,bki->bkj", self.vectors, residual)
            solved = torch.einsum("kij,bkj->bki", self.vectors, turned / _positive(variance))
            log_det = variance.log().sum(-1)
        else:  # one level per element: C = A S A + diag(sigma^2)
            a, s = a.expand(-1, -1, dims), s.expand(-1, -1, dims)
            cov = a[..., :, None] * self.covs * a[..., None, :] + torch.diag_embed(s**2)
            solved = torch.linalg.solve(cov, residual[..., None])[..., 0]
            log_det = torch.linalg.slogdet(cov)[1]
        means = self.means + torch.einsum("kij,bkj->bki", self.covs, a * solved)
        log_density = -0.5 * ((residual * solved).sum(-1) + log_det + dims * math.log(2 * math.pi))
        return self.weights.log() + log_density, means, -solved


class GaussianOracle(MixtureOracle):
    """A single Gaussian, with the closed-form flow and the exact law of a sampler's output.

    Args:
        mean: Mean of ``event_shape``.
        cov: Covariance (d, d) of the flattened event; it may be singular.
    """

    def __init__(self, mean: Any, cov: Any) -> None:
        mean, cov = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(cov, dtype=torch.float64)
        super().__init__([1.0], mean[None], cov[None])

    def mapped(self, matrix: Tensor) -> GaussianOracle:
        return GaussianOracle(matrix @ self.means[0], matrix @ self.covs[0] @ matrix.T)

    def flow(self, x: Tensor, schedule: Schedule, t: float, s: float) -> Tensor:
        """Flow map from ``t`` to ``s``: in the eigenbasis (x - alpha m)/sqrt(alpha^2 v + sigma^2) is constant."""
        time = torch.tensor([float(t), float(s)], dtype=torch.float64)
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        mean, values, vectors = self.means[0], self.values[0], self.vectors[0]
        scale = (alpha[:, None] ** 2 * values + sigma[:, None] ** 2).sqrt()
        turned = (x.double().reshape(len(x), -1) - alpha[0] * mean) @ vectors
        return (alpha[1] * mean + (turned * scale[1] / scale[0]) @ vectors.T).reshape(x.shape)

    def plan_moments(
        self,
        plan: Plan,
        component: Component,
        *,
        name: str = "",
        mean: Tensor | None = None,
        cov: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d) of a sampler's output with the exact denoiser: no Monte Carlo, no rounding.

        The state, the anchor and the kept model values are jointly Gaussian; each row of the plan maps them linearly.

        Args:
            plan: Rows and coefficients, float64.
            component: Schedule the plan was made for, free space, no endpoint.
            name: Name of the component in the plan.
            mean: Mean (d,) at the first time; default: that of the marginal.
            cov: Covariance (d, d) at the first time; default: that of the marginal.
        """
        schedule, table = component.schedule, plan.coefficients[name]
        data, values, vectors = self.means[0], self.values[0], self.vectors[0]
        first = plan.rows[0].t
        alpha, sigma = schedule.alpha(first), schedule.sigma(first)
        mean = alpha * data if mean is None else mean
        cov = alpha**2 * self.covs[0] + sigma**2 * torch.eye(len(data)).double() if cov is None else cov
        slots, dims = table.shape[1] - 2, len(data)  # x, anchor, m_0, m_1, ...
        centre = torch.zeros(slots, dims, dtype=torch.float64)
        spread = torch.zeros(slots, dims, slots, dims, dtype=torch.float64)
        centre[0], spread[0, :, 0] = vectors.T @ mean, vectors.T @ cov @ vectors
        for row, numbers in zip(plan.rows, table, strict=True):
            models = ("x0",) if row.is_start else plan.models
            look = torch.eye(slots).double()[..., None].repeat(1, 1, dims)
            shift = torch.zeros_like(centre)
            if row.evaluate:
                look[2:] = 0
                look[2 + len(models) :, 2 : slots - len(models)] = torch.eye(slots - 2 - len(models)).double()[
                    ..., None
                ]
                for j, model in enumerate(models):
                    look[2 + j, 0], shift[2 + j] = _model_line(model, schedule, row.t, vectors.T @ data, values)
            if row.mark:
                look[1] = 0
                look[1, 0] = 1
            move = torch.eye(slots).double()
            move[0] = torch.cat([numbers[:2], numbers[4:]])
            step = torch.einsum("uv,vwd->uwd", move, look)
            centre = torch.einsum("uvd,vd->ud", step, centre) + move @ shift
            spread = torch.einsum("uvd,vdwe,xwe->udxe", step, spread, step)
            spread[0, :, 0] += numbers[2] ** 2 * torch.eye(dims, dtype=torch.float64)
        return vectors @ centre[0], vectors @ spread[0, :, 0] @ vectors.T


class DeltaOracle(Oracle):
    """A finite set of points: the denoiser of a network that has memorised its training set.

    Args:
        points: Points (P, *event_shape).
        weights: Weights (P,), normalised here; default: equal.
        D: Degrees of freedom of the Student-t kernel, ``math.inf`` for Gaussian noise; ``denoiser`` uses the law's.
    """

    points: Tensor
    weights: Tensor

    def __init__(self, points: Any, weights: Any = None, D: float = math.inf) -> None:
        nn.Module.__init__(self)
        points = torch.as_tensor(points, dtype=torch.float64)
        self.event_shape, self.D = tuple(points.shape[1:]), D
        weights = torch.ones(len(points)) if weights is None else weights
        weights = torch.as_tensor(weights, dtype=torch.float64)
        self.register_buffer("points", points.reshape(len(points), -1))
        self.register_buffer("weights", weights / weights.sum())

    def posterior_mean(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        log_joint, _ = self._terms(x, alpha, sigma)
        return (torch.softmax(log_joint, 1) @ self.points).reshape(x.shape)

    def score(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        log_joint, scores = self._terms(x, alpha, sigma)
        return (torch.softmax(log_joint, 1)[..., None] * scores).sum(1).reshape(x.shape)

    def noise_mean(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """(x - alpha E[x_0 | x])/sigma, the field of PFGM++ for finite D (not a score)."""
        a, s = (_level(v, x) for v in (alpha, sigma))
        x0 = self.posterior_mean(x, alpha, sigma).reshape(len(x), -1)
        return ((x.double().reshape(len(x), -1) - a * x0) / _positive(s)).reshape(x.shape)

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        return torch.logsumexp(self._terms(x, alpha, sigma)[0], 1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        index = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.points[index].reshape(n, *self.event_shape)

    def with_kernel(self, D: float) -> DeltaOracle:
        return DeltaOracle(self.points.reshape(-1, *self.event_shape), self.weights, D)

    def mapped(self, matrix: Tensor) -> DeltaOracle:
        return DeltaOracle(self.points @ matrix.T, self.weights, self.D)

    def _terms(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        """log(w_p kernel(x | p)) (B, P) and the kernels' scores (B, P, d); at sigma = 0 the nearest point takes all."""
        a, s = (_level(v, x)[:, None] for v in (alpha, sigma))
        residual = x.double().reshape(len(x), 1, -1) - a * self.points
        dims = residual.shape[-1]
        s = s.clamp_min(1e-100).expand_as(residual)
        squares = (residual / s).square().sum(-1)
        if math.isinf(self.D):
            log_kernel = -0.5 * squares - 0.5 * dims * math.log(2 * math.pi)
            scores = -residual / s**2
        else:
            half = (dims + self.D) / 2
            constant = math.lgamma(half) - math.lgamma(self.D / 2) - dims / 2 * math.log(math.pi * self.D)
            log_kernel = constant - half * torch.log1p(squares / self.D)
            scores = -2 * half / (self.D + squares)[..., None] * residual / s**2
        return self.weights.log() + log_kernel - s.log().sum(-1), scores


def _model_line(model: str, schedule: Schedule, t: Tensor, mean: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept (d,) of the exact model value as a function of x, in the eigenbasis."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    variance = _positive(alpha**2 * values + sigma**2)
    x0, eps = alpha * values / variance, sigma / variance
    if model == "x0":
        return x0, mean - x0 * alpha * mean
    if model in ("eps", "score"):
        slope = eps if model == "eps" else -1 / variance
        return slope, -slope * alpha * mean
    slope = schedule.alpha_dot(t) * x0 + schedule.sigma_sigma_dot(t) / variance
    return slope, schedule.alpha_dot(t) * mean - slope * alpha * mean


def _level(value: Level, x: Tensor) -> Tensor:
    """A scale as (B, 1) or (B, d), float64."""
    value = torch.as_tensor(value, dtype=torch.float64, device=x.device)
    if value.ndim <= 1:
        return value.expand(len(x))[:, None]
    return value.expand_as(x).reshape(len(x), -1)


def _positive(value: Tensor) -> Tensor:
    """Zeros replaced by one: what they divide is zero as well (pseudo-inverse)."""
    return torch.where(value == 0, 1.0, value)
