r"""Categorical components: forward law, closed-form posterior for any step, continuous-time Markov chain step.

Forward, with keep probability kappa(t) (kappa(0) = 1, kappa(1) = 0) and prior p:
q(z_t | z_0) = kappa onehot(z_0) + (1 - kappa) p. For s < t and a = kappa_t/kappa_s the posterior under a prediction
phat of z_0 is

    P(z_s = k | z_t = j)
        = sum_i phat_i [a d_kj + (1-a) p_j] [kappa_s d_ki + (1-kappa_s) p_k] / [kappa_t d_ij + (1-kappa_t) p_j].

References: Austin et al. 2021 (D3PM), section 3; Vignac et al. 2023 (DiGress), section 3; Campbell et al. 2024
(discrete flow models: CTMC rates and detailed balance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scidiff.configurable import Configurable
from scidiff.noise import Free, Space
from scidiff.schedules import Linear, Schedule

__all__ = ["Categorical", "draw_class"]


class Categorical(Configurable):
    """A component of integer classes with keep probability kappa(t) and prior p.

    Args:
        prior: Probabilities of the K classes at t = 1, normalised here. A class may have probability 0; a prior with
            all mass on one class is the mask (absorbing) prior. A single class is a constant.
        keep: Schedule whose ``alpha`` is the keep probability kappa.
        space: `Free` for sites (B, N), `Symmetric` for pairs (B, N, N).

    Raises:
        ValueError: If ``prior`` is not a list of non-negative numbers with a positive sum.
    """

    def __init__(self, prior: Sequence[float], keep: Schedule | None = None, space: Space | None = None) -> None:
        table = torch.as_tensor(prior, dtype=torch.float64)
        if table.ndim != 1 or not len(table) or bool((table < 0).any()) or not float(table.sum()) > 0:
            raise ValueError(f"a categorical prior is a list of non-negative numbers with a positive sum, got {prior}.")
        self.probabilities = table / table.sum()
        self.keep = keep if keep is not None else Linear()
        self.space = space if space is not None else Free()

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.probabilities)

    def prior_like(self, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Prior probabilities (K,) on the device of ``like``."""
        return self.probabilities.to(device=like.device, dtype=dtype or like.dtype)

    def kappa(self, t: Tensor, like: Tensor) -> Tensor:
        """Keep probability, float64 inside, shaped to broadcast against ``like`` (B, ...)."""
        kappa = self.keep.alpha(t.double()).clamp(0, 1)
        return kappa.reshape(kappa.shape + (1,) * (like.ndim - kappa.ndim))

    def perturb(self, z_0: Tensor, t: Tensor, u: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Draw z_t from q(z_t | z_0) with uniform numbers ``u`` (one a site, shape of ``z_0``)."""
        kappa = self.kappa(t, z_0).to(u.dtype)
        rest = ((u - kappa) / (1 - kappa).clamp_min(1e-12)).clamp(0, 1)
        noisy = _inverse_cdf(self.prior_like(u).cumsum(0).expand(*u.shape, -1), rest)
        return self._settle(torch.where(u < kappa, z_0, noisy), z_0, cond)

    def prior(self, like: Tensor, u: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Classes drawn from the prior; ``like`` gives shape (B, ...) and values of padded sites."""
        return self._settle(_inverse_cdf(self.prior_like(u).cumsum(0).expand(*u.shape, -1), u), like, cond)

    def posterior(self, probabilities: Tensor, z_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """P(z_s | z_t) (..., K) under predicted class ``probabilities`` (..., K) of z_0; O(K) a site."""
        kappa_t = self.kappa(t, z_t)[..., None].to(probabilities.dtype)
        kappa_s = self.kappa(s, z_t)[..., None].to(probabilities.dtype)
        a = kappa_t / kappa_s.clamp_min(torch.finfo(kappa_s.dtype).tiny)
        prior = self.prior_like(probabilities)
        here = torch.nn.functional.one_hot(z_t, self.num_classes).to(probabilities.dtype)
        prior_here = prior[z_t][..., None]
        denominator = kappa_t * here + (1 - kappa_t) * prior_here
        # zero denominator: z_t = j is impossible given z_0 = i, so that class of z_0 has no weight
        weights = torch.where(denominator > 0, probabilities / torch.where(denominator > 0, denominator, 1), 0)
        total = weights.sum(-1, keepdim=True)
        result = (a * here + (1 - a) * prior_here) * (kappa_s * weights + (1 - kappa_s) * prior * total)
        mass = result.sum(-1, keepdim=True)
        # a prediction that excludes every possible z_0 leaves no mass: stay
        return torch.where(mass > 0, result / mass.clamp_min(torch.finfo(mass.dtype).tiny), here)

    def ctmc(self, probabilities: Tensor, z_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0) -> Tensor:
        """One Euler step of the Markov chain with stochasticity ``eta``: transition probabilities (..., K).

        Off the diagonal h R(j -> k) with h = t - s and
        R = [-kappa'/(1-kappa)] phat_k + eta {[kappa + (1-kappa) p_k] phat_k + (1-kappa) p_k phat_j}; the diagonal is
        the complement. The part with eta is in detailed balance with q(z_t | z_0), so it keeps the marginals.
        """
        kappa_t = self.kappa(t, z_t)[..., None].to(probabilities.dtype)
        kappa_s = self.kappa(s, z_t)[..., None].to(probabilities.dtype)
        h = (t - s).double()
        h = h.reshape(h.shape + (1,) * (z_t.ndim + 1 - h.ndim)).to(probabilities.dtype)
        prior = self.prior_like(probabilities)
        here = torch.nn.functional.one_hot(z_t, self.num_classes).to(probabilities.dtype)
        at_here = (probabilities * here).sum(-1, keepdim=True)
        jump = (kappa_s - kappa_t) / (1 - kappa_t).clamp_min(1e-12) * probabilities
        balance = (kappa_t + (1 - kappa_t) * prior) * probabilities + (1 - kappa_t) * prior * at_here
        off = (jump + eta * h * balance) * (1 - here)
        off = off / off.sum(-1, keepdim=True).clamp_min(1)
        return off + here * (1 - off.sum(-1, keepdim=True)).clamp_min(0)

    def forward_transition(self, z_s: Tensor, s: Tensor, t: Tensor, u: Tensor, cond: Any = None) -> Tensor:
        """Re-noise from s up to t: keep with probability kappa_t/kappa_s, else draw from the prior."""
        a = (self.kappa(t, z_s) / self.kappa(s, z_s).clamp_min(1e-12)).to(u.dtype)
        rest = ((u - a) / (1 - a).clamp_min(1e-12)).clamp(0, 1)
        noisy = _inverse_cdf(self.prior_like(u).cumsum(0).expand(*u.shape, -1), rest)
        return self._settle(torch.where(u < a, z_s, noisy), z_s, cond)

    def choose(self, probabilities: Tensor, u: Tensor, z_t: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Draw classes from ``probabilities`` (..., K); fixed and padded sites keep ``z_t``."""
        return self._settle(draw_class(probabilities, u), z_t, cond)

    def argmax(self, probabilities: Tensor, z_t: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Most probable classes; fixed and padded sites keep ``z_t``."""
        return self._settle(probabilities.argmax(-1), z_t, cond)

    def _settle(self, z: Tensor, kept: Tensor, cond: Mapping[str, Any] | None) -> Tensor:
        live = self.space.live(z, cond)
        z = self.space.mirror(z)
        return z if live is None else torch.where(self.space.mirror(live), z, kept)


def draw_class(probabilities: Tensor, u: Tensor) -> Tensor:
    """Inverse-transform draw from normalised ``probabilities`` (..., K) with uniform ``u`` (...)."""
    return _inverse_cdf(probabilities.cumsum(-1), u)


def _inverse_cdf(cumulative: Tensor, u: Tensor) -> Tensor:
    total = cumulative[..., -1:]
    # strictly below the total, so that rounding never lands on a last class of probability zero
    scaled = torch.minimum(u[..., None].to(cumulative.dtype) * total, torch.nextafter(total, torch.zeros_like(total)))
    return (scaled >= cumulative[..., :-1]).sum(-1)
