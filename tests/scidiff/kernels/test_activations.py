"""Vector code of activations: values and slopes against higher precision, and at the ends of the number line."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scidiff.kernels.cpu_numba.activations import CODES, activate, silu, silu_slope

ENDS = [-np.inf, -3e38, -1e4, -200.0, -0.0, 0.0, 200.0, 1e4, 3e38, np.inf, np.nan]
WIDE = {"float32": (np.float64, 86.0), "float64": (np.longdouble, 700.0)}


@pytest.mark.parametrize("name", WIDE)
def test_silu_on_a_dense_grid(name):
    """x / (1 + exp(-x)): two units of the exponential, and half a unit for each of a sum, a quotient and a product.

    The slope s + x s (1 - s) has the absolute error of its parts: s and 1 - s within three units of s, and x s.
    """
    wide, reach = WIDE[name]
    x = np.linspace(-reach, reach, 400_001).astype(name)
    value, other, slope = x.copy(), x.copy(), np.empty_like(x)
    silu(value)
    silu_slope(other, slope)
    assert np.array_equal(value, other)
    s = 1 / (1 + np.exp(-x.astype(wide)))
    exact = x.astype(wide) * s
    assert np.abs((value - exact) / np.spacing(np.abs(exact).astype(name))).max() <= 3.5
    bound = 4 * np.finfo(name).eps * (1 + np.abs(exact))
    assert (np.abs(slope - (s + exact * (1 - s))) <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_ends_of_the_number_line_are_those_of_torch(dtype):
    """Where the exponential overflows the results of torch are infinite, 0 or NaN, and so are these."""
    x = torch.tensor(ENDS, dtype=dtype)
    expected = F.silu(x), torch.ops.aten.silu_backward(torch.ones_like(x), x)
    value, slope = x.clone(), torch.empty_like(x)
    silu_slope(value.numpy(), slope.numpy())
    for found, exact in zip((value, slope), expected, strict=True):
        tiny = torch.finfo(dtype).tiny  # -200 in float64 is an ordinary number
        torch.testing.assert_close(found, exact, rtol=4 * torch.finfo(dtype).eps, atol=tiny, equal_nan=True)


@pytest.mark.parametrize(("name", "function"), [("relu", torch.relu), ("tanh", torch.tanh)])
def test_other_activations(name, function):
    x = torch.tensor([-2.0, -0.5, -0.0, 0.0, 0.3, 4.0, torch.nan], dtype=torch.float64, requires_grad=True)
    expected = function(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    value, slope = x.detach().clone(), torch.empty(7, dtype=torch.float64)
    activate(value.numpy(), slope.numpy(), CODES[name])
    torch.testing.assert_close(value, expected.detach(), rtol=1e-15, atol=0, equal_nan=True)
    torch.testing.assert_close(slope[:6], gradient[:6], rtol=1e-15, atol=1e-16)
