r"""What exponential integrators share: one step in the data form (x0) or in the noise form (eps).

Both forms read

    x_s = carry x_t + gain [phi_1(z) m_0 + phi_2(z) h m' + phi_3(z) h^2 m'' + ...],

with carry = sigma_s/sigma_t, gain = alpha_s h, z = -h for m = x0, and carry = alpha_s/alpha_t, gain = -sigma_s h, z =
h for m = eps. Where h is infinite (sigma_s = 0, alpha_t = 0) or the element stands still, the step is of first order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.coefficients import phi
from scidiff.samplers.rows import Curve

__all__ = ["Exponential"]


class Exponential:
    """Numbers of the step of ``curve`` in the form of ``model`` ("x0" or "eps"), elementwise.

    Attributes:
        carry: Factor of x_t.
        weight: Factor of m_0 at first order, gain phi_1(z).
        h: lambda_s - lambda_t where ``is_regular``, else 1.
        is_regular: Where h is finite and not zero, so that higher orders apply.
    """

    def __init__(self, curve: Curve, model: str) -> None:
        self.carry, self.weight = curve.first_order(model)
        h = curve.lam_s - curve.lam_t
        self.is_regular = torch.isfinite(h) & (h != 0) & ~curve.still
        self.h = torch.where(self.is_regular, h, 1.0)
        self.z = -self.h if model == "x0" else self.h
        self.gain = curve.alpha_s * self.h if model == "x0" else -curve.sigma_s * self.h

    def term(self, k: int) -> Tensor:
        """gain phi_k(z), the factor of h^{k-1} m^{(k-1)}."""
        return self.gain * phi(k, self.z)

    def higher(self, value: Tensor, where: Tensor | None = None) -> Tensor:
        """``value`` where higher orders apply, zero elsewhere."""
        return torch.where(self.is_regular if where is None else self.is_regular & where, value, 0.0)
