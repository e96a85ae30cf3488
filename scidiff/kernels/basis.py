r"""Radial basis functions and cutoffs: value and derivative, as plain objects without parameters.

A basis maps distances d (E,) to (E, K), a cutoff to (E,) with f_c = 0 from the radius on. Both are differentiable to
any order; ``derivative(d)`` is the written first derivative that fused kernels use. `painn_message` and `cfconv` also
take any other function of d: it runs through the torch definition.

An exponential with an exponent below -60 is returned as exactly 0 (and so is its derivative): values between 1e-45 and
1e-38 are subnormal floats, which slow the matrix product that follows by up to ten times.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scidiff.configurable import Configurable

__all__ = ["Basis", "BesselBasis", "CosineCutoff", "Cutoff", "ExpNormBasis", "GaussianBasis", "PolynomialCutoff"]

_LOWEST_EXPONENT = -60.0
_SERIES_BELOW = 0.2  # sin(x) / x loses digits in its derivatives there
_SINC = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(7))  # sum of c_k x^(2k), to 1e-23 below 0.2
_SINC_SLOPE = tuple(2 * k * _SINC[k] for k in range(1, 7))


class Radial(Configurable, ABC):
    """A function of distance with a written derivative.

    Attributes:
        code: Name of the formula for kernels.
        constants: Its numbers, in the order that kernels read them.
    """

    code: str
    constants: tuple[float, ...]

    @abstractmethod
    def __call__(self, d: Tensor) -> Tensor:
        """Values at distances ``d`` (E,)."""

    @abstractmethod
    def derivative(self, d: Tensor) -> Tensor:
        """First derivative at distances ``d`` (E,), same shape as the values."""


class Basis(Radial):
    """K functions of distance, (E,) -> (E, K).

    Attributes:
        num_basis: Number K of functions.
    """

    num_basis: int

    def __init__(self, num_basis: int, cutoff: float) -> None:
        if num_basis < 1 or cutoff <= 0:
            raise ValueError(f"a basis needs num_basis >= 1 and cutoff > 0, got {num_basis} and {cutoff}.")
        self.num_basis = num_basis
        self.cutoff = float(cutoff)


class Cutoff(Radial):
    """Smooth envelope f_c, (E,) -> (E,), 0 from ``cutoff`` on."""

    def __init__(self, cutoff: float) -> None:
        if cutoff <= 0:
            raise ValueError(f"cutoff must be positive, got {cutoff}.")
        self.cutoff = float(cutoff)


class GaussianBasis(Basis):
    r"""exp(-gamma (d - mu_k)^2), centres mu_k equally spaced from ``start`` to ``cutoff``.

    Args:
        num_basis: Number K of functions.
        cutoff: Last centre, in units of d.
        start: First centre.
        gamma: Inverse squared width; by default 1 / (2 delta^2) with the spacing delta of the centres.

    References: Schütt et al. 2017, "SchNet", section 4.1 (there gamma = 10 per square angstrom, spacing 0.1).
    """

    code = "gaussian"

    def __init__(
        self, num_basis: int = 50, cutoff: float = 5.0, start: float = 0.0, gamma: float | None = None
    ) -> None:
        super().__init__(num_basis, cutoff)
        if not start < cutoff:
            raise ValueError(f"start must lie below cutoff, got {start} and {cutoff}.")
        spacing = (cutoff - start) / max(num_basis - 1, 1)
        self.gamma = 0.5 / spacing**2 if gamma is None else float(gamma)
        self.start = float(start)
        self.constants = (self.start, self.cutoff, self.gamma)

    def __call__(self, d: Tensor) -> Tensor:
        return _safe_exp(-self.gamma * self._offset(d).square())

    def derivative(self, d: Tensor) -> Tensor:
        offset = self._offset(d)
        return -2 * self.gamma * offset * _safe_exp(-self.gamma * offset.square())

    def _offset(self, d: Tensor) -> Tensor:
        return d[..., None] - torch.linspace(self.start, self.cutoff, self.num_basis, dtype=d.dtype, device=d.device)


class BesselBasis(Basis):
    r"""c sin(k pi d / r_c) / d for k = 1..K, continued to c k pi / r_c at d = 0.

    Args:
        num_basis: Number K of functions.
        cutoff: Radius r_c, in units of d.
        is_normalized: c = sqrt(2 / r_c) (DimeNet) instead of 1 (PaiNN).

    References: Gasteiger et al. 2020, "Directional Message Passing for Molecular Graphs", eq. 7; Schütt et al. 2021,
    "Equivariant message passing for the prediction of tensorial properties and molecular spectra" (PaiNN), section 3.1.
    """

    code = "bessel"

    def __init__(self, num_basis: int = 20, cutoff: float = 5.0, is_normalized: bool = False) -> None:
        super().__init__(num_basis, cutoff)
        self.is_normalized = is_normalized
        self.constants = (self.cutoff, math.sqrt(2 / cutoff) if is_normalized else 1.0)

    def __call__(self, d: Tensor) -> Tensor:
        frequency, factor = self._frequency(d), self.constants[1]
        return factor * frequency * _sinc(frequency * d[..., None])

    def derivative(self, d: Tensor) -> Tensor:
        frequency, factor = self._frequency(d), self.constants[1]
        x = frequency * d[..., None]
        is_small = x.abs() < _SERIES_BELOW
        safe = torch.where(is_small, 1.0, x)
        exact = (safe.cos() - safe.sin() / safe) / safe
        slope = torch.where(is_small, x * _polynomial(x.square(), _SINC_SLOPE), exact)
        return factor * frequency.square() * slope

    def _frequency(self, d: Tensor) -> Tensor:
        return torch.arange(1, self.num_basis + 1, dtype=d.dtype, device=d.device) * (math.pi / self.cutoff)


class ExpNormBasis(Basis):
    r"""exp(-beta (exp(-alpha d) - mu_k)^2), mu_k equally spaced from exp(-cutoff) to 1.

    beta = (2 (1 - exp(-cutoff)) / K)^-2.

    Args:
        num_basis: Number K of functions.
        cutoff: Radius, in units of d.
        alpha: Decay of the inner exponential; by default 5 / cutoff.

    References: Unke and Meuwly 2019, "PhysNet", eq. 7, with alpha as in Thölke and De Fabritiis 2022, "TorchMD-NET",
    section 3.1.
    """

    code = "expnorm"

    def __init__(self, num_basis: int = 50, cutoff: float = 5.0, alpha: float | None = None) -> None:
        super().__init__(num_basis, cutoff)
        self.alpha = 5.0 / cutoff if alpha is None else float(alpha)
        self.first_centre = math.exp(-cutoff)
        self.beta = (num_basis / (2 * (1 - self.first_centre))) ** 2
        self.constants = (self.cutoff, self.alpha)

    def __call__(self, d: Tensor) -> Tensor:
        return _safe_exp(-self.beta * self._offset(d).square())

    def derivative(self, d: Tensor) -> Tensor:
        offset, beta = self._offset(d), self.beta
        inner = -self.alpha * torch.exp(-self.alpha * d)[..., None]
        return -2 * beta * offset * inner * _safe_exp(-beta * offset.square())

    def _offset(self, d: Tensor) -> Tensor:
        centres = torch.linspace(self.first_centre, 1.0, self.num_basis, dtype=d.dtype, device=d.device)
        return torch.exp(-self.alpha * d)[..., None] - centres


class CosineCutoff(Cutoff):
    r"""f_c(d) = (cos(pi d / r_c) + 1) / 2 below r_c, else 0.

    Args:
        cutoff: Radius r_c, in units of d.

    References: Behler and Parrinello 2007, "Generalized neural-network representation of high-dimensional
    potential-energy surfaces", eq. 3.
    """

    code = "cosine"

    def __init__(self, cutoff: float = 5.0) -> None:
        super().__init__(cutoff)
        self.constants = (self.cutoff,)

    def __call__(self, d: Tensor) -> Tensor:
        return torch.where(d < self.cutoff, 0.5 * (torch.cos(d * (math.pi / self.cutoff)) + 1), 0.0)

    def derivative(self, d: Tensor) -> Tensor:
        rate = math.pi / self.cutoff
        return torch.where(d < self.cutoff, -0.5 * rate * torch.sin(d * rate), 0.0)


class PolynomialCutoff(Cutoff):
    r"""f_c = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) with x = d / r_c below 1, else 0.

    Args:
        cutoff: Radius r_c, in units of d.
        p: Exponent, at least 2: value, slope and curvature vanish at r_c.

    References: Gasteiger et al. 2020, "Directional Message Passing for Molecular Graphs", eq. 8 (its eq. for u(d)
    multiplied by d).
    """

    code = "polynomial"

    def __init__(self, cutoff: float = 5.0, p: int = 6) -> None:
        super().__init__(cutoff)
        if p < 2:
            raise ValueError(f"the exponent p must be at least 2, got {p}.")
        self.p = p
        self.constants = (self.cutoff, float(p))

    def __call__(self, d: Tensor) -> Tensor:
        x, p = d / self.cutoff, self.p
        value = 1 - x.pow(p) * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))
        return torch.where(x < 1, value, 0.0)

    def derivative(self, d: Tensor) -> Tensor:
        x, p = d / self.cutoff, self.p
        slope = -p * (p + 1) * (p + 2) / (2 * self.cutoff) * x.pow(p - 1) * (1 - x).square()
        return torch.where(x < 1, slope, 0.0)


def _sinc(x: Tensor) -> Tensor:
    """sin(x) / x, exact in value and derivatives near 0."""
    is_small = x.abs() < _SERIES_BELOW
    safe = torch.where(is_small, 1.0, x)
    return torch.where(is_small, _polynomial(x.square(), _SINC), safe.sin() / safe)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


def _safe_exp(exponent: Tensor) -> Tensor:
    """exp, exactly 0 with gradient 0 below the lowest exponent."""
    is_low = exponent < _LOWEST_EXPONENT
    return torch.where(is_low, 0.0, torch.where(is_low, 0.0, exponent).exp())


class RadialPair(NamedTuple):
    """What fused filters need to know: w(d) = f_c(d) (basis(d) W + bias).

    Attributes:
        basis: The radial basis.
        cutoff: The envelope, or None for 1.
    """

    basis: Basis
    cutoff: Cutoff | None

    @property
    def schema(self) -> tuple[str, list[float], str, list[float]]:
        """Code and constants of both: what an operation's schema can carry."""
        if self.cutoff is None:
            return self.basis.code, list(self.basis.constants), "", []
        return self.basis.code, list(self.basis.constants), self.cutoff.code, list(self.cutoff.constants)


