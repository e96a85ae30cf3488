"""Radial bases and cutoffs inside kernels: values and derivatives at the distances of a tile of edges.

The formulas are those of `scidiff.kernels.basis`, chosen by ``code``.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (kernels are typed by Triton's compiler)

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from scidiff.kernels.triton._common import torch_type

__all__ = ["BASES", "CUTOFFS", "radial_arguments", "radial_functions"]

BASES = ("gaussian", "bessel", "expnorm")
CUTOFFS = ("none", "cosine", "polynomial")


def radial_arguments(radial: Any, acc: Any, device: torch.device) -> tuple[Tensor, dict[str, Any]]:
    """The numbers of basis and cutoff as one small tensor on the device, and the constants that select formulas.

    Raises:
        ValueError: If there is no kernel for the basis or the cutoff.
    """
    basis, cutoff = radial.basis, radial.cutoff
    code = "none" if cutoff is None else getattr(cutoff, "code", None)
    if getattr(basis, "code", None) not in BASES or code not in CUTOFFS:
        raise ValueError(
            f"kernels know the bases {', '.join(BASES)} and the cutoffs {', '.join(CUTOFFS)}, "
            f"got {basis!r} and {cutoff!r}; other functions of distance run with backend='torch'."
        )
    extra = () if cutoff is None else tuple(cutoff.constants)
    power = int(extra[1]) if code == "polynomial" else 0
    own = (basis.alpha, basis.first_centre, basis.beta) if basis.code == "expnorm" else tuple(basis.constants)
    numbers = _on_device((*own, *extra), torch_type(acc), device)
    return numbers, {"BASIS": basis.code, "CUTOFF": code, "POWER": power, "K": basis.num_basis}


@lru_cache(maxsize=64)
def _on_device(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device)


@triton.jit
def _safe_exp(exponent):
    is_low = exponent < -60.0  # subnormal values slow the matrix products that follow
    return tl.where(is_low, 0.0, tl.exp(tl.where(is_low, 0.0, exponent)))


@triton.jit
def _basis(d, k, numbers, BASIS: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr):
    last: tl.constexpr = K - 1 if K > 1 else 1
    c0 = tl.load(numbers)
    c1 = tl.load(numbers + 1)
    if BASIS == "gaussian":
        gamma = tl.load(numbers + 2)
        offset = d[:, None] - (c0 + (c1 - c0) * (k.to(ACC) / last))[None, :]
        value = _safe_exp(-gamma * offset * offset)
        slope = -2.0 * gamma * offset * value
    elif BASIS == "expnorm":
        beta = tl.load(numbers + 2)
        decay = tl.exp(-c0 * d)
        offset = decay[:, None] - (c1 + (1.0 - c1) * (k.to(ACC) / last))[None, :]
        value = _safe_exp(-beta * offset * offset)
        slope = 2.0 * beta * c0 * decay[:, None] * offset * value
    else:
        frequency = ((k + 1).to(ACC) * (3.141592653589793 / c0))[None, :]
        x = frequency * d[:, None]
        is_small = tl.abs(x) < 1e-2  # sinc x = 1 - x^2/6 + x^4/120, and its slope, to the last bit of float64
        safe = tl.where(is_small, 1.0, x)
        sinc = tl.sin(safe) / safe
        x2 = x * x
        value = c1 * frequency * tl.where(is_small, 1.0 - x2 * (1.0 / 6 - x2 * (1.0 / 120 - x2 / 5040)), sinc)
        series = x * (x2 * (1.0 / 30 - x2 / 840) - 1.0 / 3)
        slope = c1 * frequency * frequency * tl.where(is_small, series, (tl.cos(safe) - sinc) / safe)
    is_basis = (k < K)[None, :]
    return tl.where(is_basis, value, 0.0).to(ACC), tl.where(is_basis, slope, 0.0).to(ACC)


@triton.jit
def _cutoff(d, numbers, CUTOFF: tl.constexpr, POWER: tl.constexpr, ACC: tl.constexpr):
    value = tl.full(d.shape, 1.0, dtype=ACC)
    slope = tl.zeros(d.shape, dtype=ACC)
    if CUTOFF == "cosine":
        radius = tl.load(numbers)
        rate = 3.141592653589793 / radius
        value = tl.where(d < radius, 0.5 * (tl.cos(d * rate) + 1.0), 0.0)
        slope = tl.where(d < radius, -0.5 * rate * tl.sin(d * rate), 0.0)
    elif CUTOFF == "polynomial":
        radius = tl.load(numbers)
        x = d / radius
        power = tl.full(d.shape, 1.0, dtype=ACC)
        for _ in tl.static_range(POWER - 1):
            power = power * x
        a: tl.constexpr = (POWER + 1) * (POWER + 2) / 2
        b: tl.constexpr = POWER * (POWER + 2)
        c: tl.constexpr = POWER * (POWER + 1) / 2
        value = tl.where(x < 1.0, 1.0 - power * x * (a - x * (b - x * c)), 0.0)
        slope = tl.where(x < 1.0, -(a * POWER) * power * (1.0 - x) * (1.0 - x) / radius, 0.0)
    return value.to(ACC), slope.to(ACC)


@triton.jit
def radial_functions(
    d, k, numbers,
    BASIS: tl.constexpr, CUTOFF: tl.constexpr, POWER: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Basis (E, K) and its slope, cutoff (E,) and its slope, at distances d (E,); 0 for k >= K."""
    value, slope = _basis(d, k, numbers, BASIS, K, ACC)
    skip: tl.constexpr = 2 if BASIS == "bessel" else 3
    envelope, falling = _cutoff(d, numbers + skip, CUTOFF, POWER, ACC)
    return value, slope, envelope, falling
