"""phi functions against high precision, quadrature against closed forms."""

import math

import mpmath
import pytest
import torch

from scidiff.coefficients import exponential_weights, integral_weights, lagrange, phi

MAGNITUDES = [1e-8, 1e-5, 1e-3, 0.05, 0.099, 0.1, 0.101, 0.5, 0.999, 1.0, 1.001, 2.0, 7.0, 20.0, 50.0]
EPS = torch.finfo(torch.float64).eps


def exact_phi(k: int, z: float) -> float:
    """By the recursion in 80 digits, which survive the cancellation."""
    with mpmath.workdps(80):
        value = mpmath.exp(mpmath.mpf(z))
        for j in range(k):
            value = (value - 1 / mpmath.factorial(j)) / mpmath.mpf(z)
        return float(value)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_phi_agrees_with_high_precision(k, sign):
    """From |z| = 1 on, each of the k levels loses at most a factor k!; 100 k! eps bounds them all."""
    z = sign * torch.tensor(MAGNITUDES, dtype=torch.float64)
    exact = torch.tensor([exact_phi(k, float(v)) for v in z], dtype=torch.float64)
    assert ((phi(k, z) - exact) / exact).abs().max() < 100 * math.factorial(k) * EPS


def test_phi_at_zero_and_minus_infinity():
    z = torch.tensor([0.0, -math.inf], dtype=torch.float64)
    for k in range(1, 5):
        assert phi(k, z).tolist() == [1 / math.factorial(k), 0.0]


@pytest.mark.parametrize("z", [-7.0, -0.3, 1e-4, 0.3, 5.0])
def test_closed_form_weights_agree_with_quadrature(z):
    """Gauss-Legendre with 32 nodes integrates e^{z u} for |z| <= 7 to machine precision."""
    nodes = torch.tensor([0.0, -0.7, -1.9, 1.0], dtype=torch.float64)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    by_quadrature = integral_weights(lambda u: torch.exp(z * (1 - u)), nodes, (zero, one))
    closed = exponential_weights(torch.tensor(z, dtype=torch.float64), nodes)
    assert torch.allclose(closed, by_quadrature, rtol=1e-11, atol=1e-12)


def test_quadrature_is_exact_for_polynomials():
    """int_0^2 l_j du of the nodes 0, 1, 2 are Simpson's weights."""
    nodes = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    ends = (torch.tensor(0.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
    weights = integral_weights(torch.ones_like, nodes, ends)
    assert torch.allclose(weights, torch.tensor([1 / 3, 4 / 3, 1 / 3], dtype=torch.float64), atol=4 * EPS)


def test_coordinate_of_the_polynomials():
    """int_0^1 l(u^2) du with nodes 0 and 1 in c = u^2: weights 1 - 1/3 and 1/3."""
    nodes = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ends = (torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    weights = integral_weights(torch.ones_like, nodes, ends, torch.square)
    assert torch.allclose(weights, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64), atol=4 * EPS)


def test_lagrange_polynomials_interpolate_and_broadcast():
    nodes = torch.tensor([[0.0, -1.0, -3.0], [0.2, 0.1, -5.0]], dtype=torch.float64)
    assert torch.allclose(lagrange(nodes, nodes), torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    u = torch.linspace(-2, 2, 7, dtype=torch.float64).expand(2, 7)
    assert torch.allclose(lagrange(nodes, u).sum(1), torch.ones(2, 7, dtype=torch.float64))
