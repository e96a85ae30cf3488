"""Softmax, attention, the network of EGNN and the PONITA convolution against the torch definitions in float64."""

import pytest
import torch

from scidiff.kernels import ref
from scidiff.kernels.triton import attention, edge_mlp, ponita
from tests.scidiff.kernels.triton_bodies.graphs import assert_close, graph, normal, twins

N, E = 8, 84
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.mark.parametrize(
    ("dtype", "width"), [(torch.float64, 130), *((dtype, 20) for dtype in [*DTYPES, torch.float16])]
)
def test_softmax_gather_sum_and_its_gradients(dtype, width):
    g = graph()
    logits, x = (8 * normal(E, width)).to(dtype), normal(N, width, dtype=dtype, seed=1)
    up = normal(N, width, dtype=dtype, seed=2)
    leaves = twins(logits, x)
    expected = ref.softmax_gather_sum(*leaves, g.source, g.target)
    grads = torch.autograd.grad(expected, leaves, up.double())
    out, lse = attention.softmax_gather_sum(logits, x, g.source, g.ptr)
    assert_close(out, expected, dtype, factor=2)
    for got, want in zip(attention.softmax_gather_sum_backward(up, logits, x, out, lse, *g), grads, strict=True):
        assert_close(got, want, dtype, factor=4)


def test_logits_of_minus_infinity_take_no_part():
    g, logits, x = graph((3,)), normal(3, 4), normal(1, 4, seed=1)
    logits[1:] = -torch.inf
    out, _ = attention.softmax_gather_sum(logits, x, g.source, g.ptr)
    assert torch.equal(out[0], x[0])


@pytest.mark.parametrize(
    ("dtype", "heads", "width", "channels", "has_bias"),
    [
        (torch.float64, 1, 70, 130, True),
        (torch.float32, 2, 12, 20, True),
        (torch.bfloat16, 2, 12, 20, True),
        (torch.float16, 2, 12, 20, False),
        (torch.float32, 1, 9, 600, False),
    ],
)
def test_neighbor_attention_and_its_gradients(dtype, heads, width, channels, has_bias):
    g = graph()
    q, k = (normal(N, heads, width, dtype=dtype, seed=i) for i in range(2))
    v, up = (normal(N, heads, channels, dtype=dtype, seed=i) for i in (2, 3))
    bias = (3 * normal(E, heads, seed=4)).to(dtype) if has_bias else None
    leaves = twins(q, k, v, bias)
    expected, _ = ref.neighbor_attention(*leaves[:3], g.source, g.target, leaves[3])
    grads = torch.autograd.grad(expected, [leaf for leaf in leaves if leaf is not None], up.double())
    out, lse = attention.neighbor_attention(q, k, v, bias, g.source, g.ptr)
    assert out.dtype == dtype
    assert_close(out, expected, dtype, factor=2)
    found = attention.neighbor_attention_backward(up, q, k, v, bias, out, lse, *g)
    assert (found[3] is None) == (bias is None)
    for got, want in zip([d for d in found if d is not None], grads, strict=True):
        assert_close(got, want, dtype, factor=4)


def test_large_logits_do_not_overflow_and_biases_of_minus_infinity_take_no_part():
    g = graph((20,))
    q, k, v = normal(1, 1, 4) * 1e4, normal(1, 1, 4, seed=1) * 1e4, normal(1, 1, 4, seed=2)
    bias = torch.full((20, 1), -torch.inf, device=q.device)
    bias[17] = 0  # in the second tile, after a tile without any weight
    out, lse = attention.neighbor_attention(q, k, v, bias, g.source, g.ptr)
    assert torch.equal(out, v)
    assert_close(lse, (q * k).sum(2) / 2)
    d_q, d_k, d_v, d_bias = attention.neighbor_attention_backward(v, q, k, v, bias, out, lse, *g)
    assert torch.equal(d_v, v)
    assert not any(d.any() for d in (d_q, d_k, d_bias))


@pytest.mark.parametrize("degrees", [(), (0, 0)], ids=["no nodes", "no edges"])
def test_attention_over_empty_graphs_gives_zeros(degrees):
    g, n = graph(degrees), len(degrees)
    q, v, bias = normal(n, 2, 4), normal(n, 2, 6), normal(0, 2)
    out, lse = attention.neighbor_attention(q, q, v, bias, g.source, g.ptr)
    for got in (out, *attention.neighbor_attention_backward(v, q, q, v, bias, out, lse, *g)):
        assert torch.equal(got, torch.zeros_like(got))


def arguments(width, out, *, edge_features=0, gate=False, coord=0, dtype=torch.float32):
    """Inputs of the edge network in order; entries that are None are absent."""
    a, b, d2, wd = (normal(*s, dtype=dtype, seed=i) for i, s in enumerate([(N, width), (N, width), (E,), (width,)]))
    e, We = (normal(E, edge_features, dtype=dtype, seed=4), normal(edge_features, width, dtype=dtype, seed=5)) if (
        edge_features
    ) else (None, None)  # fmt: skip
    W2, b2 = normal(width, out, dtype=dtype, seed=6) / width**0.5, normal(out, dtype=dtype, seed=7)
    gates = (normal(out, dtype=dtype, seed=8), normal(1, dtype=dtype, seed=9)[0]) if gate else (None, None)
    shapes = {0: [], 1: [(out,)], 3: [(out, 12), (12,), (12,)]}[coord]
    heads = [normal(*s, dtype=dtype, seed=10 + i) / out**0.5 for i, s in enumerate(shapes)]
    vec = normal(E, 3, dtype=dtype, seed=13) if coord else None
    return [a, b, d2, wd, e, We, W2, b2, *gates], heads, vec


