r"""Student-t noise: the perturbation kernel of Poisson flow generative models (PFGM++).

With D augmented dimensions and radius r = sigma sqrt(D) the kernel of PFGM++ in N dimensions is

    p_r(x | y) = Gamma((N+D)/2) / (Gamma(D/2) pi^{N/2}) r^D (|x - y|^2 + r^2)^{-(N+D)/2},

the multivariate Student-t law with D degrees of freedom, location y and scale sigma. It is drawn for every real D > 0
as eps = z sqrt(D/chi2_D) with one chi-square a sample, and becomes Gaussian for D = inf. The flow in sigma is
dx/dsigma = (x - E[x_0 | x])/sigma for every D, so deterministic solvers need no change.

References: Xu et al. 2022 (PFGM, D = 1); Xu et al. 2023, "PFGM++: Unlocking the Potential of Physics-Inspired
Generative Models".
"""

from __future__ import annotations

import math

import torch
from scipy import special
from torch import Tensor

from scidiff.laws import NoiseLaw, log_normal
from scidiff.schedules import expand_like

__all__ = ["StudentTNoise"]


class StudentTNoise(NoiseLaw):
    r"""eps = z sqrt(D/chi2_D): Student-t noise with one chi-square a sample; D = inf is Gaussian noise.

    The chi-square multiplies the noise after it has been put into its space, so zero-mean, symmetric and masked states
    get the Student-t law of their own dimension. With one sigma per element (vector times) the law is an elliptical
    Student-t; the field theory of PFGM++ covers a common sigma only. The variance of a coordinate is D/(D - 2) for
    D > 2, else infinite: below D of about 0.3 single-precision noise can overflow.

    For finite D the quantity -(x - x_0)/sigma^2 is not the gradient of log p: methods that rest on a score refuse it.

    Args:
        D: Degrees of freedom, any real number above 0, or ``math.inf``.

    Raises:
        ValueError: If ``D`` is not above 0.

    References: Xu et al. 2023 (PFGM++). Unlike its reference code, no draw is clipped.
    """

    def __init__(self, D: float = 128.0) -> None:
        if not D > 0:
            raise ValueError(f"D must be a number above 0 or math.inf, got {D}.")
        self.D = float(D)
        self.is_gaussian = self.has_radius = False
        if math.isinf(self.D):
            self.is_gaussian = True
        else:
            self.has_radius = True

    def shape(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        radial: Tensor | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """Scale standard normal numbers (B, ...) by sqrt(D/chi2_D).

        Args:
            z: Standard normal numbers on their space.
            generator: Draws the chi-square if ``radial`` is absent.
            radial: Uniform numbers (B,) in (0, 1), mapped by the inverse distribution function of the chi-square.
            live: Not used.
        """
        if math.isinf(self.D):
            return z
        if radial is None:
            home = z.device if generator is None else generator.device
            concentration = torch.full((len(z),), self.D / 2, dtype=torch.float64, device=home)
            # the public Gamma distribution takes no generator
            half_chi2 = torch._standard_gamma(concentration, generator=generator)  # pyright: ignore
            half_chi2 = half_chi2.to(z.device)
        else:
            quantiles = special.gammaincinv(self.D / 2, radial.double().cpu().numpy())
            half_chi2 = torch.as_tensor(quantiles, dtype=torch.float64, device=z.device)
        factor = (self.D / 2 / half_chi2.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
        return (z.double() * expand_like(factor, z)).to(z.dtype)

    def log_prob(
        self, x: Tensor, sigma: Tensor | float, dims: Tensor | None = None, live: Tensor | None = None
    ) -> Tensor:
        """log Gamma((N+D)/2) - log Gamma(D/2) - (N/2) log(pi D sigma^2) - ((N+D)/2) log(1 + |x|^2/(D sigma^2))."""
        if math.isinf(self.D):
            return log_normal(x, sigma, dims)
        scale = self.D * torch.as_tensor(sigma, dtype=x.dtype, device=x.device) ** 2
        count = torch.as_tensor(dims if dims is not None else x[0].numel(), dtype=torch.float64, device=x.device)
        half = torch.tensor(self.D / 2, dtype=torch.float64, device=x.device)
        # log Gamma(N/2 + D/2) - log Gamma(D/2) - (N/2) log(D/2) without cancellation for large D
        gammas = _log_gamma_ratio(half, count / 2).to(x.dtype)
        volume = 0.5 * count * (2 * math.pi * scale / self.D).log()
        return (
            gammas
            - volume.to(x.dtype)
            - 0.5 * (count + self.D) * torch.log1p(x.reshape(len(x), -1).square().sum(1) / scale)
        )


def _log_gamma_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log Gamma(a + b) - log Gamma(a) - b log(a); by Stirling's series where a is large."""
    exact = torch.lgamma(a + b) - torch.lgamma(a) - b * a.log()

    def tail(z: Tensor) -> Tensor:
        return 1 / (12 * z) - 1 / (360 * z**3) + 1 / (1260 * z**5)

    # (a + b - 1/2) log(1 + b/a) - b, the leading part of Stirling's series, and its tail
    series = (a + b - 0.5) * torch.log1p(b / a) - b + tail(a + b) - tail(a)
    return torch.where(a > 50, series, exact)
