"""The backbones: published parameter counts, the block by hand, symmetry of variates, one compiled graph."""

import math

import pytest
import torch
from torch.nn import functional as F

from timeseries.networks import S4Backbone, WindowMLP
from timeseries.networks.embedding import StepEmbedding, sinusoid


def inputs(length=20, variates=1, channels=3, batch=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, variates, channels, generator=g), torch.rand(batch, generator=g)


NETWORKS = {
    "s4": lambda variates: S4Backbone(3, variates, width=8, num_layers=2, state_size=4, step_size=8),
    "mlp": lambda variates: WindowMLP(20, 3, variates, width=8, num_layers=2, step_size=8),
}


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts_of_the_published_widths():
    """142k with N = 128 and 106k with N = 64 for 11 channels, less the unused residual map of the last block."""
    unused = 64 * 64 + 64
    assert round(count(S4Backbone(11, state_size=128)) + unused, -3) == 142_000
    assert round(count(S4Backbone(11, state_size=64)) + unused, -3) == 106_000


def test_step_embedding_sees_integer_steps():
    """64 frequencies exp(-ln(1e4) k/63) of the integer step i at t = (i + 1)/100, all sines then all cosines."""
    steps = torch.tensor([0.0, 7.0, 99.0])
    k = torch.arange(64)
    angle = steps[:, None] * torch.exp(-math.log(1e4) * k / 63)
    wanted = torch.cat([angle.sin(), angle.cos()], 1)
    assert torch.allclose(sinusoid(steps, 128), wanted, atol=1e-6)
    embedding = StepEmbedding(128, 8)
    t = (steps + 1) / 100
    assert torch.allclose(embedding(t), embedding.layers(wanted), atol=1e-4)
    with pytest.raises(ValueError, match="even size"):
        StepEmbedding(7, 8)


@pytest.mark.parametrize("init_skip", [False, True])
def test_backbone_is_the_published_formula(init_skip):
    torch.manual_seed(0)
    net = S4Backbone(3, width=8, num_layers=2, state_size=6, init_skip=init_skip).double()
    x, t = (v.double() for v in inputs())
    h = F.relu(net.input(x[:, :, 0]))
    e = net.step(t)
    total = 0
    for block in net.blocks:
        z = h + block.step(e)[:, None]
        normal = F.layer_norm(z, (8,), block.norm.weight, block.norm.bias)
        y = torch.einsum("huv,bvh->buh", block.s4d.matrix(20), normal)
        g = z + block.mix(F.gelu(y))
        gated = torch.tanh(g) * torch.sigmoid(g)  # the same tensor in both
        total = total + block.skip(gated)
        h = h + block.residual(gated) if block.residual is not None else h
    first, _, last = net.output
    wanted = last(F.relu(first(total))) + (x[:, :, 0] if init_skip else 0)
    assert torch.allclose(net(x, t)[:, :, 0], wanted, atol=1e-10)


def test_any_length_and_refused_shapes():
    net = S4Backbone(3)
    for length in (1, 5, 200):
        x, t = inputs(length)
        assert net(x, t).shape == x.shape
    with pytest.raises(ValueError, match="expected windows"):
        net(*inputs(channels=2))
    with pytest.raises(ValueError, match="num_heads"):
        S4Backbone(1, 2, width=30, num_heads=4)
    mlp = WindowMLP(20, 3, 2)
    with pytest.raises(ValueError, match="expected windows"):
        mlp(*inputs(19, 2))


def test_variates_exchange_information_only_across_one_step_of_attention():
    """Without embeddings variates permute; at first they do not see each other, then they do."""
    torch.manual_seed(0)
    net = S4Backbone(2, num_variates=3, width=8, num_layers=2, state_size=4).double()
    x, t = (v.double() for v in inputs(variates=3, channels=2))
    assert net.variates is not None
    with torch.no_grad():
        net.variates.zero_()
    other = x.clone()
    other[:, :, 2] += 1
    assert torch.equal(net(x, t)[:, :, :2], net(other, t)[:, :, :2])
    with torch.no_grad():
        for block in net.blocks:
            block.across.out.weight.normal_()
    assert not torch.allclose(net(x, t)[:, :, :2], net(other, t)[:, :, :2])
    order = [2, 0, 1]
    assert torch.allclose(net(x[:, :, order], t), net(x, t)[:, :, order], atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_compiles_as_one_graph_with_gradients_in_the_input(name):
    network = NETWORKS[name](1)
    x, t = inputs()
    x.requires_grad_()
    wanted = network(x, t, {})
    (gradient,) = torch.autograd.grad(wanted.square().sum(), x)
    found = torch.compile(network, fullgraph=True, backend="aot_eager")(x, t, {})
    (again,) = torch.autograd.grad(found.square().sum(), x)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(again, gradient, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_takes_part(name):
    """As DDP needs it."""
    network = NETWORKS[name](2)
    network(*inputs(variates=2), {}).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