VARIANTS = {
    "plain": ({}, "silu", None),
    "edge features and gate": ({"edge_features": 3, "gate": True}, "silu", None),
    "coordinates": ({"coord": 1}, "relu", None),
    "bounded coordinates and gate": ({"coord": 1, "gate": True}, "silu", 1.5),
    "deep coordinates": ({"coord": 3, "gate": True}, "tanh", None),
    "bounded deep coordinates": ({"coord": 3}, "silu", 1.5),
}


@pytest.mark.parametrize(
    ("dtype", "variant"),
    [
        *((dtype, variant) for variant in VARIANTS for dtype in (torch.float32, torch.float64)),
        *((dtype, "bounded coordinates and gate") for dtype in (torch.bfloat16, torch.float16)),
    ],
)
def test_edge_mlp_and_its_gradients(dtype, variant):
    options, act, bound = VARIANTS[variant]
    width, out = (80, 20) if dtype == torch.float32 else (20, 24)
    g = graph()
    inputs, coord, vec = arguments(width, out, dtype=dtype, **options)
    leaves, leaf_coord, leaf_vec = twins(*inputs), twins(*coord), twins(vec)[0]
    gate = None if leaves[8] is None else tuple(leaves[8:10])
    heads = (leaf_coord or None, leaf_vec, act, bound)
    expected = ref.edge_mlp(leaves[0], leaves[1], g.source, g.target, *leaves[2:8], gate, *heads)
    got = edge_mlp.edge_mlp(*inputs, coord, vec, g.source, g.ptr, g.target, act, bound, True)
    ups = [None if want is None else normal(*want.shape, dtype=dtype, seed=20) for want in expected]
    for have, want in zip(got, expected, strict=True):
        assert (have is None) == (want is None)
        if want is not None:
            assert_close(have, want, dtype, factor=4)
    wanted = [leaf for leaf in (*leaves, *leaf_coord, leaf_vec) if leaf is not None]
    pairs = [(want, up.double()) for want, up in zip(expected, ups, strict=True) if want is not None]
    grads = torch.autograd.grad([want for want, _ in pairs], wanted, [up for _, up in pairs])
    back = edge_mlp.edge_mlp_backward(*ups, *inputs, coord, vec, *g, act, bound)
    flat = [grad for grad in (*back[:10], *back[10], back[11]) if grad is not None]
    for have, want in zip(flat, grads, strict=True):
        assert_close(have, want, dtype, factor=8)


def test_edge_mlp_has_the_same_bits_in_every_run():
    g, (inputs, coord, vec) = graph(), arguments(20, 24, gate=True, coord=1)
    ups = normal(N, 24), normal(N, 3, seed=1), normal(E, 24, seed=2)

    def run():
        out = edge_mlp.edge_mlp(*inputs, coord, vec, g.source, g.ptr, g.target, "silu", 1.5, True)
        back = edge_mlp.edge_mlp_backward(*ups, *inputs, coord, vec, *g, "silu", 1.5)
        return [t for t in (*out, *back[:10], *back[10], back[11]) if t is not None]

    first = run()
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


def test_messages_are_stored_only_if_asked_for():
    g, (inputs, coord, vec) = graph(), arguments(20, 24)
    h, dx, m = edge_mlp.edge_mlp(*inputs, coord, vec, g.source, g.ptr, g.target, "silu", None, False)
    assert h.shape == (N, 24)
    assert dx is None
    assert m is None


@pytest.mark.parametrize("degrees", [(), (0, 0)], ids=["no nodes", "no edges"])
def test_edge_mlp_of_empty_graphs_gives_zeros(degrees):
    g, n = graph(degrees), len(degrees)
    inputs, coord, _ = arguments(20, 24, coord=1)
    inputs = [normal(n, 20), normal(n, 20), normal(0), *inputs[3:]]
    h, dx, _ = edge_mlp.edge_mlp(*inputs, coord, normal(0, 3), g.source, g.ptr, g.target, "silu", None, False)
    assert torch.equal(h, torch.zeros_like(normal(n, 24)))
    assert torch.equal(dx, torch.zeros_like(normal(n, 3)))
    back = edge_mlp.edge_mlp_backward(normal(n, 24), normal(n, 3), None, *inputs, coord, normal(0, 3), *g, "silu", None)
    assert all(not grad.any() for grad in (*back[:4], *back[6:8], *back[10], back[11]))


@pytest.mark.parametrize(
    ("dtype", "orientations", "basis_width", "width"),
    [*((dtype, 20, 18, 24) for dtype in DTYPES), (torch.float64, 3, 80, 70)],
)
def test_ponita_and_its_gradients(dtype, orientations, basis_width, width):
    g, count = graph((3, 0, 9)), 12
    x, basis = (
        normal(3, orientations, width, dtype=dtype),
        normal(count, orientations, basis_width, dtype=dtype, seed=1),
    )
    W = normal(basis_width, width, dtype=torch.float32 if dtype == torch.bfloat16 else dtype, seed=2)
    up = normal(3, orientations, width, dtype=dtype, seed=3)
    leaves = twins(x, basis, W)
    expected = ref.segment_sum(leaves[0].index_select(0, g.source) * (leaves[1] @ leaves[2]), g.target, 3)
    grads = torch.autograd.grad(expected, leaves, up.double())
    assert_close(ponita.ponita(x, basis, W, g.source, g.ptr, g.target), expected, dtype, factor=2)
    for got, want in zip(ponita.ponita_backward(up, x, basis, W, *g), grads, strict=True):
        assert_close(got, want, got.dtype, factor=2)
