"""EGTN over the networks of the core: symmetry, padding, single frames against the network itself, training."""

import pytest
import torch

from scidiff.nn.registry import network_names
from scidiff.testing import assert_equivariant
from trajectories.networks.egtn import EGTN, BackboneLayer

F64 = torch.float64
EXACT = [name for name in network_names() if name != "ponita"]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def network(name, vectors=2, **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        options = {"edge_channels": 1, "hidden": 16, "num_layers": 2, "time_channels": 4, **options}
        net = EGTN(2, spatial=name, vector_channels=vectors, **options).double()
        for layer in net.spatial:
            torch.nn.init.constant_(layer.scale, 1.0)
        for key, parameter in net.named_parameters():
            if "step" in key:
                torch.nn.init.normal_(parameter, std=0.3)
    return net


def inputs(generator, b=2, f=4, n=3, dims=3):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    given = torch.zeros(b, f, n, dtype=torch.bool)
    given[0, :2] = True
    return draw(b, f, n, dims), torch.tensor([0.3, 0.8], dtype=F64), {
        "h": draw(b, n, 2), "edge_attr": draw(b, n, n, 1), "given": given
    }  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
@torch.no_grad()
def test_symmetry(name, generator):
    net = network(name, vectors=0 if name == "egnn" else 2)
    x, t, cond = inputs(generator)
    moved = net(x, t, cond)
    assert float(moved.abs().max()) > 1e-3
    assert_equivariant(lambda pos: net(pos, t, cond), [x], kinds=["point"], out="vector")


@pytest.mark.parametrize("name", network_names())
@torch.no_grad()
def test_padding_changes_nothing(name, generator):
    net = network(name, vectors=0 if name == "egnn" else 2)
    x, t, cond = inputs(generator)
    alone = net(x, t, {**cond, "node_mask": torch.ones(2, 3, dtype=torch.bool)})
    assert alone == pytest.approx(net(x, t, cond), abs=1e-9)
    wide = torch.nn.functional.pad(x, (0, 0, 0, 2), value=3.0)
    more = {
        "h": torch.nn.functional.pad(cond["h"], (0, 0, 0, 2), value=7.0),
        "edge_attr": torch.nn.functional.pad(cond["edge_attr"], (0, 0, 0, 2, 0, 2), value=7.0),
        "given": torch.nn.functional.pad(cond["given"], (0, 2)),
        "node_mask": torch.tensor([[True] * 3 + [False] * 2] * 2),
    }
    padded = net(wide, t, more)
    assert padded[:, :, :3] == pytest.approx(alone, abs=1e-9)
    assert not padded[:, :, 3:].any()


@torch.no_grad()
def test_layer_is_the_network_in_every_frame(generator):
    """One frame of one system, by a call of the network of the layer."""
    layer = BackboneLayer("painn", 16, edge_channels=1, vector_channels=2).double()
    h, pos, v = (torch.randn(2, 4, 3, *s, generator=generator, dtype=F64) for s in ((16,), (3,), (2, 3)))
    edges = torch.randn(2, 3, 3, 1, generator=generator, dtype=F64)
    out = layer(h, pos, edges, None, v)
    one = layer.network(layer.norm(h[1, 2])[None], pos[1, 2][None], edge_attr=edges[1][None], v=v[1, 2][None])
    assert out.h[1, 2] == pytest.approx(h[1, 2] + one.h[0], abs=1e-9)
    gain = layer.scale[:, None]  # starts as 0.1 in single precision
    assert layer.scale == pytest.approx(torch.full((3,), 0.1, dtype=F64), abs=1e-8)
    assert out.pos[1, 2] == pytest.approx(pos[1, 2] + gain[0] * one.v[0, :, 0], abs=1e-9)
    assert out.v[1, 2] == pytest.approx(v[1, 2] + gain[1:] * one.v[0, :, 1:], abs=1e-9)


@torch.no_grad()
def test_people_in_the_plane(generator):
    net = network("egnn", vectors=0)
    x, t, cond = inputs(generator, dims=2)
    assert_equivariant(lambda pos: net(pos, t, cond), [x], kinds=["point"], out="vector")
    order = torch.tensor([2, 0, 1])
    turned = {"h": cond["h"][:, order], "edge_attr": cond["edge_attr"][:, order][:, :, order]}
    turned["given"] = cond["given"][:, :, order]
    assert net(x[:, :, order], t, turned) == pytest.approx(net(x, t, cond)[:, :, order], abs=1e-9)


def test_gradients_where_nodes_meet(generator):
    for name in EXACT:
        net = network(name, vectors=0 if name == "egnn" else 2)
        x, t, cond = inputs(generator)
        x[:, :, 1] = x[:, :, 0]
        x = x.requires_grad_(True)
        net(x, t, cond).square().sum().backward()
        assert torch.isfinite(x.grad).all(), name


def test_refusals():
    with pytest.raises(ValueError, match="unknown network 'pain'"):
        EGTN(1, spatial="pain")
    with pytest.raises(ValueError, match="another spatial layer"):
        EGTN(1, vector_channels=2)
