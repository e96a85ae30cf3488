"""Laws of the unit noise: how eps of x_t = alpha x_0 + beta x_1 + sigma eps is distributed.

`GaussianNoise` is here, white or correlated; `scidiff.student.StudentTNoise` is the kernel of PFGM++. A law turns
standard normal numbers, which a space has already arranged, into its own noise, and knows the density of sigma eps.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scidiff import random
from scidiff.configurable import Configurable

__all__ = ["GaussianNoise", "NoiseLaw", "log_normal"]


class NoiseLaw(Configurable):
    """Distribution of the unit noise eps.

    Attributes:
        is_gaussian: Whether -eps/sigma (whitened) is a score; finite-D Student-t noise has none.
        has_radius: Whether a draw takes one more uniform number a sample.
        axis: Axis of the state along which the noise is correlated, None if nowhere.
    """

    is_gaussian: bool = True
    has_radius: bool = False
    axis: int | None = None

    @abstractmethod
    def shape(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        radial: Tensor | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """Turn standard normal numbers (B, ...) into unit noise of this law.

        Args:
            z: Standard normal numbers on their space.
            generator: Source of further random numbers, if ``radial`` is absent.
            radial: Uniform numbers (B,) for a law with ``has_radius``.
            live: True where ``z`` was drawn (broadcastable), None if everywhere.
        """

    @abstractmethod
    def log_prob(
        self, x: Tensor, sigma: Tensor | float, dims: Tensor | None = None, live: Tensor | None = None
    ) -> Tensor:
        """Log density (B,) in nats of sigma eps.

        Args:
            x: Where (B, ...), zero outside ``live``.
            sigma: Noise scale, a number or (B,).
            dims: Dimension (B,) of the space; default: all numbers of a sample.
            live: True at independent numbers (broadcastable), None if everywhere.
        """

    def covary(self, x: Tensor, live: Tensor | None = None) -> Tensor:
        """K x with K the covariance of the unit noise; x itself for isotropic noise."""
        return x

    def whiten(self, x: Tensor, live: Tensor | None = None) -> Tensor:
        """K^{-1} x: the score is -K^{-1} eps/sigma. x itself for isotropic noise."""
        return x

    def sample(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Unit noise of ``shape``; the first axis counts samples."""
        z = random.drawn(torch.randn, shape, generator=generator, dtype=dtype, device=device)
        return self.shape(z, generator=generator)


class GaussianNoise(NoiseLaw):
    r"""Normal noise on the space of its component: white, or correlated along one axis, eps = L z.

    Correlated noise (a Gaussian-process prior over frames or hours) changes no solver: x0, eps and velocity obey the
    same relations, and only the score, -(L L^T)^{-1} eps/sigma, and the density know L. Where a mask leaves out
    elements of that axis, the noise of the others is the marginal of the process.

    Args:
        cholesky: Lower triangular L (n, n) with a positive diagonal; None for white noise.
        axis: Axis of the state (0 is the sample) of length n.

    Raises:
        ValueError: If ``cholesky`` is not a lower triangular matrix with a positive diagonal, or ``axis`` is 0.

    References: Bilos et al. 2023, "Modeling Temporal Data as Continuous Functions with Stochastic Process Diffusion".
    """

    def __init__(self, cholesky: Sequence[Sequence[float]] | Tensor | None = None, axis: int = 1) -> None:
        if cholesky is None:
            return
        factor = torch.as_tensor(cholesky, dtype=torch.float64)
        if factor.ndim != 2 or factor.shape[0] != factor.shape[1] or not bool((factor.diagonal() > 0).all()):
            raise ValueError(f"cholesky must be square with a positive diagonal, got shape {tuple(factor.shape)}.")
        if bool(factor.triu(1).any()) or axis < 1:
            raise ValueError(
                f"cholesky must be lower triangular and axis at least 1 (0 is the sample), got axis={axis}."
            )
        self.axis, self._factor = axis, factor

    def shape(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        radial: Tensor | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        return z if self.axis is None else self._along(lambda factor, v: factor @ v, z, live)

    def covary(self, x: Tensor, live: Tensor | None = None) -> Tensor:
        return x if self.axis is None else self._along(lambda factor, v: factor @ (factor.mT @ v), x, live)

    def whiten(self, x: Tensor, live: Tensor | None = None) -> Tensor:
        return x if self.axis is None else self._along(lambda factor, v: torch.cholesky_solve(v, factor), x, live)

    def log_prob(
        self, x: Tensor, sigma: Tensor | float, dims: Tensor | None = None, live: Tensor | None = None
    ) -> Tensor:
        """-(N/2) log(2 pi sigma^2) - log det L - |L^{-1} x|^2/(2 sigma^2), det over all rows of the correlated axis."""
        if self.axis is None:
            return log_normal(x, sigma, dims)
        z = self._along(lambda factor, v: torch.linalg.solve_triangular(factor, v, upper=False), x, live)
        log_det = self._factors(x, live).diagonal(dim1=-2, dim2=-1).log()  # (..., n), 0 at masked elements
        rows = log_det.reshape((1,) * (x.ndim - log_det.ndim) + log_det.shape).movedim(-1, self.axis).expand_as(x)
        numbers = torch.ones_like(x) if live is None else live.expand_as(x).to(x.dtype)
        count = numbers.reshape(len(x), -1).sum(1).clamp_min(1)
        share = 1.0 if dims is None else dims / count  # a zero-mean space has fewer dimensions than numbers
        return log_normal(z, sigma, dims) - share * (rows * numbers).reshape(len(x), -1).sum(1)

    def _along(self, apply: Callable[[Tensor, Tensor], Tensor], x: Tensor, live: Tensor | None) -> Tensor:
        """Apply an operation with L to the columns of x along the axis."""
        assert self.axis is not None
        columns = x.movedim(self.axis, -1)[..., None]
        factor = self._factors(x, live)
        return apply(factor.expand(*columns.shape[:-2], *factor.shape[-2:]), columns)[..., 0].movedim(-1, self.axis)

    def _factors(self, x: Tensor, live: Tensor | None) -> Tensor:
        """L, or for a mask that varies along the axis the factors (..., n, n) of the marginal covariances."""
        assert self.axis is not None
        factor = self._factor.to(device=x.device, dtype=x.dtype)
        if x.shape[self.axis] != len(factor):
            raise ValueError(
                f"the noise is correlated over {len(factor)} elements of axis {self.axis}, but the state has shape "
                f"{tuple(x.shape)}. See scidiff.GaussianNoise."
            )
        if live is None or live.shape[self.axis] == 1:
            return factor
        kept = live.movedim(self.axis, -1).to(x.dtype)
        covariance = factor @ factor.T * kept[..., None] * kept[..., None, :] + torch.diag_embed(1 - kept)
        return torch.linalg.cholesky(covariance)


def log_normal(x: Tensor, sigma: Tensor | float, dims: Tensor | None = None) -> Tensor:
    """-(N/2) log(2 pi sigma^2) - |x|^2/(2 sigma^2), with N = ``dims`` (default: all numbers of a sample)."""
    variance = torch.as_tensor(sigma, dtype=x.dtype, device=x.device) ** 2
    count = dims if dims is not None else x[0].numel()
    return -0.5 * (count * (2 * math.pi * variance).log() + x.reshape(len(x), -1).square().sum(1) / variance)
