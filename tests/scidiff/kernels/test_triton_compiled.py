"""Every Triton kernel compiles for an H100 without one: shared memory fits, matrix products use the tensor cores."""

from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed (it is published for Linux only)")

from scidiff.kernels import aot
from scidiff.kernels.basis import BesselBasis, CosineCutoff, ExpNormBasis, GaussianBasis, PolynomialCutoff
from scidiff.kernels.triton import attention, edge_mlp, gms, neighbors, painn, ponita, segment

N, E = 4608, 78336  # 256 molecules of 18 atoms
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Radial(NamedTuple):
    basis: Any
    cutoff: Any


RADIALS = {
    "bessel": Radial(BesselBasis(20), CosineCutoff()),
    "gaussian": Radial(GaussianBasis(50), PolynomialCutoff()),
    "expnorm": Radial(ExpNormBasis(32), None),
}


def empty(*shape, dtype):
    return torch.empty(*shape, dtype=dtype, device="meta")


def graph(index):
    """source, ptr, target, t_ptr, t_target, t_edge."""
    return [empty(size, dtype=index) for size in (E, N + 1, E, N + 1, E, E)]


def sums(node, wide, width, index):
    x, w, g = node(N, width), node(E, width), graph(index)
    launches = aot.record(gms.gms, x, w, *g[:2]) + aot.record(gms.gms, x, w, g[4], g[3], g[5])
    launches += aot.record(gms.edge_product, x, x, g[0], g[2]) + aot.record(gms.edge_dot, x, x, g[0], g[2], 8)
    launches += aot.record(gms.weighted_sum, x, node(E, 8), *g[:2])
    launches += aot.record(segment.segment_sum, w, g[1]) + aot.record(segment.segment_max, w, g[1])
    launches += aot.record(segment.segment_softmax, w, g[1]) + aot.record(segment.segment_softmax_backward, w, w, g[1])
    launches += aot.record(attention.softmax_gather_sum, w, x, *g[:2])
    return launches + aot.record(attention.softmax_gather_sum_backward, x, w, x, x, wide(N, width), *g)


