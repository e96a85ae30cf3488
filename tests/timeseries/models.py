"""Small models of tests: an exact Gaussian denoiser of windows, and toy series."""

import numpy as np
import torch
from torch import nn

from scidiff.configurable import Configurable
from timeseries.data.scaling import SeriesSpec
from timeseries.diffusion import make_denoiser
from timeseries.generator import DiffusionForecaster


def kernel(length):
    """Covariance of a drifting season of 12 and a short memory."""
    index = torch.arange(length, dtype=torch.float64)
    d = (index[:, None] - index).abs()
    periodic = 0.6 * (-2 * torch.sin(torch.pi * d / 12) ** 2 - d / 100).exp()
    return periodic + 0.4 * (-d / 6).exp() + 1e-2 * torch.eye(length, dtype=torch.float64)


class ExactWindows(Configurable, nn.Module):
    """Raw output of a network that is exact for windows ~ N(0, K) of one channel and noise of covariance ``noise``."""

    def __init__(self, length: int = 36, preset: str = "edm", noise=None) -> None:
        super().__init__()
        self.k = kernel(length)
        self.noise = torch.eye(length, dtype=torch.float64) if noise is None else torch.as_tensor(noise).double()
        values, vectors = torch.linalg.eigh(self.noise)
        root = vectors * values.rsqrt()
        self.values, rotation = torch.linalg.eigh(root.T @ self.k @ root)  # both covariances diagonal in one basis
        self.basis = root @ rotation
        self.preset = preset
        self.place = nn.Parameter(torch.zeros(1))
        self.schedule = make_denoiser(nn.Identity(), preset).process.continuous[""].schedule

    def forward(self, x, t, cond):
        if self.preset == "edm":  # x comes as c_in x, t as log(sigma)/4
            sigma = (4 * t.double()).exp()[:, None]
            alpha, c_in = torch.ones_like(sigma), 1 / (1 + sigma**2).sqrt()
            y = x.double().flatten(1) / c_in
        else:
            alpha, sigma = (f(t.double())[:, None] for f in (self.schedule.alpha, self.schedule.sigma))
            y = x.double().flatten(1)
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        x0 = ((y @ self.basis) * gain) @ torch.linalg.inv(self.basis)
        if self.preset == "edm":
            raw = (x0 - y / (1 + sigma**2)) * (1 + sigma**2).sqrt() / sigma
        elif self.preset == "flow":
            raw = (y - x0) / sigma  # -x0 + eps
        else:
            raw = (y - alpha * x0) / sigma
        return raw.reshape(x.shape).to(x.dtype)


def exact_forecaster(context=24, steps=12, preset="edm", scaling="mean", law=None, **options):
    spec = SeriesSpec("h", steps, context, scaling=scaling)
    network = ExactWindows(spec.length, preset, None if law is None else law.covariance(spec.length))
    denoiser = make_denoiser(network, preset, law)
    return DiffusionForecaster("h", steps, context, preset=preset, denoiser=denoiser, spec=spec, **options)


def posterior(y, observed):
    """Mean (L,) and covariance of N(0, K) given the observed entries of y (L,), measured with the floor .02."""
    k = kernel(len(y)).numpy()
    o = np.flatnonzero(observed)
    gain = np.linalg.solve(k[np.ix_(o, o)] + 4e-4 * np.eye(len(o)), k[o]).T
    return gain @ y[o], k - gain @ k[o]


def seasonal_data(series=6, length=200, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    waves = [5 + np.sin(2 * np.pi * t / 12 + p) for p in rng.uniform(0, 6, series)]
    return np.stack(waves) + 0.1 * rng.normal(size=(series, length))
