"""The definitions against loops in plain Python, on at most twelve nodes."""

import math

import pytest
import torch

import scidiff.kernels as K
from tests.scidiff.kernels.loops import (
    incoming,
    loop_gms,
    loop_painn,
    loop_softmax,
    normal,
    random_edges,
)

N, E, F = 9, 31, 6
EDGES = random_edges(N, E)
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def test_reductions_of_edges():
    v = normal(E, 2, 3)
    rows = incoming(EDGES, N)
    zero = torch.zeros(2, 3, dtype=v.dtype)
    total = torch.stack([sum((v[e] for e, _ in row), zero) for row in rows])
    largest = torch.stack([torch.stack([v[e] for e, _ in row]).amax(0) if row else zero for row in rows])
    degree = torch.tensor([max(len(row), 1) for row in rows])[:, None, None]
    torch.testing.assert_close(K.segment_sum(v, EDGES, num_nodes=N), total, **TIGHT)
    torch.testing.assert_close(K.segment_mean(v, EDGES, num_nodes=N), total / degree, **TIGHT)
    torch.testing.assert_close(K.segment_max(v, EDGES, num_nodes=N), largest, **TIGHT)
    logits = 3 * normal(E, 4)
    torch.testing.assert_close(K.segment_softmax(logits, EDGES, num_nodes=N), loop_softmax(logits, EDGES, N), **TIGHT)