def attentions(node, wide, width, index):
    g, x, bias = graph(index), node(N, 8, width // 8), node(E, 8)
    launches = []
    for v, b in ((x, bias), (node(N, 8, 4 * (width // 8)), None)):  # with vectors as channels
        launches += aot.record(attention.neighbor_attention, x, x, v, b, *g[:2])
        launches += aot.record(attention.neighbor_attention_backward, v, x, x, v, b, v, wide(N, 8), *g)
    return launches


def filters(node, wide, width, index, radial=RADIALS["bessel"]):
    x, g, K = node(N, width), graph(index), radial.basis.num_basis
    weights = wide(E), wide(K, width), wide(width)
    launches = aot.record(painn.cfconv, x, *weights, *g[:3], radial)
    launches += aot.record(painn.cfconv_backward, x, x, *weights, *g, radial)
    inputs = node(N, 3 * width), node(N, 3, width), wide(E), wide(E, 3), wide(K, 3 * width), wide(3 * width)
    launches += aot.record(painn.painn, *inputs, *g[:3], radial)
    return launches + aot.record(painn.painn_backward, x, node(N, 3, width), *inputs, *g, radial)


def networks(node, wide, width, index):
    g, column = graph(index), node(width)
    inputs = node(N, width), node(N, width), node(E), column, node(E, 2), node(2, width), node(width, width)
    inputs = *inputs, column, column, node(())
    head = [column], node(E, 3)
    launches = aot.record(edge_mlp.edge_mlp, *inputs, *head, *g[:3], "silu", 15.0, True)
    ups = node(N, width), node(N, 3), node(E, width)
    return launches + aot.record(edge_mlp.edge_mlp_backward, *ups, *inputs, *head, *g, "silu", 15.0)[:1]


def convolutions(node, wide, width, index):
    g, x = graph(index), node(N, 20, width)
    return aot.record(ponita.ponita_backward, x, x, node(E, 20, width), wide(width, width), *g) + aot.record(
        ponita.ponita, x, node(E, 20, width), wide(width, width), *g[:3]
    )


def check(bodies, dtype, width, index=torch.int32, **options):
    dtype = DTYPES[dtype]
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    launches = bodies(
        lambda *shape: empty(*shape, dtype=dtype), lambda *shape: empty(*shape, dtype=acc), width, index, **options
    )
    assert launches
    for launch in launches:
        compiled = aot.compile_launch(launch)
        assert compiled.shared <= aot.SHARED_MEMORY, compiled.name
        assert compiled.has_mma == compiled.has_dot, compiled.name
        assert len(compiled.binary) > 0


@pytest.mark.parametrize(("channels", "offset"), [(2, "int32"), (2**15, "int64")])
def test_offsets_of_wide_edge_features(channels, offset):
    """Offsets into (E, channels) pass 2^31 although all other tensors are small."""
    g, column = graph(torch.int32), empty(16, dtype=torch.float32)
    node, square = empty(N, 16, dtype=torch.float32), empty(16, 16, dtype=torch.float32)
    edges = empty(E, dtype=torch.float32), column, empty(E, channels, dtype=torch.float32)
    inputs = node, node, *edges, empty(channels, 16, dtype=torch.float32), square, column, None, None, [], None
    (launch,) = aot.record(edge_mlp.edge_mlp, *inputs, *g[:3], "silu", None, False)
    assert str(launch.constants["INDEX"]) == offset


def test_sums_compile():
    check(sums, "float32", 128)


def test_attentions_compile():
    check(attentions, "float32", 128)


def test_filters_compile():
    check(filters, "float32", 128)


def test_networks_compile():
    check(networks, "float32", 128)


def test_convolutions_compile():
    check(convolutions, "float32", 64)


@pytest.mark.parametrize("max_nodes", [18, 400])
def test_lists_compile_without_fused_products_and_sums(max_nodes):
    """Fusion would round squared distances once less, and pairs at the cutoff would come and go."""
    wide, index = torch.float64, torch.int64
    points = empty(N, 3, dtype=wide), empty(N, dtype=index), empty(257, dtype=index), empty(256, dtype=wide)
    launches = aot.record(neighbors.count_pairs, *points, False, max_nodes)
    launches += aot.record(neighbors.fill_pairs, *points, empty(N + 1, dtype=index), E, True, max_nodes)
    assert len(launches) == 2
    for launch in launches:
        assert not aot.compile_launch(launch).has_fma
    assert aot.compile_launch(launch._replace(fuses=True)).has_fma  # the check can fail


@pytest.mark.slow
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=["int32", "int64"])
@pytest.mark.parametrize("width", [20, 64, 128, 256])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bodies", [sums, attentions, filters, networks, convolutions], ids=lambda f: f.__name__)
def test_every_kernel_compiles_for_all_types_and_widths(bodies, dtype, width, index):
    if bodies is convolutions and width == 256:
        pytest.skip("PONITA kernels hold W on the chip: at most 128 channels")
    check(bodies, dtype, width, index)


@pytest.mark.slow
@pytest.mark.parametrize("radial", RADIALS)
def test_filters_compile_for_every_basis(radial):
    check(filters, "float32", 128, radial=RADIALS[radial])


def test_products_in_full_float32_would_miss_the_tensor_cores():
    """The check can fail: without TF32 the compiler makes no tensor-core instruction."""
    x, g = empty(N, 32, dtype=torch.float32), graph(torch.int32)
    W = empty(16, 32, dtype=torch.float32)
    radial = Radial(GaussianBasis(16), None)
    inputs = x, empty(E, dtype=torch.float32), W, empty(32, dtype=torch.float32), *g[:3], radial
    (launch,) = aot.record(painn.cfconv, *inputs)
    assert aot.compile_launch(launch).has_mma
    constants = {**launch.constants, "PRECISION": "ieee"}
    compiled = aot.compile_launch(launch._replace(constants=constants))
    assert compiled.has_dot
    assert not compiled.has_mma
