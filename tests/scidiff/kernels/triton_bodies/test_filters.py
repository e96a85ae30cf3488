"""cfconv and the PaiNN message, forward and gradients, against the torch definitions in float64."""

from typing import Any, NamedTuple

import pytest
import torch

from scidiff.kernels import ref
from scidiff.kernels.basis import BesselBasis, CosineCutoff, ExpNormBasis, GaussianBasis, PolynomialCutoff
from scidiff.kernels.triton import painn
from tests.scidiff.kernels.triton_bodies.graphs import assert_close, graph, normal, twins

N, E = 8, 84


class Radial(NamedTuple):
    basis: Any
    cutoff: Any


PAIRS = {
    "bessel": Radial(BesselBasis(20, 5.0), CosineCutoff(5.0)),
    "gaussian": Radial(GaussianBasis(13, 5.0), PolynomialCutoff(5.0, p=6)),
    "expnorm": Radial(ExpNormBasis(32, 5.0), None),
}
SMALL = [(torch.float32, 20), (torch.float64, 20), (torch.bfloat16, 20)]


def distances(dtype):
    """Within and beyond the cutoff, one at 0 and one at the cutoff."""
    dist = 5.5 * torch.rand(E, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    dist[0], dist[1] = 0.0, 5.0
    return dist.to(normal(1).device, dtype)


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize(("dtype", "width"), [(torch.float64, 130), *SMALL], ids=str)
@pytest.mark.parametrize("pair", PAIRS)
def test_cfconv_and_its_gradients(dtype, pair, width):
    g, radial, acc = graph(), PAIRS[pair], wide(dtype)
    x, up = normal(N, width, dtype=dtype), normal(N, width, dtype=dtype, seed=1)
    weights = (
        distances(acc),
        normal(radial.basis.num_basis, width, dtype=acc, seed=2),
        normal(width, dtype=acc, seed=3),
    )
    leaves = twins(x, *weights)
    expected = ref.cfconv(*leaves, g.source, g.target, *radial)
    grads = torch.autograd.grad(expected, leaves, up.double())
    assert_close(painn.cfconv(x, *weights, g.source, g.ptr, g.target, radial), expected, dtype, factor=2)
    for got, want in zip(painn.cfconv_backward(up, x, *weights, *g, radial), grads, strict=True):
        assert_close(got, want, got.dtype, factor=8)  # arguments k pi d / r_c up to 60 lose up to five bits


@pytest.mark.parametrize(
    ("dtype", "width", "pair"), [(torch.float32, 70, "gaussian"), *((*s, "bessel") for s in SMALL)]
)
def test_painn_message_and_its_gradients(dtype, pair, width):
    g, radial, acc = graph(), PAIRS[pair], wide(dtype)
    phi, v = normal(N, 3 * width, dtype=dtype), normal(N, 3, width, dtype=dtype, seed=1)
    unit = torch.nn.functional.normalize(normal(E, 3, dtype=acc, seed=2), dim=1)
    filters = normal(radial.basis.num_basis, 3 * width, dtype=acc, seed=3), normal(3 * width, dtype=acc, seed=4)
    inputs = (phi, v, distances(acc), unit, *filters)
    ups = normal(N, width, dtype=dtype, seed=5), normal(N, 3, width, dtype=dtype, seed=6)
    leaves = twins(*inputs)
    expected = ref.painn_message(*leaves, g.source, g.target, *radial)
    grads = torch.autograd.grad(expected, leaves, [up.double() for up in ups])
    for got, want in zip(painn.painn(*inputs, g.source, g.ptr, g.target, radial), expected, strict=True):
        assert_close(got, want, dtype, factor=2)
    for got, want in zip(painn.painn_backward(*ups, *inputs, *g, radial), grads, strict=True):
        assert_close(got, want, got.dtype, factor=8)


@pytest.mark.parametrize("degrees", [(), (0, 0)], ids=["no nodes", "no edges"])
def test_filters_of_empty_graphs_give_zeros(degrees):
    g, n, radial = graph(degrees), len(degrees), PAIRS["bessel"]
    inputs = normal(n, 60), normal(n, 3, 20), normal(0), normal(0, 3), normal(20, 60), normal(60)
    for out in painn.painn(*inputs, g.source, g.ptr, g.target, radial):
        assert torch.equal(out, torch.zeros_like(out))
    for got, like in zip(
        painn.painn_backward(normal(n, 20), normal(n, 3, 20), *inputs, *g, radial), inputs, strict=True
    ):
        assert torch.equal(got, torch.zeros_like(like))


def test_a_function_without_a_kernel_is_named():
    g, radial = graph(), Radial(lambda d: d[:, None], None)
    with pytest.raises(ValueError, match="gaussian, bessel, expnorm"):
        painn.cfconv(normal(N, 4), distances(torch.float32), normal(1, 4), normal(4), g.source, g.ptr, g.target, radial)


def test_gradients_have_the_same_bits_in_every_run():
    g, radial = graph(), PAIRS["bessel"]
    inputs = normal(N, 20), normal(N, 20, seed=1), distances(torch.float32), normal(20, 20, seed=2), normal(20, seed=3)
    first, second = (painn.cfconv_backward(*inputs, *g, radial) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
