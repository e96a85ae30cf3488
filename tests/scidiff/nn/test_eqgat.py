"""EQGAT against its equations, written pair by pair; parameter count of the published size; options."""

import itertools

import pytest
import torch
from torch.nn.functional import silu

from scidiff.nn.eqgat import EQGAT
from scidiff.nn.eqgat_layer import EdgePassing, GraphNorm
from tests.scidiff.nn.cases import batch_of, flat, network, sparse


def normalised(norm, h, v, time):
    """Mean 0, variance 1 of all scalars of the graph; mean square 1 of its vectors."""
    h = (h - h.mean()) / (h - h.mean()).square().mean().sqrt()
    if norm.latent is None:
        h = h * norm.scale + norm.shift
    else:
        scale, shift = norm.latent(time).chunk(2, -1)
        h = h * (1 + scale) + shift
    squares = v.square().sum(-1).mean()
    return h, v / squares.clamp_min(1e-6).sqrt()


def passed(passing, e, p):
    """e (N, N, c), [i, j] from j to i: paths k -> j -> i over the four nearest neighbours."""
    n, out = len(p), e.clone()
    near = [sorted((j for j in range(n) if j != i), key=lambda j: (p[j] - p[i]).norm().item())[:4] for i in range(n)]
    for i in range(n):
        for j in near[i]:
            heard = []
            for k in (k for k in near[j] if k != i):
                a, b = p[i] - p[j], p[k] - p[j]
                angle = [(a @ b) / (a.norm() * b.norm()), a.norm(), b.norm()]
                heard.append(passing.linear(torch.cat([e[i, j], e[j, k], torch.stack(angle)])))
            if heard:
                out[i, j] = e[i, j] + torch.stack(heard).mean(0)
    return out


def layer_by_pairs(layer, h, v, e, p, time):
    """h (N, F), v (N, V, 3), e (N, N, c) with [i, j] from j to i, centred p (N, 3) after one layer."""
    n, (f, w) = len(h), (h.shape[1], v.shape[1])
    h, v = normalised(layer.norm, h, v, time)
    e = layer.edge_in(e)
    e = e if layer.passing is None else passed(layer.passing, e, p)
    value = layer.value(h)
    new_h, new_v, new_e, moves = h.clone(), v.clone(), torch.zeros_like(e), torch.zeros_like(p)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        logits = []
        for j in others:
            r = p[i] - p[j]
            d, lengths = r.norm(), torch.stack([p[i].norm(), p[j].norm()])
            inputs = torch.cat([h[i], h[j], torch.stack([d, p[i] @ p[j]]), e[i, j], lengths])
            m = layer.second(silu(layer.first(inputs)))
            r = r / (1 + d)
            logits.append(m[:f])
            new_v[i] += m[f : f + w, None] * r / len(others)
            if layer.vector_value is not None:
                new_v[i] += m[f + w : f + 2 * w, None] * (layer.vector_value.weight @ v[j]) / len(others)
            if len(layer.sizes) == 6:
                new_v[i] += m[f + 2 * w : f + 3 * w, None] * torch.linalg.cross(v[i], v[j]) / len(others)
            moves[i] += m[-1] * r / len(others)
            new_e[i, j] = layer.edge_out(silu(m[-1 - e.shape[-1] : -1] + e[i, j]))
        weights = torch.stack(logits).softmax(0)
        new_h[i] += (weights * value[others]).sum(0)
    p = p + layer.step * moves / (moves.norm(dim=-1).mean() + 1e-5)
    q, u = layer.update_in.weight[:w] @ new_v, layer.update_in.weight[w:] @ new_v
    gate, dh = layer.update(torch.cat([new_h, q.square().sum(-1)], -1)).split([w, f], -1)
    dv = gate[..., None] * u
    dv = dv if layer.update_out is None else layer.update_out.weight @ dv
    return new_h + dh, new_v + dv, new_e, p