def fusible(basis: object, cutoff: object) -> bool:
    """Whether fused kernels know both functions; others run through the torch definition."""
    return type(basis) in _BASES.values() and (cutoff is None or type(cutoff) in _CUTOFFS.values())


def restore(
    num_basis: int, basis: str, constants: Sequence[float], cutoff: str, cutoff_constants: Sequence[float]
) -> RadialPair:
    """The pair behind a `RadialPair.schema`."""
    envelope = None
    if cutoff:
        radius, *exponent = cutoff_constants
        envelope = _CUTOFFS[cutoff](radius, *map(int, exponent))
    if basis == "gaussian":
        first, last, gamma = constants
        return RadialPair(GaussianBasis(num_basis, last, start=first, gamma=gamma), envelope)
    if basis == "bessel":
        return RadialPair(BesselBasis(num_basis, constants[0], is_normalized=constants[1] != 1), envelope)
    return RadialPair(ExpNormBasis(num_basis, constants[0], alpha=constants[1]), envelope)


_BASES: dict[str, type[Basis]] = {cls.code: cls for cls in (GaussianBasis, BesselBasis, ExpNormBasis)}
_CUTOFFS: dict[str, type[Cutoff]] = {cls.code: cls for cls in (CosineCutoff, PolynomialCutoff)}
