"""Exact joint Gaussian data on one component or a system, by dense linear algebra, independent of the guidance code."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scidiff import Denoiser, Process
from scidiff.noise import Symmetric, ZeroMean


class GaussianData:
    """x_0 ~ N(mean, cov) on the flattened, concatenated components; exact E[x_0 | x_t] as the network."""

    def __init__(self, process: Process, shapes: dict[str, tuple[int, ...]], mean: Tensor, cov: Tensor) -> None:
        self.process, self.shapes, self.mean, self.cov = process, shapes, mean, cov
        self.sizes = [math.prod(shape) for shape in shapes.values()]
        self.metric = torch.block_diag(*(noise_covariance(process.continuous[k].space, s) for k, s in shapes.items()))

    @classmethod
    def random(cls, process: Process, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> GaussianData:
        """Random mean and full-rank covariance on the spaces of the components."""
        generator = torch.Generator().manual_seed(seed)
        data = cls(process, shapes, torch.empty(0), torch.empty(0))
        n = len(data.metric)
        factor = data.metric @ torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
        data.mean = data.metric @ torch.randn(n, generator=generator, dtype=torch.float64)
        data.cov = factor @ factor.T + 0.1 * data.metric
        return data

    def denoiser(self) -> Denoiser:
        return Denoiser(self.network, self.process, prediction="x0")

    def network(self, x_t, t, cond):
        gain, scale = self.system(t)
        x = self.flat(x_t)
        mean = self.mean.to(x)
        return self.split(mean + (gain.to(x) @ (x - scale.to(x) * mean)[..., None])[..., 0])

    def system(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Gain C A (A C A + Sigma)^+ (B, n, n) and diagonal of A (B, n)."""
        scale, noise = self.scales(t)
        marginal = scale[:, :, None] * self.cov * scale[:, None, :] + noise
        return self.cov * scale[:, None, :] @ torch.linalg.pinv(marginal, hermitian=True), scale

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        schedules = [self.process.continuous[name].schedule for name in self.shapes]
        time = t.double()

        def wide(values):
            return torch.cat([v[:, None].expand(-1, n) for v, n in zip(values, self.sizes, strict=True)], 1)

        sigma = wide([s.sigma(time) for s in schedules])
        return wide([s.alpha(time) for s in schedules]), sigma[:, :, None] * self.metric * sigma[:, None, :]

    def posterior(self, x_t, t: Tensor, H: Tensor, y: Tensor, variance: float) -> Tensor:
        """E[x_0 | x_t, y] (B, n) from the joint Gaussian of (x_0, x_t, y), y = H x_0 + noise."""
        gain, scale = self.system(t)
        x = self.flat(x_t)
        mean = self.mean + (gain @ (x - scale * self.mean)[..., None])[..., 0]
        cov = self.cov - gain @ (scale[:, :, None] * self.cov)
        middle = H @ cov @ H.T + variance * torch.eye(len(H), dtype=torch.float64)
        return mean + (cov @ H.T @ torch.linalg.solve(middle, (y - mean @ H.T)[..., None]))[..., 0]

    def draw(self, batch: int, t: Tensor, seed: int = 1):
        """x_0 (B, n) flat and x_t as a state."""
        generator = torch.Generator().manual_seed(seed)
        n = len(self.mean)
        x_0 = self.mean + torch.randn(batch, n, generator=generator, dtype=torch.float64) @ square_root(self.cov).T
        scale, noise = self.scales(t)
        eps = torch.randn(batch, n, 1, generator=generator, dtype=torch.float64)
        return x_0, self.split(scale * x_0 + (square_root(noise) @ eps)[..., 0])

    def flat(self, state) -> Tensor:
        parts = self.process.split(state)
        return torch.cat([parts[name].flatten(1) for name in self.shapes], 1)

    def split(self, flat: Tensor):
        pieces = flat.split(self.sizes, 1)
        parts = {k: v.reshape(-1, *s) for (k, s), v in zip(self.shapes.items(), pieces, strict=True)}
        return self.process.join(parts)


def noise_covariance(space, shape: tuple[int, ...]) -> Tensor:
    """Covariance of unit noise on the flattened component, written out by hand."""
    eye = torch.eye(math.prod(shape), dtype=torch.float64)
    if isinstance(space, ZeroMean):
        n, d = shape
        return torch.kron(torch.eye(n, dtype=torch.float64) - 1 / n, torch.eye(d, dtype=torch.float64))
    if isinstance(space, Symmetric):
        n = shape[0]
        pairs = torch.stack([eye[i * n + j] + eye[j * n + i] for i in range(n) for j in range(i + 1, n)])
        return pairs.T @ pairs
    return eye


def square_root(matrix: Tensor) -> Tensor:
    """Symmetric square root of positive semi-definite matrices."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.mT
