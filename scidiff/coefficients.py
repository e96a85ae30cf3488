r"""Coefficients of exponential and Adams integrators: phi functions and integrals of Lagrange polynomials, in float64.

With h = lambda_s - lambda_t the two semi-linear forms of the probability flow are integrals of the model value m,

    x_s = (sigma_s/sigma_t) x_t + alpha_s int_0^h e^{u-h} D(u) du        (data form, m = x0 prediction),
    x_s = (alpha_s/alpha_t) x_t - sigma_s int_0^h e^{h-u} e(u) du        (noise form, m = eps prediction),

and a multistep method replaces m by the polynomial through its known values.

References: Hochbruck and Ostermann 2010, "Exponential integrators", eq. 2.11 (phi functions).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["exponential_weights", "integral_weights", "lagrange", "phi"]

_SERIES_RADIUS = 1.0  # each level of the recursion divides a cancelled difference by z: lossy for small |z|
_SERIES_TERMS = 20  # 1/21! is below float64 precision
_QUADRATURE_NODES = 32


def phi(k: int, z: Tensor) -> Tensor:
    r"""phi_k(z) = int_0^1 e^{(1-u) z} u^{k-1}/(k-1)! du, phi_0 = exp, phi_k(0) = 1/k!.

    By phi_{k+1}(z) = (phi_k(z) - 1/k!)/z from expm1 for |z| >= 1, by its Taylor series below.

    Args:
        k: Index, at least 0.
        z: Real numbers of any shape, float64; -inf is allowed.
    """
    if k == 0:
        return z.exp()
    is_small = z.abs() < _SERIES_RADIUS
    small, large = torch.where(is_small, z, 0.0), torch.where(is_small, 1.0, z)
    series = torch.zeros_like(z)
    for j in reversed(range(_SERIES_TERMS)):
        series = series * small + 1 / math.factorial(j + k)
    value = torch.expm1(large) / large
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / large
    return torch.where(is_small, series, value)


def exponential_weights(z: Tensor, nodes: Tensor) -> Tensor:
    r"""w_j = int_0^1 e^{z (1-u)} l_j(u) du with the Lagrange polynomials l_j of ``nodes``, in closed form.

    The moments int_0^1 e^{z(1-u)} u^k du = k! phi_{k+1}(z) determine the weights by a Vandermonde system.

    Args:
        z: (...) real, -h in the data form and h in the noise form.
        nodes: (..., p) distinct nodes in units of the step: 0 is its start, 1 its end, history is negative.

    Returns:
        (..., p) weights.
    """
    count = nodes.shape[-1]
    moments = torch.stack([math.factorial(k) * phi(k + 1, z) for k in range(count)], dim=-1)
    powers = torch.stack([nodes**k for k in range(count)], dim=-2)
    return torch.linalg.solve(powers, moments[..., None])[..., 0]


def lagrange(nodes: Tensor, u: Tensor) -> Tensor:
    """Lagrange polynomials of ``nodes`` (..., p) at ``u`` (..., m), shape (..., p, m)."""
    count = nodes.shape[-1]
    rows = []
    for j in range(count):
        row = torch.ones_like(u)
        for i in range(count):
            if i != j:
                row = row * (u - nodes[..., i, None]) / (nodes[..., j, None] - nodes[..., i, None])
        rows.append(row)
    return torch.stack(rows, dim=-2)


def integral_weights(
    kernel: Callable[[Tensor], Tensor],
    nodes: Tensor,
    interval: tuple[Tensor, Tensor],
    coordinate: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""w_j = int_a^b kernel(u) l_j(c(u)) du by Gauss-Legendre quadrature with 32 nodes.

    Args:
        kernel: Function of u (..., 32), pointwise.
        nodes: (..., p) distinct nodes in the coordinate c.
        interval: Ends a and b, (...).
        coordinate: The map c; the identity by default.

    Returns:
        (..., p) weights.
    """
    points, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(_QUADRATURE_NODES))
    half = ((interval[1] - interval[0]) / 2)[..., None]
    u = interval[0][..., None] + half * (1 + points)
    values = lagrange(nodes, u if coordinate is None else coordinate(u)) * (kernel(u) * weights * half)[..., None, :]
    return values.sum(-1)
