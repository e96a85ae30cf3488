r"""Diagnostics of a denoiser: Fokker-Planck residual, conservativity, intrinsic dimension.

All of them differentiate the network, work under ``torch.no_grad``, and are for processes with one continuous component
on a free or zero-mean space. Exact derivatives take one backward pass a dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Free
from scidiff.process import Component
from scidiff.schedules import expand_like

__all__ = ["asymmetry", "flipd", "fokker_planck_residual", "jacobian", "normal_dimension"]

Cond = Mapping[str, Any] | None


def jacobian(den: Denoiser, x_t: Tensor, t: Tensor, kind: str = "x0", cond: Cond = None) -> Tensor:
    """d p.kind/d x_t of each sample, (B, N, N) with N the size of a sample, by N backward passes.

    Args:
        den: Denoiser.
        x_t: Noisy state (B, ...).
        t: Times (B,).
        kind: "x0", "eps", "score" or "velocity".
        cond: Masks and context.

    Raises:
        ValueError: If the process is a system or its space is neither free nor zero-mean.
    """
    _component(den)
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        value = getattr(den(x, t, cond=cond), kind)
        rows = [_pull(value, x, basis) for basis in _basis(value)]
    return torch.stack([row.flatten(1) for row in rows], 1).detach()


def asymmetry(
    den: Denoiser,
    x_t: Tensor,
    t: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
    cond: Cond = None,
) -> Tensor:
    r"""|J - J^T|_F/|J|_F (B,) with J = d x0/d x_t: 0 for a conservative field, as an exact denoiser is; at most 2.

    Args:
        den: Denoiser.
        x_t: Noisy state (B, ...).
        t: Times (B,).
        probes: Number of pairs (v, w) of Gaussian probes: E (v^T J w - w^T J v)^2 = |J - J^T|_F^2. Exact if absent.
        generator: Source of the probes.
        cond: Masks and context.

    References: Chao et al. 2023, "On investigating the conservative property of score-based generative models"
    (asymmetry by Hutchinson probes).
    """
    if probes is None:
        j = jacobian(den, x_t, t, cond=cond)
        return _norm(j - j.mT) / _norm(j)
    component = _component(den)
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        x0 = den(x, t, cond=cond).x0
        difference = size = x0.new_zeros(len(x0))
        for _ in range(probes):
            v, w = (_gaussian(component, x0, generator, cond) for _ in range(2))
            there, back = (_dot(_pull(x0, x, a), b) for a, b in ((v, w), (w, v)))
            difference, size = difference + (there - back) ** 2, size + (there**2 + back**2) / 2
    return (difference / size).sqrt().detach()


def flipd(
    den: Denoiser,
    x_0: Tensor,
    t: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
    cond: Cond = None,
) -> Tensor:
    r"""Local intrinsic dimension (B,) at clean points: N + sigma^2 (div s + |s|^2) at x = alpha x_0, small sigma/alpha.

    It is N + d log p_rho/d log rho with rho = sigma/alpha, so it tends to the dimension of the data's support as rho
    falls. N counts the dimensions of the space.

    Args:
        den: Denoiser.
        x_0: Clean points (B, ...).
        t: Times (B,).
        probes: Number of Rademacher probes for the divergence (Hutchinson); exact if absent.
        generator: Source of the probes.
        cond: Masks and context.

    References: Kamkari et al. 2024, "A geometric view of data complexity: efficient local intrinsic dimension
    estimation with diffusion models".
    """
    component = _component(den)
    alpha, _, sigma = component.coefficients(t, x_0)
    with torch.enable_grad():
        x = (alpha * x_0).detach().requires_grad_(True)
        score = den(x, t, cond=cond).score
        divergence = _divergence(component, score, x, probes, generator, cond)
    variance = sigma.reshape(len(x_0), -1)[:, 0] ** 2
    dims = component.space.dims(x_0, cond)
    return (dims + variance * (divergence + _dot(score, score))).detach()


def normal_dimension(
    den: Denoiser,
    x_0: Tensor,
    t: Tensor,
    *,
    num_scores: int | None = None,
    generator: torch.Generator | None = None,
    cond: Cond = None,
) -> Tensor:
    r"""Intrinsic dimension (B,) by the singular values of scores around each point: N - index of the largest log gap.

    Scores at alpha x_0 + sigma eps fluctuate along the normal directions by about 1/sigma, along the tangent by a
    bounded amount times sigma. Their mean is subtracted, a departure from the paper: the mean points along the tangent,
    and leaves a gap of its own.

    Args:
        den: Denoiser.
        x_0: Clean points (B, ...).
        t: Times (B,), small sigma/alpha.
        num_scores: Number of scores a point; 4 N if absent.
        generator: Source of the noise.
        cond: Masks and context, one row a point.

    References: Stanczuk et al. 2024, "Diffusion models encode the intrinsic dimension of data manifolds".
    """
    component, size = _component(den), x_0[0].numel()
    alpha, _, sigma = component.coefficients(t, x_0)
    scores = []
    with torch.no_grad():
        for _ in range(num_scores or 4 * size):
            x = alpha * x_0 + sigma * _gaussian(component, x_0, generator, cond)
            scores.append(den(x, t, cond=cond).score.flatten(1))
    cloud = torch.stack(scores, 1)
    values = torch.linalg.svdvals(cloud - cloud.mean(1, keepdim=True))
    dims = component.space.dims(x_0, cond).long()
    logs = values.clamp_min(torch.finfo(values.dtype).tiny).log()
    gaps = logs[:, :-1] - logs[:, 1:]
    inside = torch.arange(1, size)[None] < dims[:, None]  # a gap at the end of the space would count its complement
    return dims - 1 - gaps.masked_fill(~inside, -torch.inf).argmax(1)


class Residual(NamedTuple):
    """Fokker-Planck residual: of the score (B, ...) and its norm a sample (B,)."""

    score: Tensor
    norm: Tensor


def fokker_planck_residual(
    den: Denoiser,
    x_t: Tensor,
    t: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
    cond: Cond = None,
) -> Residual:
    r"""R = d_t s - grad[ (g^2/2)(div s + |s|^2) - f x . s - div(f x) ]: 0 for the score of a density the SDE carries.

    With gradients enabled the result can be trained on (a penalty E|R|^2).

    Args:
        den: Denoiser; its network has to be differentiable in ``t``.
        x_t: Noisy state (B, ...).
        t: Times (B,), away from 0.
        probes: Number of Rademacher probes for the divergence; exact if absent.
        generator: Source of the probes.
        cond: Masks and context.

    References: Lai et al. 2023, "FP-Diffusion: improving score-based diffusion models by enforcing the underlying score
    Fokker-Planck equation".
    """
    component, keeps_graph = _component(den), torch.is_grad_enabled()
    f, g = (
        expand_like(function(t.double()).to(x_t.dtype), x_t)
        for function in (component.schedule.drift_coefficient, component.schedule.diffusion)
    )
    with torch.enable_grad():
        x, time = x_t.detach().requires_grad_(True), t.detach().requires_grad_(True)
        score = den(x, time, cond=cond).score
        weights = torch.ones_like(score, requires_grad=True)
        change = torch.autograd.grad(score, time, weights, create_graph=True)[0]
        (rate,) = torch.autograd.grad(change.sum(), weights, create_graph=True)  # d_t s, by differentiating twice
        divergence = _divergence(component, score, x, probes, generator, cond)
        flux = _flat(g) ** 2 / 2 * (divergence + _dot(score, score)) - _flat(f) * _dot(x, score)
        residual = rate - component.space.project(_pull(flux.sum(), x), cond)
    residual = residual if keeps_graph else residual.detach()
    return Residual(residual, _dot(residual, residual).sqrt())


def _component(den: Denoiser) -> Component:
    components = den.process.components
    component = next(iter(components.values()))
    if len(components) != 1 or not isinstance(component, Component) or not isinstance(component.space, Free):
        raise ValueError(
            "these diagnostics are for one continuous component on a free or zero-mean space, got the process "
            f"{den.process!r}."
        )
    return component


def _divergence(
    component: Component, value: Tensor, x: Tensor, probes: int | None, generator: torch.Generator | None, cond: Cond
) -> Tensor:
    """Trace (B,) of d value/dx within the space, with a graph."""
    if probes is None:
        vectors = [component.space.project(v, cond) for v in _basis(value)]
        return sum((_dot(_pull(value, x, v), v) for v in vectors), value.new_zeros(len(value)))
    total = value.new_zeros(len(value))
    for _ in range(probes):
        signs = torch.rand(value.shape, generator=generator, device=value.device) < 0.5
        v = component.space.project(torch.where(signs, 1.0, -1.0).to(value.dtype), cond)
        total = total + _dot(_pull(value, x, v), v) / probes
    return total


def _pull(value: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
    (gradient,) = torch.autograd.grad(value, x, weights, create_graph=True, materialize_grads=True, allow_unused=True)
    return gradient


def _basis(like: Tensor) -> Tensor:
    """Unit vectors (N, B, ...)."""
    size = like[0].numel()
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return eye[:, None].expand(size, len(like), size).reshape(size, *like.shape)


def _gaussian(component: Component, like: Tensor, generator: torch.Generator | None, cond: Cond) -> Tensor:
    z = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return component.space.project(z, cond)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _norm(matrix: Tensor) -> Tensor:
    return matrix.flatten(1).norm(dim=1)


def _flat(scale: Tensor) -> Tensor:
    return scale.reshape(len(scale), -1)[:, 0]
