"""Radial functions against float64 closed forms, their derivatives against autograd, and the rule of subnormals."""

import math

import pytest
import torch

import scidiff.kernels as K
from scidiff.kernels.basis import RadialPair, fusible, restore

BASES = [
    K.GaussianBasis(20, 5.0),
    K.GaussianBasis(7, 4.0, start=1.0, gamma=3.0),
    K.BesselBasis(20, 5.0),
    K.BesselBasis(8, 4.0, is_normalized=True),
    K.ExpNormBasis(12, 5.0),
]
CUTOFFS = [K.CosineCutoff(5.0), K.PolynomialCutoff(4.0), K.PolynomialCutoff(4.0, p=3)]


@pytest.mark.parametrize("radial", BASES + CUTOFFS, ids=repr)
def test_written_derivative_equals_autograd(radial):
    d = torch.cat([torch.linspace(0.0, 6.0, 241, dtype=torch.float64), torch.tensor([1e-9, 1e-4, 3e-3])])
    value, slope = torch.func.jvp(radial, (d,), (torch.ones_like(d),))
    torch.testing.assert_close(radial.derivative(d), slope, rtol=1e-9, atol=1e-9)
    assert value.abs().max() > 0.1
    inside = d[1:].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: radial(x).sum(-1 if radial(x).dim() > 1 else ()), inside[20:40])


@pytest.mark.parametrize("basis", BASES, ids=repr)
@pytest.mark.parametrize("cutoff", [*CUTOFFS, None], ids=repr)
def test_kernels_get_the_same_functions(basis, cutoff):
    d = torch.linspace(0, 6, 50)
    pair = RadialPair(basis, cutoff)
    again = restore(basis.num_basis, *pair.schema)
    assert torch.equal(again.basis(d), basis(d))
    assert cutoff is None or torch.equal(again.cutoff(d), cutoff(d))
    assert fusible(basis, cutoff)
    assert not fusible(lambda x: basis(x), cutoff)


def test_closed_forms():
    d = torch.tensor([0.0, 0.7, 2.5], dtype=torch.float64)
    bessel = K.BesselBasis(3, 5.0)(d)
    k = torch.arange(1, 4, dtype=torch.float64)
    torch.testing.assert_close(bessel[0], k * math.pi / 5)
    torch.testing.assert_close(bessel[1:], torch.sin(k * math.pi / 5 * d[1:, None]) / d[1:, None])
    normalized = K.BesselBasis(3, 5.0, is_normalized=True)(d)
    torch.testing.assert_close(normalized, bessel * math.sqrt(0.4))
    torch.testing.assert_close(K.CosineCutoff(5.0)(d)[2], torch.tensor(0.5, dtype=torch.float64))
    x = d / 4
    torch.testing.assert_close(K.PolynomialCutoff(4.0)(d), 1 - 28 * x**6 + 48 * x**7 - 21 * x**8)
    gaussian = K.GaussianBasis(6, 5.0)
    assert gaussian.gamma == 0.5
    torch.testing.assert_close(gaussian(d)[1, 2], torch.tensor(math.exp(-0.5 * 1.3**2), dtype=torch.float64))
    expnorm = K.ExpNormBasis(5, 5.0)(d)
    torch.testing.assert_close(expnorm[0, -1], torch.tensor(1.0, dtype=torch.float64))
    beta = (2 / 5 * (1 - math.exp(-5))) ** -2
    expected = math.exp(-beta * (math.exp(-2.5) - math.exp(-5)) ** 2)
    assert expnorm[2, 0].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cutoff", CUTOFFS, ids=repr)
def test_cutoffs_end_at_zero_with_zero_slope(cutoff):
    d = torch.tensor([cutoff.cutoff - 1e-6, cutoff.cutoff, cutoff.cutoff + 1, 1e9], dtype=torch.float64)
    assert (cutoff(d)[1:] == 0).all()
    assert (cutoff.derivative(d)[1:] == 0).all()
    assert cutoff(d)[0].abs() < 1e-11
    assert cutoff(torch.zeros(1)).item() == 1


@pytest.mark.parametrize("basis", [K.GaussianBasis(50, 10.0, gamma=12.5), K.ExpNormBasis(50, 5.0)], ids=repr)
def test_no_subnormal_values(basis):
    d = torch.linspace(0, 12, 4001, requires_grad=True)
    value = basis(d)
    tiny = torch.finfo(torch.float32).tiny
    for tensor in (value, basis.derivative(d), torch.autograd.grad(value.sum(), d)[0]):
        assert not ((tensor != 0) & (tensor.abs() < tiny)).any()
    assert (value == 0).any()
    exact = basis(d.double())
    assert (value - exact).abs().max() < 2e-5  # float32 rounding of the exponent, at most 60


@pytest.mark.parametrize("make", [lambda: K.GaussianBasis(0), lambda: K.BesselBasis(3, -1.0)], ids=["size", "radius"])
def test_bad_sizes(make):
    with pytest.raises(ValueError, match="num_basis >= 1 and cutoff > 0"):
        make()


def test_other_errors():
    with pytest.raises(ValueError, match="start must lie below"):
        K.GaussianBasis(4, 1.0, start=1.0)
    with pytest.raises(ValueError, match="at least 2"):
        K.PolynomialCutoff(1.0, p=1)
    with pytest.raises(ValueError, match="must be positive"):
        K.CosineCutoff(0.0)
