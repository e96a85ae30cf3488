r"""Preconditioning: D(x) = c_skip y + c_out F(c_in y, c_noise) on the shifted state y = alpha x_0 + sigma eps.

| kind | c_skip | c_out | c_in | c_noise |
| --- | --- | --- | --- | --- |
| ``"edm"`` | alpha sd^2/V | sigma sd/sqrt(V) | 1/sqrt(V) | log(rho)/4 |
| ``"vp"`` | 1/alpha | -rho | 1/(alpha sqrt(1 + rho^2)) | 999 t |
| ``"ve"`` | 1/alpha | rho | 1/alpha | log(rho/2) |
| ``"iddpm"`` | 1/alpha | -rho | 1/(alpha sqrt(1 + rho^2)) | M - 1 - nearest index |

with V = alpha^2 sd^2 + sigma^2 and rho = sigma/alpha.
The last three are written by their authors for alpha = 1 and are applied to y/alpha here.

References: Karras et al. 2022, table 1, eq. 7 and appendix B.6 ("edm" is extended to alpha != 1).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Coefficients", "Preconditioning", "coefficients"]

Preconditioning = Literal["edm", "vp", "ve", "iddpm"]
_IDDPM_LEVELS = 1000
_MAX_LOG_RHO = 18.0  # bounds c_noise where sigma = 0 or alpha = 0; float32 does not resolve the state beyond it


class Coefficients(NamedTuple):
    """c_skip, c_out, c_in, c_noise with the shape of t."""

    skip: Tensor
    out: Tensor
    scale: Tensor
    noise: Tensor


def coefficients(kind: Preconditioning, alpha: Tensor, sigma: Tensor, t: Tensor, data_std: float = 1.0) -> Coefficients:
    """Coefficients of ``kind``; float64 tensors in, float64 tensors out.

    Args:
        kind: Name of the preconditioning.
        alpha: Signal scale.
        sigma: Noise scale.
        t: Time; the "vp" network is called with 999 t.
        data_std: Standard deviation of the data; only "edm" uses it.

    Raises:
        ValueError: If ``kind`` is unknown.
    """
    if kind == "edm":
        variance = (alpha * data_std) ** 2 + sigma**2
        noise = _log_rho(alpha, sigma) / 4
        return Coefficients(alpha * data_std**2 / variance, sigma * data_std / variance.sqrt(), variance.rsqrt(), noise)
    rho = sigma / alpha
    if kind == "vp":
        return Coefficients(1 / alpha, -rho, 1 / (alpha * (1 + rho**2).sqrt()), 999 * t)
    if kind == "ve":
        return Coefficients(1 / alpha, rho, 1 / alpha, _log_rho(alpha, sigma) - math.log(2))
    if kind == "iddpm":
        levels = iddpm_levels().to(rho.device)
        nearest = (rho[..., None] - levels).abs().argmin(-1)
        return Coefficients(1 / alpha, -rho, 1 / (alpha * (1 + rho**2).sqrt()), (_IDDPM_LEVELS - 1 - nearest).to(rho))
    raise ValueError(f"unknown preconditioning {kind!r}; known: 'edm', 'vp', 've', 'iddpm'.")


def iddpm_levels(num_levels: int = _IDDPM_LEVELS, floor: float = 0.001) -> Tensor:
    """u_0 > ... > u_M = 0 with u_{j-1} = sqrt((u_j^2 + 1)/max(abar_{j-1}/abar_j, floor) - 1), M = ``num_levels``."""
    angles = math.pi / 2 * torch.arange(num_levels + 1, dtype=torch.float64) / num_levels / 1.008
    abar = torch.sin(angles) ** 2
    levels = torch.zeros(num_levels + 1, dtype=torch.float64)
    for j in range(num_levels, 0, -1):
        levels[j - 1] = ((levels[j] ** 2 + 1) / (abar[j - 1] / abar[j]).clamp_min(floor) - 1).sqrt()
    return levels


def _log_rho(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (sigma.log() - alpha.log()).clamp(-_MAX_LOG_RHO, _MAX_LOG_RHO)
