"""TorchMD-ET against its equations, written pair by pair; what happens at the cutoff."""

import math

import pytest
import torch
from torch.nn.functional import silu

from scidiff.nn.torchmd_et import TorchMDET
from tests.scidiff.nn.cases import batch_of, network, sparse


def envelope(r, cutoff):
    return 1.0 if cutoff is None else 0.5 * (math.cos(math.pi * r / cutoff) + 1) if r < cutoff else 0.0


def layer_by_pairs(layer, net, h, v, pos, e, options):
    """One layer with 8 heads; a node attends to itself with zero edge features and zero direction."""
    cutoff, width = options.get("cutoff"), h.shape[1]
    x = layer.norm(h)
    y, w = torch.zeros_like(h), torch.zeros_like(v)
    for i in range(len(h)):
        for j in range(len(h)):
            r = pos[j] - pos[i]
            d = r.norm()
            fc = envelope(d, cutoff)
            radial = fc * torch.exp(-net.basis.widths * (torch.exp(-5 / (cutoff or 10.0) * d) - net.basis.centres) ** 2)
            features = torch.cat([radial, e[i, j] if i != j else torch.zeros_like(e[i, j])])
            product = layer.query(x[i]) * layer.key(x[j]) * silu(layer.key_filter(features))
            attention = silu(product.view(8, -1).sum(1)).repeat_interleave(width // 8)
            value = layer.value(x[j]) * silu(layer.value_filter(features))
            if options.get("vector_cutoff", True):
                value = value * fc
            else:
                attention = attention * fc
            if cutoff and d >= cutoff:
                continue
            s, b, c = value.split(width)
            y[i] += attention * s
            w[i] += b[:, None] * v[j] + c[:, None] * (r / d if i != j else r)
    o_1, o_2, o_3 = layer.output(y).split(width, -1)
    v_1, v_2, v_3 = (layer.vectors.weight @ v).split(width, 1)
    return h + (v_1 * v_2).sum(-1) * o_2 + o_3, v + v_3 * o_1[..., None] + w


@pytest.mark.parametrize(
    "options",
    [{}, {"cutoff": 3.0}, {"cutoff": 3.0, "vector_cutoff": False}],
    ids=["complete", "cutoff", "published"],
)
def test_equations(options):
    net, x = network("torchmd_et", time_channels=0, out_vectors=2, **options), batch_of([6])
    edges = {k: v for k, v in sparse(x)[1].items() if k.startswith("edge")}
    if "cutoff" in options:  # an edge list is taken as it is: leave out long edges, as the pair loop does
        source, target = edges["edge_index"]
        near = (x.pos[0, source] - x.pos[0, target]).norm(dim=1) < options["cutoff"]
        edges = {"edge_index": edges["edge_index"][:, near], "edge_attr": edges["edge_attr"][near]}
        assert 0 < int((~near).sum()) < len(near)
    with torch.no_grad():
        out = net(x.h[0], x.pos[0], v=x.v[0], **edges)
        h, v = net.embedding(x.h[0]), net.lift.weight @ x.v[0]
        for layer in net.layers:
            h, v = layer_by_pairs(layer, net, h, v, x.pos[0], x.edge_attr[0], options)
        torch.testing.assert_close(out.h, net.readout(net.norm(h)), rtol=0, atol=1e-10)
        torch.testing.assert_close(out.v, net.vector_readout.weight @ v, rtol=0, atol=1e-10)


@pytest.mark.parametrize("vector_cutoff", [True, False])
def test_jump_at_the_cutoff(vector_cutoff):
    """With the envelope on the values the output is continuous; the published network jumps."""
    net, x = network("torchmd_et", cutoff=2.0, edge_channels=0, vector_cutoff=vector_cutoff), batch_of([2])

    def out(distance):
        pos = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=torch.float64)
        return net(x.h[0], pos, x.t, v=x.v[0]).v

    jump = float((out(2 - 1e-6) - out(2 + 1e-6)).abs().max() / out(2 + 1e-6).abs().max())
    assert (jump < 1e-9) if vector_cutoff else (jump > 1e-3)


def test_basis_and_initial_weights():
    """Centres from exp(-rc) to 1, widths (2 (1 - exp(-rc)) / n)^-2; Xavier weights and zero biases."""
    net = TorchMDET(4, hidden=32, cutoff=5.0, num_basis=50)
    torch.testing.assert_close(net.basis.centres[[0, -1]], torch.tensor([math.exp(-5), 1.0]))
    assert net.basis.widths[0].item() == pytest.approx((2 / 50 * (1 - math.exp(-5))) ** -2, rel=1e-6)
    value = net.basis(torch.tensor([0.0, 5.0]))
    assert value[0, -1].item() == 1.0
    assert value[1, -1].item() == 0.0  # below exp(-60)
    weight = net.layers[0].value.weight
    assert float(weight.abs().max()) <= math.sqrt(6 / (32 + 96))
    assert float(net.layers[0].value.bias.abs().max()) == 0
    with pytest.raises(ValueError, match="multiple of num_heads"):
        TorchMDET(4, hidden=20)
