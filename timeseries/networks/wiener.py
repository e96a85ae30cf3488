r"""A network around the Wiener filter of the data: what is linear is known before training begins.

With data N(mu, U diag(lambda) U^T) and x_t = x_0 + rho n the best denoiser is the Wiener filter
mu + U diag(lambda/(lambda + rho^2)) U^T (x_t - mu), and its error has the variance rho^2 lambda/(lambda + rho^2) along
each column of U. `WienerNetwork` adds to it a correction in units of that error,

    D(x_t) = mu + U [lambda/(lambda + rho^2) z + rho sqrt(lambda/(lambda + rho^2)) U^T G],
    z = U^T (x_t - mu),    G = G(U z/sqrt(lambda + rho^2), rho),

where the network G sees and gives numbers of unit variance. G starts at zero: the untrained model is a Gaussian process
with the covariance of the data, and its guided forecasts are linear regression with error bars.

The covariance is that of a multivariate t distribution fitted by maximum likelihood: a few windows with outliers do not
spoil it. Ours; the preconditioning is that of EDM for every principal component with its own data variance.

References: Karras et al. 2022 (EDM), appendix B.6; Lange, Little and Taylor 1989 (t fit by reweighting).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scidiff.configurable import Configurable
from timeseries.networks.s4 import S4Backbone

__all__ = ["WienerNetwork", "robust_moments"]

_DEGREES = 4.0  # of freedom of the t distribution
_ITERATIONS = 20
_RIDGE = 1e-4  # smallest variance over the mean one


class WienerNetwork(Configurable, nn.Module):
    """Denoises windows x (B, length, D, channels) of one length; for ``prediction="edm"`` with unit data variance.

    Value and lags of a variate are one vector of length x channels numbers, whose moments all variates share. `measure`
    sets them before training; they travel with the weights.

    Args:
        network: G; its last layer starts at zero. `S4Backbone` by default.
        length: L = context + prediction length.
        channels: Value and lags of a variate.
        num_variates: D.

    Raises:
        ValueError: If ``network`` has no last layer ``output[-1]``.
    """

    mean: Tensor
    variances: Tensor
    vectors: Tensor
    is_measured: Tensor

    def __init__(
        self, network: nn.Module | None = None, length: int = 48, channels: int = 1, num_variates: int = 1
    ) -> None:
        super().__init__()
        self.shape = (length, num_variates, channels)
        self.network = network if network is not None else S4Backbone(channels, num_variates)
        output = getattr(self.network, "output", None)
        if not isinstance(output, nn.Sequential) or not isinstance(output[-1], nn.Linear):
            raise ValueError(f"expected a network that ends with a linear output[-1], got {type(network).__name__}.")
        for parameter in output[-1].parameters():
            nn.init.zeros_(parameter)
        size = length * channels
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variances", torch.ones(size))
        self.register_buffer("vectors", torch.eye(size))
        self.register_buffer("is_measured", torch.tensor(False))

    @property
    def needs_moments(self) -> bool:
        """Whether `measure` was not called yet."""
        return not bool(self.is_measured)

    @torch.no_grad()
    def measure(self, states: Tensor, observed: Tensor) -> None:
        """Moments of scaled windows (N, length, D, channels); of variates that are observed completely.

        Raises:
            ValueError: If less than two such windows are there.
        """
        rows = states.transpose(1, 2).flatten(2).flatten(0, 1)
        complete = observed.expand(states.shape).transpose(1, 2).flatten(2).flatten(0, 1).all(1)
        if int(complete.sum()) < 2:
            raise ValueError(
                f"the Wiener filter needs windows without gaps to be measured on, got {int(complete.sum())} of "
                f"{len(complete)}. Shorten context and lags, or use S4Backbone."
            )
        mean, covariance = robust_moments(rows[complete].double())
        variances, vectors = torch.linalg.eigh(covariance)
        self.mean.copy_(mean)
        self.variances.copy_(variances)
        self.vectors.copy_(vectors)
        self.is_measured.fill_(True)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """F with D = c_skip x_t + c_out F, from x = x_t/sqrt(1 + rho^2) and t = log(rho)/4."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected windows (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}.")
        rho = torch.exp(4 * t).to(x.dtype)[:, None, None]
        size = (1 + rho**2).sqrt()
        total = self.variances + rho**2
        z = (self.rows(x) * size - self.mean) @ self.vectors
        correction = self.network(self.windows(z / total.sqrt() @ self.vectors.T), t, cond)
        error = self.rows(correction) @ self.vectors * (self.variances / total).sqrt() * size
        linear = rho * (self.variances - 1) / (total * size) * z
        return self.windows((linear + error) @ self.vectors.T + self.mean * rho / size)

    def rows(self, x: Tensor) -> Tensor:
        """Windows (B, L, D, channels) as vectors (B, D, L channels)."""
        return x.transpose(1, 2).flatten(2)

    def windows(self, rows: Tensor) -> Tensor:
        """Inverse of `rows`."""
        length, _, channels = self.shape
        return rows.unflatten(2, (length, channels)).transpose(1, 2)


def robust_moments(rows: Tensor, degrees: float = _DEGREES, iterations: int = _ITERATIONS) -> tuple[Tensor, Tensor]:
    """Mean (n,) and covariance (n, n) of the t distribution that fits rows (N, n), scaled to the rows' typical size.

    Each iteration weighs row i by (degrees + n)/(degrees + m_i), m_i its squared Mahalanobis distance. The shape is
    multiplied by median(m_i)/n, so that for normal rows it is their covariance.
    """
    count, size = rows.shape
    weight = torch.ones(count, dtype=rows.dtype, device=rows.device)
    mean = rows.mean(0)
    shape = distance = torch.empty(0)
    for _ in range(iterations):
        mean = weight @ rows / weight.sum()
        centered = rows - mean
        shape = (centered * weight[:, None]).T @ centered / count
        shape = shape + _RIDGE * shape.diagonal().mean() * torch.eye(size, dtype=rows.dtype, device=rows.device)
        root = torch.linalg.cholesky(shape)
        distance = torch.linalg.solve_triangular(root, centered.T, upper=False).square().sum(0)
        weight = (degrees + size) / (degrees + distance)
    return mean, shape * (distance.median() / size).clamp_min(1e-3)
