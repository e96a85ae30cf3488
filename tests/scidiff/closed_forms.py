"""Closed forms that several tests compare with: mixtures under Gaussian and Student-t kernels, pairs of mixtures."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scidiff import Process
from scidiff.schedules import Schedule

F64 = torch.float64
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
MEANS = torch.tensor([[-2.0, 0.0], [1.0, 2.0], [2.0, -1.0]], dtype=F64)
VARIANCES = torch.tensor([0.05, 0.2, 0.1], dtype=F64)
POINTS = torch.tensor([[-1.0, 0.3], [0.8, 0.9], [0.2, -1.2]], dtype=F64)


class Mixture:
    """Isotropic Gaussian mixture in 2 dimensions seen through x = alpha x_0 + sigma eps with Gaussian eps."""

    def __init__(self, weights: Tensor = WEIGHTS, means: Tensor = MEANS, variances: Tensor = VARIANCES) -> None:
        self.weights, self.means, self.variances = weights, means, variances

    def log_terms(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        variance = (alpha**2 * self.variances + sigma**2)[..., :]
        squares = (x[:, None] - alpha[..., None] * self.means).square().sum(-1)
        dims = self.means.shape[1]
        return self.weights.log() - 0.5 * dims * (2 * math.pi * variance).log() - 0.5 * squares / variance

    def log_prob(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        a, s = _column(alpha, x), _column(sigma, x)
        return torch.logsumexp(self.log_terms(x, a, s), 1)

    def x0(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        a, s = _column(alpha, x), _column(sigma, x)
        responsibility = torch.softmax(self.log_terms(x, a, s), 1)
        gain = a * self.variances / (a**2 * self.variances + s**2)
        means = self.means + gain[..., None] * (x[:, None] - a[..., None] * self.means)
        return (responsibility[..., None] * means).sum(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        index = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=F64)
        return self.means[index] + self.variances[index].sqrt()[:, None] * z


class Points:
    """Equally weighted points seen through x = y + sigma eps with Student-t eps of D degrees of freedom."""

    def __init__(self, D: float, points: Tensor = POINTS) -> None:
        self.D, self.points = D, points

    def log_kernel(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """-(N+D)/2 log(1 + |x-y|^2/(D sigma^2)), up to terms that do not depend on the point."""
        squares = (x[:, None] - self.points).square().sum(-1) / _column(sigma, x) ** 2
        if math.isinf(self.D):
            return -0.5 * squares
        return -0.5 * (self.points.shape[1] + self.D) * torch.log1p(squares / self.D)

    def x0(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.softmax(self.log_kernel(x, sigma), 1) @ self.points

    def log_prob(self, x: Tensor, sigma: float) -> Tensor:
        dims = self.points.shape[1]
        law = stats.multivariate_t(np.zeros(dims), sigma**2 * np.eye(dims), df=self.D)
        terms = torch.as_tensor(law.logpdf((x[:, None] - self.points).numpy()), dtype=F64)
        return torch.logsumexp(terms, 1) - math.log(len(self.points))


class MixturePair:
    """x = alpha x_0 + beta x_1 + sigma eps with independent isotropic mixtures for x_0 (data) and x_1 (base)."""

    def __init__(self, data: Mixture, base: Mixture) -> None:
        self.data, self.base = data, base

    def conditional(
        self, x: Tensor, alpha: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(log p, E[x_0|x], E[x_1|x], E[eps|x]) for coefficients (B, 1)."""
        m0, m1 = self.data.means[:, None], self.base.means[None]
        v0, v1 = self.data.variances[:, None], self.base.variances[None]
        log_weight = (self.data.weights[:, None] * self.base.weights).log().flatten()
        a, b, s = (c[..., None] for c in (alpha, beta, sigma))  # (B, 1, 1)
        residual = x[:, None] - (a[..., None] * m0 + b[..., None] * m1).flatten(1, 2)  # (B, pairs, d)
        variance = (a**2 * v0 + b**2 * v1 + s**2).flatten(1, 2)  # (B, pairs)
        dims = x.shape[1]
        log_terms = (
            log_weight - 0.5 * dims * (2 * math.pi * variance).log() - 0.5 * residual.square().sum(-1) / variance
        )
        weight = torch.softmax(log_terms, 1)[..., None]
        scaled = residual / variance[..., None]
        gain0, gain1 = (
            (a * v0).expand(-1, -1, v1.shape[1]).flatten(1, 2),
            (b * v1).expand(-1, v0.shape[0], -1).flatten(1, 2),
        )
        x_0 = m0.expand(-1, m1.shape[1], -1).flatten(0, 1) + gain0[..., None] * scaled
        x_1 = m1.expand(m0.shape[0], -1, -1).flatten(0, 1) + gain1[..., None] * scaled
        means = (weight * x_0).sum(1), (weight * x_1).sum(1), (weight * sigma[..., None] * scaled).sum(1)
        return torch.logsumexp(log_terms, 1), *means

    def velocity_and_eps(self, schedule: Schedule, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity by the expectation of sigma sigma' eps/sigma, which is finite at both ends, and E[eps|x]."""
        time = t[:, None]
        sigma = schedule.sigma(time)
        _, x_0, x_1, eps = self.conditional(x, schedule.alpha(time), schedule.endpoint(time), sigma)
        # E[eps|x]/sigma stays finite: divide the gain, not the result
        tiny = torch.where(sigma == 0, 1e-150, sigma)
        ratio = self.conditional(x, schedule.alpha(time), schedule.endpoint(time), tiny)[3] / tiny
        drift = schedule.alpha_dot(time) * x_0 + schedule.endpoint_dot(time) * x_1
        return drift + schedule.sigma_sigma_dot(time) * ratio, eps


def network(target: Mixture | Points, process: Process, x_1: Tensor | None = None):
    """Exact x0 prediction of one component as a network; ``x_1`` is the endpoint if the schedule has one."""
    schedule = process.components[""].schedule

    def predict(x: Tensor, t: Tensor, cond: object) -> Tensor:
        y = x if x_1 is None else x - schedule.endpoint(t)[:, None] * x_1
        return target.x0(y, schedule.alpha(t), schedule.sigma(t))

    return predict


def _column(value: float | Tensor, x: Tensor) -> Tensor:
    value = torch.as_tensor(value, dtype=F64)
    return value.reshape(-1, 1) if value.ndim else value.expand(len(x))[:, None]