def test_softmax_does_not_overflow():
    logits = torch.tensor([[1000.0], [999.0], [-1000.0]], dtype=torch.float64)
    edges = torch.tensor([[1, 2, 0], [0, 0, 1]])
    expected = torch.tensor([[1 / (1 + math.exp(-1))], [1 / (1 + math.e)], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(K.segment_softmax(logits, edges, num_nodes=3), expected, **TIGHT)


def test_gather_multiply_sum():
    x, w = normal(N, F), normal(E, F, seed=1)
    torch.testing.assert_close(K.gather_multiply_sum(x, w, EDGES), loop_gms(x, w, EDGES), **TIGHT)


def test_weighted_sum_and_edge_dot():
    x, y, a = normal(N, F), normal(N, F, seed=1), normal(E, 3, seed=2)
    wide = a.repeat_interleave(F // 3, 1)
    torch.testing.assert_close(K.weighted_sum(x, a, EDGES), loop_gms(x, wide, EDGES), **TIGHT)
    torch.testing.assert_close(K.weighted_sum(x, a[:, 0], EDGES), loop_gms(x, a[:, :1].expand(E, F), EDGES), **TIGHT)
    dots = torch.tensor([[sum(x[i, f] * y[j, f] for f in (2 * h, 2 * h + 1)) for h in range(3)] for j, i in EDGES.T])
    torch.testing.assert_close(K.edge_dot(x, y, EDGES, 3), dots, **TIGHT)
    torch.testing.assert_close(K.edge_dot(x, y, EDGES), dots.sum(1), **TIGHT)


def test_painn_and_cfconv():
    basis, cutoff = K.BesselBasis(5, 4.0), K.CosineCutoff(4.0)
    phi, v, unit = normal(N, 3 * F), normal(N, F, 3, seed=1), normal(E, 3, seed=2)
    dist, W, bias = 0.1 + 4.2 * normal(E, seed=3).sigmoid(), normal(5, 3 * F, seed=4), normal(3 * F, seed=5)
    dh, dv = loop_painn(phi, v, dist, unit, W, bias, EDGES, basis, cutoff)
    result = K.painn_message(phi, v, dist, unit, W, bias, EDGES, basis, cutoff)
    torch.testing.assert_close(result[0], dh, **TIGHT)
    torch.testing.assert_close(result[1], dv, **TIGHT)
    conv = K.cfconv(phi[:, :F], dist, W[:, :F], bias[:F], EDGES, basis, cutoff)
    torch.testing.assert_close(conv, dh, **TIGHT)
    everywhere = K.cfconv(phi[:, :F], dist, W[:, :F], bias[:F], EDGES, basis, None)
    torch.testing.assert_close(everywhere, loop_gms(phi[:, :F], basis(dist) @ W[:, :F] + bias[:F], EDGES), **TIGHT)


@pytest.mark.parametrize("norm", ["sum", "mean", 7.0])
def test_edge_mlp_is_the_published_form(norm):
    """Against the concatenated first layer, one edge at a time."""
    h, W1, b1 = normal(N, 4), normal(4 + 4 + 1 + 2, F, seed=1), normal(F, seed=2)
    d2, e, vec = normal(E, seed=3).square(), normal(E, 2, seed=4), normal(E, 3, seed=5)
    W2, b2, gate = normal(F, 5, seed=6), normal(5, seed=7), (normal(5, seed=8), normal(1, seed=9)[0])
    head = normal(5, 3, seed=10), normal(3, seed=11), normal(3, seed=12)
    silu = torch.nn.functional.silu
    m = torch.zeros(E, 5, dtype=h.dtype)
    out, dx = torch.zeros(N, 5, dtype=h.dtype), torch.zeros(N, 3, dtype=h.dtype)
    for i, row in enumerate(incoming(EDGES, N)):
        for k, j in row:
            m[k] = silu(silu(torch.cat([h[i], h[j], d2[k : k + 1], e[k]]) @ W1 + b1) @ W2 + b2)
            m[k] = m[k] * torch.sigmoid(m[k] @ gate[0] + gate[1])
            out[i] += m[k]
            dx[i] += vec[k] * 2.5 * torch.tanh(silu(m[k] @ head[0] + head[1]) @ head[2])
        scale = {"sum": 1, "mean": max(len(row), 1)}.get(norm, norm)
        out[i] /= scale
        dx[i] /= max(len(row), 1)
    options = {"d2": d2, "wd": W1[8], "e": e, "We": W1[9:], "W2": W2, "b2": b2, "gate": gate, "vec": vec}
    a, b = h @ W1[:4] + b1, h @ W1[4:8]
    result = K.edge_mlp(
        a, b, EDGES, **options, coord=head, norm=norm, coord_norm="mean", coord_range=2.5, return_messages=True
    )
    for value, expected in zip(result, (out, dx, m), strict=True):
        torch.testing.assert_close(value, expected, **TIGHT)
    linear = K.edge_mlp(a, b, EDGES, **options, coord=gate[0])
    total = K.segment_sum(vec * (m @ gate[0])[:, None], EDGES, num_nodes=N)
    torch.testing.assert_close(linear.dx, total, **TIGHT)
    assert linear.m is None
    assert K.edge_mlp(a, b, EDGES, **{**options, "vec": None}).dx is None


def test_attention():
    q, k, v, vec = normal(N, 2, 3), normal(N, 2, 3, seed=1), normal(N, 2, 3, seed=2), normal(N, 2, 3, 3, seed=3)
    bias = normal(E, 2, seed=4)
    logits = torch.stack([(q[i] * k[j]).sum(1) / math.sqrt(3) for j, i in EDGES.T.tolist()]) + bias
    p = loop_softmax(logits, EDGES, N)
    out, out_vec = torch.zeros_like(v), torch.zeros_like(vec)
    for e, (j, i) in enumerate(EDGES.T.tolist()):
        out[i] += p[e][:, None] * v[j]
        out_vec[i] += p[e][:, None, None] * vec[j]
    result = K.neighbor_attention(q, k, v, EDGES, bias, vec)
    torch.testing.assert_close(result[0], out, **TIGHT)
    torch.testing.assert_close(result[1], out_vec, **TIGHT)
    assert K.neighbor_attention(q, k, v, EDGES)[1] is None
    by_channel = K.softmax_gather_sum(logits, v[:, :, 0], EDGES)
    torch.testing.assert_close(by_channel, loop_gms(v[:, :, 0], p, EDGES), **TIGHT)


def test_ponita():
    num, C, D = 3, 4, 5
    x, basis, W, fiber, bias = (
        normal(N, num, C),
        normal(E, num, D, seed=1),
        normal(D, C, seed=2),
        normal(num, num, C),
        normal(C),
    )
    y = torch.zeros_like(x)
    for e, (j, i) in enumerate(EDGES.T.tolist()):
        for o in range(num):
            y[i, o] += (basis[e, o] @ W) * x[j, o]
    z = torch.stack([sum(fiber[o, p] * y[:, o] for o in range(num)) / num for p in range(num)], 1) + bias
    torch.testing.assert_close(K.ponita_conv(x, basis, W, fiber, EDGES, bias=bias), z, **TIGHT)
    squared = K.ponita_conv(x, basis, W, fiber, EDGES, mlp=torch.square)
    torch.testing.assert_close(squared, K.ponita_conv(x, basis**2, W, fiber, EDGES), **TIGHT)


def test_tensor_product_of_e3nn():
    o3 = pytest.importorskip("e3nn.o3")
    tp = o3.TensorProduct(
        "2x0e+1o", "0e+1o", "2x0e+1o", [(0, 0, 0, "uvu", True), (0, 1, 1, "uvw", True)], shared_weights=False
    )
    tp = tp.double()
    x, Y, w = normal(N, tp.irreps_in1.dim), normal(E, tp.irreps_in2.dim, seed=1), normal(E, tp.weight_numel, seed=2)
    out = torch.zeros(N, tp.irreps_out.dim, dtype=x.dtype)
    for e, (j, i) in enumerate(EDGES.T.tolist()):
        out[i] += tp(x[j : j + 1], Y[e : e + 1], w[e : e + 1])[0]
    torch.testing.assert_close(K.tensor_product_scatter(x, Y, w, EDGES, tp), out, **TIGHT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"act": "gelu"}, "act must be one of"),
        ({"norm": "max"}, "norm must be"),
        ({"e": torch.zeros(E, 1)}, "given together"),
        ({"coord": torch.zeros(F)}, "give vec"),
    ],
    ids=["act", "norm", "edge features", "coordinates"],
)
def test_options_of_edge_mlp_are_checked(options, message):
    x, W = torch.zeros(N, F), torch.zeros(F, F)
    with pytest.raises(ValueError, match=message):
        K.edge_mlp(x, x, EDGES, d2=torch.zeros(E), wd=W[0], W2=W, b2=W[0], **options)
