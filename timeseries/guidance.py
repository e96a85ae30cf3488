r"""Observations through the posterior covariance of the Wiener filter inside a `timeseries.networks.WienerNetwork`.

With x_0 | x_t taken as N(x0, V), an observation of some of its numbers, y = H x_0 + noise, moves the prediction to

    x0 + V H^T (R + H V H^T)^{-1} (y - H x0),        V = U diag(rho^2 lambda/(lambda + rho^2)) U^T,  rho = sigma/alpha.

Moment matching estimates V by the Jacobian of the network and solves by a few Krylov iterations, each a backward pass;
here V is known and the system is solved exactly, without any. Exact for normal data; for others V is that of the normal
law with their covariance, while x0 is the network's. Only the ratios of variances matter where R is small, so a window
that is wilder than the average is guided as well as a calm one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance import Guidance, Observation
from scidiff.guidance.base import Point, Shift, require_gaussian
from timeseries.networks.wiener import WienerNetwork

__all__ = ["WienerGuidance"]

_FLOOR = 0.02  # standard deviation below which y is trusted no further, in scaled units


class WienerGuidance(Guidance):
    """See the module: one network call and no backward pass.

    Args:
        observation: A mask (True = observed) and values, both (B, L, D, channels).
        floor: Smallest measurement noise that is assumed, in scaled units.

    Raises:
        ValueError: When wrapping, if the denoiser is not a `WienerNetwork` or the observation has no mask.
    """

    def __init__(self, observation: Observation, floor: float = _FLOOR) -> None:
        self.observation, self.floor = observation, max(float(floor), observation.noise_std)

    def check(self, den: Denoiser) -> None:
        """Find the moments, and the different masks among the rows."""
        require_gaussian(den, self)
        network = den.network
        if not isinstance(network, WienerNetwork):
            raise ValueError(
                f"guidance 'wiener' takes the moments of a WienerNetwork, but the model is a {type(network).__name__}; "
                "use guidance 'mmps'."
            )
        if self.observation.mask is None:
            raise ValueError("guidance 'wiener' needs an Observation with a bool mask (True = observed).")
        self.network = network
        rows = network.rows(self.observation.mask).flatten(0, 1)
        self._masks, self._which = torch.unique(rows, dim=0, return_inverse=True)

    def shift(self, point: Point) -> Shift:
        """V H^T (R + H V H^T)^{-1} (y - H x0)."""
        (name,) = point.x0
        rho = point.noise_ratio(name)
        residual = self.observation.residual(point.x0 if point.keeps_graph else {name: point.x0[name].detach()})
        rows = self.network.rows(residual)
        gain = self.gain(rho.flatten()[0]).to(rows.dtype)
        if len(gain) == 1:
            moved = rows @ gain[0].T
        else:
            moved = torch.einsum("bij,bj->bi", gain[self._which], rows.flatten(0, 1)).reshape(rows.shape)
        return {name: self.network.windows(moved)}

    def gain(self, rho: Tensor) -> Tensor:
        """V H^T (R + H V H^T)^{-1} (masks, n, n) at one noise level, columns of what is not observed zero."""
        variances, vectors = self.network.variances.double(), self.network.vectors.double()
        rho2 = rho.to(variances) ** 2
        posterior = (vectors * (rho2 * variances / (variances + rho2))) @ vectors.T
        seen = self._masks.to(posterior)
        system = posterior * seen[:, :, None] * seen[:, None, :]
        system = system + torch.diag_embed(torch.where(self._masks, self.floor**2, 1.0))
        return (torch.linalg.solve(system, seen[:, :, None] * posterior)).mT
