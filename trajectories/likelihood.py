r"""Lower bound of log p(x_0), in nats a system, for the chain of K levels t_k = (k + 1) / K.

With y = x - x_r, alpha and sigma at the levels (alpha_{-1} = 1), beta_k = 1 - alpha_k^2 / alpha_{k-1}^2, posterior
variance v_k = beta_k sigma_{k-1}^2 / sigma_k^2 and mean weight c_k = alpha_{k-1} beta_k / sigma_k^2,

    -log p(x_0) <= sum_{k >= 1} E[ c_k^2 |x_0 - x0_k|^2 ] / (2 m_k) + n/2 (v_k / m_k - 1 + log(m_k / v_k))
                   + E[ |x_0 - x0_0|^2 ] / (2 v_1) + n/2 log(2 pi v_1)
                   + alpha_{K-1}^2 |y_0|^2 / 2 + n/2 (sigma_{K-1}^2 - 1 - log sigma_{K-1}^2)

with x0_k the prediction from x_{t_k}, n the number of free dimensions, and m_k = beta_k ("large") or v_k ("small"). The
decoder, k = 0, has the variance v_1, as published. Published code of unconditional models takes D dimensions off in the
decoder only; here n = (F N - 1) D throughout.

References: Ho et al. 2020, eq. 5 and section 3.2; Han et al. 2024, "Geometric Trajectory Diffusion Models" (GeoTDM).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import NoiseSource
from scidiff.process import Component
from scidiff.random import Seeds
from scidiff.schedule_base import VariancePreserving

__all__ = ["log_prob_bound"]


class _Chain(NamedTuple):
    """Numbers of the levels, float64 (K,): ``mean`` is c_k^2, ``posterior`` v_k, ``model`` m_k."""

    alpha: Tensor
    sigma2: Tensor
    mean: Tensor
    posterior: Tensor
    model: Tensor


@torch.no_grad()
def log_prob_bound(
    den: Denoiser,
    x_0: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    x_1: Tensor | None = None,
    num_levels: int = 1000,
    num_terms: int | None = None,
    variance: Literal["large", "small"] = "large",
    seed: Seeds = 0,
) -> Tensor:
    """Unbiased estimate (B,) of the lower bound of log p(x_0), with one draw of noise a level.

    Args:
        den: Denoiser of trajectories.
        x_0: Trajectories (B, F, N, D) in the gauge of the model, see `trajectories.diffusion.arranged`.
        cond: Features and masks; entries that are not live are conditioned on.
        x_1: Moving mean.
        num_levels: Levels K of the chain, at least 3; that of a published schedule is the natural one.
        num_terms: Levels that are evaluated, drawn evenly at random; None for all.
        variance: m_k of the model.
        seed: Seed, or one a system.

    Raises:
        ValueError: If the schedule is no `MovingMean`, or a number is out of range.
    """
    component = next(iter(den.process.continuous.values()))
    if not isinstance(component.schedule, VariancePreserving):
        raise ValueError(f"the bound is for a variance-preserving moving mean, got {component.schedule!r}.")
    if num_levels < 3 or (num_terms is not None and not 1 <= num_terms < num_levels) or variance not in _VARIANCES:
        raise ValueError(
            "expected num_levels >= 3, num_terms in [1, num_levels) and variance 'large' or 'small', "
            f"got {num_levels}, {num_terms} and {variance!r}."
        )
    chain = _chain(component, num_levels, variance)
    dims = component.space.dims(x_0, cond).double()
    end = torch.zeros_like(x_0) if x_1 is None else x_1
    source = NoiseSource(seed, len(x_0), device=x_0.device)
    size = component.space.total((x_0 - end).square().double(), cond)
    last = chain.sigma2[-1]
    bound = 0.5 * (chain.alpha[-1] ** 2 * size + dims * (last - 1 - last.log()))
    levels, weights = _levels(num_levels, num_terms, seed)
    for k, weight in [(0, 1.0), *zip(levels, weights, strict=True)]:
        t = torch.full((len(x_0),), (k + 1) / num_levels, device=x_0.device, dtype=x_0.dtype)
        eps = den.process.join(den.process.noise(den.process.split(x_0), source, cond))
        x_t, _ = den.process.perturb(x_0, t, eps, x_1=end, cond=cond)
        error = component.space.total((den(x_t, t, cond, end).x0 - x_0).square().double(), cond)
        v, m = chain.posterior[k], chain.model[k]
        if k == 0:
            term = error / (2 * m) + dims / 2 * (2 * math.pi * m).log()
        else:
            term = chain.mean[k] * error / (2 * m) + dims / 2 * (v / m - 1 + (m / v).log())
        bound = bound + weight * term
    return -bound.to(x_0.dtype)


_VARIANCES = ("large", "small")


def _chain(component: Component, num_levels: int, variance: str) -> _Chain:
    t = torch.arange(1, num_levels + 1, dtype=torch.float64) / num_levels
    alpha = component.schedule.alpha(t)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha[:-1]])
    sigma2, before2 = 1 - alpha**2, 1 - before**2
    beta = 1 - (alpha / before) ** 2
    posterior = beta * before2 / sigma2
    model = (beta if variance == "large" else posterior).clone()
    model[0] = posterior[1]
    return _Chain(alpha, sigma2, (before * beta / sigma2) ** 2, posterior, model)


def _levels(num_levels: int, num_terms: int | None, seed: Seeds) -> tuple[list[int], list[float]]:
    """Levels k >= 1 and their weights: all, or one at random out of each of ``num_terms`` nearly equal blocks."""
    levels = torch.arange(1, num_levels)
    if num_terms is None:
        return levels.tolist(), [1.0] * len(levels)
    blocks = torch.tensor_split(levels, num_terms)
    first = seed if isinstance(seed, int) else 0
    u = torch.rand(num_terms, generator=torch.Generator().manual_seed(first), dtype=torch.float64)
    chosen = [int(block[int(x * len(block))]) for block, x in zip(blocks, u.tolist(), strict=True)]
    return chosen, [float(len(block)) for block in blocks]
