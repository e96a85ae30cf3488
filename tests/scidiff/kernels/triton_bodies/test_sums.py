"""Sums over neighbours, edge products and segment reductions against the torch definitions in float64."""

import pytest
import torch

from scidiff.kernels import ref
from scidiff.kernels.triton import _common, gms, segment
from tests.scidiff.kernels.triton_bodies.graphs import DEVICE, TOLERANCE, assert_close, graph, normal

DTYPES = list(TOLERANCE)
N = 8


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("width", "index"), [(20, torch.int32), (130, torch.int64)])
def test_gather_multiply_sum_and_its_gradients(dtype, width, index):
    """The gradient of x is the sum on the transpose with permuted weights, that of w an edge product."""
    g = graph(index=index)
    x, w, up = (
        normal(N, width, dtype=dtype),
        normal(84, width, dtype=dtype, seed=1),
        normal(N, width, dtype=dtype, seed=2),
    )
    x64, w64 = x.double().requires_grad_(), w.double().requires_grad_()
    expected = ref.gather_multiply_sum(x64, w64, g.source, g.target)
    dx, dw = torch.autograd.grad(expected, (x64, w64), up.double())
    out = gms.gms(x, w, g.source, g.ptr)
    assert out.dtype == dtype
    assert_close(out, expected, dtype)
    assert_close(gms.gms(up, w, g.t_target, g.t_ptr, g.t_edge), dx, dtype)
    assert_close(gms.edge_product(up, x, g.source, g.target), dw, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads", [1, 4])
def test_weighted_sum_and_its_gradients(dtype, heads):
    g = graph()
    x, a, up = normal(N, 20, dtype=dtype), normal(84, heads, dtype=dtype, seed=1), normal(N, 20, dtype=dtype, seed=2)
    x64, a64 = x.double().requires_grad_(), a.double().requires_grad_()
    expected = ref.weighted_sum(x64, a64, g.source, g.target)
    dx, da = torch.autograd.grad(expected, (x64, a64), up.double())
    assert_close(gms.weighted_sum(x, a, g.source, g.ptr), expected, dtype)
    assert_close(gms.weighted_sum(up, a, g.t_target, g.t_ptr, g.t_edge), dx, dtype)
    assert_close(gms.edge_dot(up, x, g.source, g.target, heads), da, dtype)


def test_one_weight_an_edge_needs_no_axis_of_heads():
    g, x, a = graph(), normal(N, 20), normal(84, seed=1)
    assert torch.equal(gms.weighted_sum(x, a, g.source, g.ptr), gms.weighted_sum(x, a[:, None], g.source, g.ptr))
    dots = gms.edge_dot(x, x, g.source, g.target)
    assert torch.equal(dots, gms.edge_dot(x, x, g.source, g.target, 1)[:, 0])


def test_a_directed_edge_changes_its_target_only():
    source, ptr = (torch.tensor(v, device=DEVICE) for v in ([0], [0, 0, 1]))
    out = gms.gms(normal(2, 3), normal(1, 3, seed=1), source, ptr)
    assert torch.equal(out[0], torch.zeros(3, device=DEVICE))
    assert torch.equal(out[1], normal(2, 3)[0] * normal(1, 3, seed=1)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_segment_reductions(dtype):
    g, v = graph(), normal(84, 20, dtype=dtype)
    v64 = v.double()
    assert_close(segment.segment_sum(v, g.ptr), ref.segment_sum(v64, g.target, N), dtype)
    assert_close(segment.segment_sum(v, g.ptr, mean=True), ref.segment_mean(v64, g.target, N), dtype)
    permuted = ref.segment_sum(v64.index_select(0, g.t_edge), g.source.index_select(0, g.t_edge), N)
    assert_close(segment.segment_sum(v, g.t_ptr, g.t_edge), permuted, dtype)
    assert torch.equal(segment.segment_max(v, g.ptr).double(), ref.segment_max(v64, g.target, N))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_segment_softmax_and_its_gradient(dtype):
    g, up = graph(), normal(84, 5, dtype=dtype, seed=1)
    logits = (40 * normal(84, 5)).to(dtype)  # the largest exponent would overflow without the shift in half precision
    logits64 = logits.double().requires_grad_()
    expected = ref.segment_softmax(logits64, g.target, N)
    p = segment.segment_softmax(logits, g.ptr)
    assert_close(p, expected, dtype, factor=4)
    (slope,) = torch.autograd.grad(expected, logits64, up.double())
    got = segment.segment_softmax_backward(up, expected.detach().to(dtype), g.ptr)
    scale = (expected * up.double()).norm()  # the two terms may cancel
    assert (got.double() - slope).norm() <= 2 * TOLERANCE[dtype] * scale


def test_an_invalid_entry_makes_the_maximum_invalid():
    v = torch.tensor([[1.0], [float("nan")], [2.0]], device=DEVICE)
    ptr = torch.tensor([0, 2, 3], device=DEVICE)
    out = segment.segment_max(v, ptr)
    assert out[0].isnan()
    assert out[1] == 2


@pytest.mark.parametrize("degrees", [(), (0, 0, 0)], ids=["no nodes", "no edges"])
def test_empty_graphs_give_zeros(degrees):
    g, x, w = graph(degrees), normal(len(degrees), 20), normal(0, 20)
    for out in (gms.gms(x, w, g.source, g.ptr), gms.weighted_sum(x, normal(0, 4), g.source, g.ptr)):
        assert torch.equal(out, torch.zeros_like(x))
    for reduce in (segment.segment_sum, segment.segment_max):
        assert torch.equal(reduce(w, g.ptr), torch.zeros_like(x))
    assert segment.segment_softmax(w, g.ptr).shape == (0, 20)
    assert gms.edge_product(x, x, g.source, g.target).shape == (0, 20)
    assert gms.edge_dot(x, x, g.source, g.target, 4).shape == (0, 4)


def test_strided_inputs_give_the_same_bits():
    g, x, w = graph(), normal(20, N), normal(84, 40, seed=1)
    out = gms.gms(x.T, w[:, ::2], g.source, g.ptr)
    assert torch.equal(out, gms.gms(x.T.contiguous(), w[:, ::2].contiguous(), g.source, g.ptr))


def test_results_do_not_depend_on_the_run_or_on_the_place_in_the_batch():
    """A row has one owner and a fixed tile width: two graphs in one batch give the bits of each alone."""
    one, two = graph(), graph((5, 33, 2), seed=3)
    x, w = normal(N + 3, 20), normal(84 + 40, 20, seed=1)
    source = torch.cat([one.source, two.source + N])
    ptr = torch.cat([one.ptr, two.ptr[1:] + 84])
    out = gms.gms(x, w, source, ptr)
    assert torch.equal(out, gms.gms(x, w, source, ptr))
    assert torch.equal(out[N:], gms.gms(x[N:], w[84:], two.source, two.ptr))


def test_wide_offsets_give_the_same_bits(monkeypatch):
    g, x, w = graph(), normal(N, 20), normal(84, 20, seed=1)
    narrow = gms.gms(x, w, g.source, g.ptr)
    monkeypatch.setattr(_common, "WIDE_FROM", 1)
    assert torch.equal(gms.gms(x, w, g.source, g.ptr), narrow)