OPTIONS = {
    "plain": {},
    "no-vectors": {"vector_channels": 0},
    "cross": {"cross_product": True},
    "adaptive": {"adaptive_norm": True},
    "edge-passing": {"edge_passing": True, "num_layers": 3},
    "pairs": {"pair_channels": 5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_equations(options):
    net, x = network("eqgat", out_vectors=2, **options), batch_of([7])
    edges = {k: v for k, v in sparse(x)[1].items() if k.startswith("edge")}
    has_vectors = net.vector_channels > 0
    with torch.no_grad():
        time = torch.cat([f(1000 * x.t * 10_000 ** (-k / 3)) for f in (torch.sin, torch.cos) for k in range(4)])
        time = time.expand(7, -1)
        out = net(x.h[0], x.pos[0], x.t, v=x.v[0] if has_vectors else None, **edges)
        h = net.embedding(torch.cat([x.h[0], time], -1))
        v = net.lift.weight @ x.v[0] if has_vectors else torch.zeros(7, net.vector_hidden, 3, dtype=h.dtype)
        e = net.edge_embedding(torch.cat([x.edge_attr[0], time.expand(7, 7, -1)], -1))
        start = x.pos[0] - x.pos[0].mean(0)
        p = start
        for layer in net.layers:
            h, v, e, p = layer_by_pairs(layer, h, v, e, p, time)
        h = silu(net.shared[0](h))
        vectors = (p - start)[:, None] + net.vector_readout.weight @ v
        if net.pairs is not None:
            e = pairs(net.pairs, h, e, start + vectors[:, 0])
        source, target = edges["edge_index"]
        torch.testing.assert_close(out.h, net.readout(h), rtol=0, atol=1e-10)
        torch.testing.assert_close(out.v, vectors, rtol=0, atol=1e-10)
        torch.testing.assert_close(out.edge_attr, e[target, source], rtol=0, atol=1e-10)


def pairs(head, h, e, x):
    out = torch.zeros(len(h), len(h), head.second.out_features, dtype=h.dtype)
    for i, j in itertools.product(range(len(h)), repeat=2):
        both = h[i] + h[j] + head.edge((e[i, j] + e[j, i]) / 2)
        out[i, j] = head.second(silu(head.first(torch.cat([both, (x[i] - x[j]).square().sum()[None]]))))
    return out


def test_parameters_of_the_published_size():
    """256 scalars, 256 vectors, 128 edge channels, 12 layers: 12.3 million."""
    net = EQGAT(16, hidden=256, vector_hidden=256, edge_hidden=128, num_layers=12, edge_channels=5, time_channels=1)
    f, v, e = 256, 256, 128
    layer = 2 * f + 2 * (e * e + e) + (2 * f + e + 4) * f + f + (f + 1) * (f + 2 * v + e + 1) + f * f + f + v * v + 1
    layer += 2 * v * v + (f + v + 1) * f + (f + 1) * (f + v) + v * v
    first = -v * v - (f + 1) * v  # layer 0 has no vectors yet
    last = -v * v - (f + v + 1) * f - (f + 1) * (f + v) + (f + v + 1) * (f + v)
    heads = (17 * f + f) + (6 * e + e) + (f * f + f) + (f * f + f) + v
    assert sum(p.numel() for p in net.parameters()) == 12 * layer + first + last + heads
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(12.3e6, rel=0.01)


def test_norm_takes_roots():
    """Scaling the input leaves the output alone, so gradients keep their size."""
    x = batch_of([5, 5])
    norm, graphs = GraphNorm(6).double(), flat(network("eqgat"), x)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(10, 6, dtype=torch.float64, generator=generator)
    v = torch.randn(10, 2, 3, dtype=torch.float64, generator=generator)
    out_h, out_v = norm(h, v, graphs)
    torch.testing.assert_close(norm(100 * h, 0.01 * v, graphs), (out_h, out_v))
    assert out_h[:5].square().mean().item() == pytest.approx(1, rel=1e-9)
    assert out_v[5:].square().sum(-1).mean().item() == pytest.approx(1, rel=1e-9)


def test_edges_in_one_direction_have_no_pairs():
    net, x = network("eqgat", pair_channels=5), batch_of([3])
    cycle = torch.tensor([[0, 1, 2], [1, 2, 0]])
    for edge_index in (cycle[:, :1], cycle):
        with pytest.raises(ValueError, match="pair_channels needs the reverse of each edge"):
            net(
                x.h[0],
                x.pos[0],
                x.t,
                v=x.v[0],
                edge_index=edge_index,
                edge_attr=x.edge_attr[0, 0, :1].expand(len(edge_index[0]), 3),
            )


def test_symmetry_is_declared():
    assert EQGAT(3).symmetry == "E(3)"
    assert EQGAT(3, cross_product=True).symmetry == "SE(3)"
    with pytest.raises(ValueError, match="set time_channels"):
        EQGAT(3, adaptive_norm=True)


def test_edge_passing_of_a_single_pair():
    """Two nodes have no path of three: edges stay as they are."""
    net, x = network("eqgat", edge_passing=True), batch_of([2])
    assert isinstance(net.layers[1].passing, EdgePassing)
    before = x.call(net)[2]
    with torch.no_grad():
        net.layers[1].passing.linear.weight.add_(1)
    assert torch.equal(x.call(net)[2], before)


def test_all_biases_start_at_zero():
    net = EQGAT(3, edge_channels=2, time_channels=2, edge_passing=True, adaptive_norm=True, pair_channels=5)
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    assert len(biases) > 20
    assert all(bool((p == 0).all()) for p in biases)
