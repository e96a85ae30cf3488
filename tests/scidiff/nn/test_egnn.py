"""EGNN against its equations, written pair by pair; parameter counts of the published sizes; the EDM variant."""

import pytest
import torch
from torch.nn.functional import linear, silu

from scidiff.nn.egnn import EGNN, EGNNLayer, shortened
from scidiff.testing import assert_equivariant
from tests.scidiff.nn.cases import IN_CHANNELS, batch_of, network, sparse

OPTIONS = {
    "plain": {},
    "no-vectors": {"vector_channels": 0},
    "attention": {"attention": True},
    "mean": {"aggregation": "mean", "coords_aggregation": "sum", "normalization": 3.0},
    "bounded": {"norm_diff": True, "norm_constant": 0.5, "tanh": True, "coords_range": 7.0},
    "clipped": {"clip": 0.05, "tanh": True, "coords_aggregation": "sum", "normalization": 2.0},
    "clipped-mean": {"clip": 0.05},
    "separate-clipped": {"clip": 0.05, "separate_coords": True},
}


def two_layers(m, first, second):
    return second(silu(first(m)))


def phi_e(edge, h_i, h_j, d2, e):
    """The first layer on the concatenation, as published."""
    m = silu(edge.second(silu(edge.first(torch.cat([h_i, h_j, d2, e])))))
    return m if edge.attention is None else m * torch.sigmoid(edge.attention(m))


def layer_by_pairs(layer, h, pos, v, e, options):
    """h, pos after one layer on the complete graph, in the words of the paper: d_ij = x_i - x_j."""
    n = len(h)
    messages, moves = torch.zeros_like(h), torch.zeros_like(pos)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    for i, j in pairs:
        d = pos[i] - pos[j]
        m = phi_e(layer.message, h[i], h[j], d.square().sum()[None], e[i, j])
        messages[i] += m / ((n - 1) if options.get("aggregation") == "mean" else options.get("normalization", 1.0))
    new = h + layer.node(torch.cat([h, messages], -1))
    for i, j in pairs:
        d = pos[i] - pos[j]
        if options.get("separate_coords"):
            psi = layer.gate_out(phi_e(layer.gate, new[i], new[j], d.square().sum()[None], e[i, j]))
        else:
            m = phi_e(layer.message, h[i], h[j], d.square().sum()[None], e[i, j])
            psi = layer.gate_out(silu(layer.gate(m)))
        psi = options.get("coords_range", 3.0) * torch.tanh(psi) if options.get("tanh") else psi
        step = d * psi / ((d.norm() + options.get("norm_constant", 1.0)) if options.get("norm_diff") else 1.0)
        if "clip" in options and step.norm() > options["clip"]:
            step = step * options["clip"] / step.norm()
        is_mean = options.get("coords_aggregation", "mean") == "mean"
        moves[i] += step / ((n - 1) if is_mean else options.get("normalization", 1.0))
    if layer.vector_gate is None:
        return new, pos + moves
    speed = two_layers(h, layer.vector_gate[0], layer.vector_gate[2])
    return new, pos + moves + (speed[..., None] * v).sum(1)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dims", [2, 3, 5])
def test_equations(options, dims):
    net, x = network("egnn", time_channels=0, **options), batch_of([5], dims=dims)
    with torch.no_grad():
        for layer in net.layers:
            layer.gate_out.weight.mul_(10)
        edges = {k: v for k, v in sparse(x)[1].items() if k.startswith("edge")}
        out = net(x.h[0], x.pos[0], v=x.v[0] if net.vector_channels else None, **edges)
        h, pos = linear(x.h[0], net.embedding.weight, net.embedding.bias), x.pos[0]
        for layer in net.layers:
            h, pos = layer_by_pairs(layer, h, pos, x.v[0], x.edge_attr[0], options)
        torch.testing.assert_close(out.h, net.readout(h), rtol=0, atol=1e-10)
        torch.testing.assert_close(out.v[:, 0], pos - x.pos[0], rtol=0, atol=1e-10)
        assert (pos - x.pos[0]).abs().max() > 0.01


def test_initial_distance_is_an_edge_feature():
    """The flag equals a network with one more edge feature that holds the squared distance at the input."""
    x = batch_of([5])
    ours = network("egnn", initial_distance=True, edge_channels=0)
    given = network("egnn", edge_channels=1)
    given.load_state_dict(ours.state_dict())
    d2 = (x.pos[:, :, None] - x.pos[:, None]).square().sum(-1, keepdim=True)
    a, b = ours(x.h, x.pos, x.t, v=x.v), given(x.h, x.pos, x.t, v=x.v, edge_attr=d2)
    torch.testing.assert_close(a.h, b.h, rtol=0, atol=1e-12)
    torch.testing.assert_close(a.v, b.v, rtol=0, atol=1e-12)


def test_edm_preset():
    """The published network on QM9: 9 layers of 256, 6 features and the time; its parts counted by hand."""
    net = EGNN.edm(6)
    f = 256
    edge = (2 * f + 2) * f + f + f * f + f
    layer = (edge + f + 1) + (2 * f * f + f + f * f + f) + edge + f
    assert sum(p.numel() for p in net.parameters()) == 9 * layer + (7 * f + f) + (f * f + f)
    layer = net.layers[0]
    assert (layer.norm_constant, layer.coords_range, layer.norm, layer.coords_norm) == (1.0, 15.0, 1.0, 1.0)
    assert net.time_channels == 1
    assert EGNN.edm(6, hidden=32, num_layers=4, coords_range=3.0).to_config()["init_args"]["coords_range"] == 3.0


def test_parameters_of_a_layer():
    """A layer with 128 channels and one edge feature has 115,713 parameters in EGTN, whose last layer has a bias."""
    assert sum(p.numel() for p in EGNNLayer(128, 1).parameters()) == 115_713 - 1


def test_positions_hardly_move_at_first():
    """The last weights of phi_x are uniform in 0.001 sqrt(6 / (F + 1))."""
    layer = EGNNLayer(64)
    assert 0 < layer.gate_out.weight.abs().max() <= 0.001 * (6 / 65) ** 0.5


def test_shortened_keeps_directions():
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(shortened(x, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]).double())
    assert torch.autograd.gradcheck(lambda x: shortened(x, 1.0), x)


def test_clipping_is_equivariant():
    """By length; the published clipping of components is not."""
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_equivariant(lambda v: shortened(v, 1.0), (x,), kinds=("vector",), out="vector")
    with pytest.raises(AssertionError, match="rotation"):
        assert_equivariant(lambda v: v.clamp(-1, 1), (x,), kinds=("vector",), out="vector")


def test_bounds_keep_large_graphs_finite():
    """With normalised differences and bounded gates a step is no longer than range x neighbours / normalization."""
    net = EGNN(IN_CHANNELS, norm_diff=True, tanh=True, coords_range=2.0, coords_aggregation="mean", num_layers=3)
    with torch.no_grad():
        for layer in net.layers:
            layer.gate_out.weight.mul_(1e6)
    pos = 100 * torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    out = net(torch.ones(300, IN_CHANNELS), pos)
    assert out.v.norm(dim=-1).max() <= 3 * 2.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"aggregation": "max"}, "aggregation must be 'sum' or 'mean', got 'max'"),
        ({"coords_aggregation": "max"}, "coords_aggregation must be"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"norm_diff": True, "norm_constant": 0.0}, "norm_constant must be positive"),
        ({"normalization": -1.0}, "normalization must be positive"),
        ({"tanh": True, "coords_range": 0.0}, "coords_range must be positive"),
        ({"out_vectors": 2}, "EGNN has one output vector"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        EGNN(IN_CHANNELS, **options)
