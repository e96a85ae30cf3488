"""EGTN against an explicit loop over edges and frames; symmetry, masks, sizes."""

import math

import pytest
import torch
from torch.nn.functional import silu

from scidiff.testing import assert_equivariant, assert_permutation_equivariant
from trajectories.conditions import condition_features
from trajectories.networks.egtn import EGTN

F64 = torch.float64


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def network(faithful, **options):
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(1)
    net = EGTN(2, edge_channels=1, hidden=8, num_layers=2, time_channels=4, faithful=faithful, **options).double()
    for name, parameter in net.named_parameters():
        if "step" in name:  # positions should move visibly
            torch.nn.init.normal_(parameter, std=0.5)
    torch.random.set_rng_state(torch_state)
    return net


def inputs(generator, b=2, f=5, n=3, dims=3):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    pair = draw(b, n, n, 1)
    given = torch.zeros(b, f, n, dtype=torch.bool)
    given[0, :2] = True
    given[1, [0, 4]] = True
    return (
        draw(b, f, n, dims),
        torch.tensor([0.3, 0.8], dtype=F64),
        {"h": draw(b, n, 2), "edge_attr": pair, "given": given},
    )


def psi(s, channels):
    half = channels // 2
    angles = [s * math.exp(-math.log(10_000) * k / (half - 1)) for k in range(half)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=F64)


def loop(net, x, t, cond):
    """The equations, one node, one edge, one pair of frames at a time."""
    frames, nodes = x.shape[:2]
    given, pos = cond["given"], {(f, i): x[f, i] for f in range(frames) for i in range(nodes)}
    h = {}
    for f, i in pos:
        if net.faithful:
            parts = [cond["h"][i], psi(net.num_levels * float(t) - 1, 4)]
        else:
            step = (x[f, i] - x[max(f - 1, 0), i]).square().sum()
            last = max((g for g in range(frames) if given[g, i]), default=None)
            away = torch.zeros((), dtype=F64) if last is None else ((x[f, i] - x[last, i]).square().sum() + 1e-8).sqrt()
            known = torch.stack([given[f, i].double(), (step + 1e-8).sqrt(), away])
            parts = [cond["h"][i], psi(0.0 if given[f, i] else 1000 * float(t), 4), known]
        h[f, i] = net.embedding(torch.cat(parts))
    for spatial, temporal in zip(net.spatial, net.temporal, strict=True):
        new_h, new_pos = {}, {}
        for f, i in pos:
            total, moved = 0, 0
            for j in range(nodes):
                if i == j:
                    continue
                d = pos[f, i] - pos[f, j]
                r2 = (d**2).sum()
                ends = [h[f, i], h[f, j]] if net.faithful else [spatial.norm(h[f, i]), spatial.norm(h[f, j])]
                m = silu(spatial.second(silu(spatial.first(torch.cat([*ends, r2[None], cond["edge_attr"][i, j]])))))
                total = total + m
                moved = moved + d * spatial.step(m) / ((r2 + 1e-8).sqrt() + 1) / (nodes - 1)
            if net.faithful:
                new_h[f, i] = spatial.node(torch.cat([h[f, i], total]))
            else:
                mean = total / (nodes - 1)
                new_h[f, i] = h[f, i] + spatial.node(torch.cat([spatial.norm(h[f, i]), mean]))
            new_pos[f, i] = pos[f, i] + moved
        h, pos = {}, {}
        for f, i in new_pos:
            q = temporal.query(new_h[f, i])
            r = [temporal.relative(psi(float(f - s), 32)) for s in range(frames)]
            scale = 1.0 if net.faithful else 8**-0.5
            logits = [scale * q @ (temporal.key(new_h[s, i]) + r[s]) for s in range(frames)]
            a = torch.stack(logits).softmax(0)
            values = [temporal.value(new_h[s, i]) for s in range(frames)]
            h[f, i] = new_h[f, i] + sum(a[s] * (values[s] + r[s]) for s in range(frames))
            pulls = [a[s] * temporal.step(values[s]) * (new_pos[f, i] - new_pos[s, i]) for s in range(frames)]
            pos[f, i] = new_pos[f, i] + sum(pulls)
    return torch.stack([torch.stack([pos[f, i] for i in range(nodes)]) for f in range(frames)]) - x


@pytest.mark.parametrize("faithful", [False, True])
@torch.no_grad()
def test_equals_the_loop(faithful, generator):
    net, (x, t, cond) = network(faithful), inputs(generator)
    out = net(x, t, cond)
    for b in range(2):
        wanted = loop(net, x[b], t[b], {name: value[b] for name, value in cond.items()})
        assert float((out[b] - wanted).abs().max()) < 1e-10
        assert float(wanted.abs().max()) > 0.1


def test_published_size():
    """1,418,252 parameters: 115,713 a spatial and 119,937 a temporal layer, and the embedding."""
    net = EGTN(1, edge_channels=1, hidden=128, num_layers=6, faithful=True)
    count = [sum(p.numel() for p in part.parameters()) for part in (net, net.spatial[0], net.temporal[0])]
    assert count == [1_418_252, 115_713, 119_937]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("faithful", [False, True])
@torch.no_grad()
def test_symmetry(faithful, dims, generator):
    net, (x, t, cond) = network(faithful), inputs(generator, dims=dims)
    assert_equivariant(lambda pos: net(pos, t, cond), [x], kinds=["point"], out="vector")
    assert_permutation_equivariant(
        lambda pos, h, e, given: net(pos, t, {"h": h, "edge_attr": e, "given": given}),
        [x, cond["h"], cond["edge_attr"], cond["given"]],
        axes=[2, 1, (1, 2), 2],
        out=2,
    )


@pytest.mark.parametrize("faithful", [False, True])
@torch.no_grad()
def test_padding_changes_nothing(faithful, generator):
    net, (x, t, cond) = network(faithful), inputs(generator)
    mask = torch.tensor([[True, True, False, True]] * 2)
    wide = {name: value.new_zeros(2, *shape) for (name, value), shape in zip(cond.items(), [(4, 2), (4, 4, 1), (5, 4)])}
    pos = torch.full((2, 5, 4, 3), 7.0, dtype=F64)
    pos[:, :, mask[0]] = x
    wide["h"][:, mask[0]] = cond["h"]
    wide["edge_attr"][:, mask[0][:, None] & mask[0]] = cond["edge_attr"].flatten(1, 2)
    wide["given"][:, :, mask[0]] = cond["given"]
    out = net(pos, t, {**wide, "node_mask": mask})
    assert out[:, :, mask[0]] == pytest.approx(net(x, t, cond), abs=1e-12)
    assert (out[:, :, 2] == 0).all()


@torch.no_grad()
def test_levels_of_frames(generator):
    """Equal levels are the scalar level bit for bit; the level of a given frame is not seen; others are."""
    net, (x, t, cond) = network(False), inputs(generator)
    levels = t[:, None].expand(2, 5).clone()
    out = net(x, t, cond)
    assert torch.equal(net(x, levels, cond), out)
    levels[0, 1] = 0.9
    assert torch.equal(net(x, levels, cond), out)
    levels[0, 3] = 0.9
    assert not torch.equal(net(x, levels, cond)[0], out[0])


@torch.no_grad()
def test_true_order_of_time(generator):
    """Frames in another order with their numbers give the same displacements (the flags are those of the frames)."""
    net, (x, t, cond) = network(True), inputs(generator)
    order = torch.tensor([3, 0, 4, 2, 1])
    out = net(x[:, order], t, {**cond, "given": cond["given"][:, order], "frames": order})
    assert out == pytest.approx(net(x, t, cond)[:, order], abs=1e-12)


def test_coincident_nodes_have_a_gradient(generator):
    net, (x, t, cond) = network(False), inputs(generator)
    x = x[:, :1].expand_as(x).clone()
    x[:, :, 1] = x[:, :, 0]
    x.requires_grad_(True)
    net(x, t, cond).square().sum().backward()
    assert torch.isfinite(x.grad).all()


@torch.no_grad()
def test_small_systems(generator):
    """One node, one frame."""
    net = network(False)
    x, t, cond = inputs(generator, f=5, n=1)
    assert net(x, t, cond).shape == x.shape
    one = {**cond, "given": cond["given"][:, :1] & False}
    assert float(net(x[:, :1], t, one).abs().max()) == 0  # nothing to move towards


def test_refusals(generator):
    x, t, cond = inputs(generator)
    with pytest.raises(ValueError, match="node features h must have shape"):
        network(False)(x, t, {**cond, "h": cond["h"][..., :1]})
    with pytest.raises(ValueError, match="pair features edge_attr must have shape"):
        network(False)(x, t, {"h": cond["h"]})
    with pytest.raises(ValueError, match="time_channels"):
        EGTN(time_channels=3)


@torch.no_grad()
def test_conditions_of_a_system(generator):
    """Centred and scaled; an unknown one is told from one at the centre; without any, all are unknown."""
    net, (x, t, cond) = network(False, conditions={"temperature": [400.0, 100.0]}), inputs(generator)
    for value, wanted in ((500.0, [1.0, 1.0]), (400.0, [0.0, 1.0]), (math.nan, [0.0, 0.0])):
        (features,) = condition_features(x, net.conditions, {"condition": torch.full((2, 1), value)})
        assert features[0, 3, 1].tolist() == wanted
    unknown = net(x, t, {**cond, "condition": torch.full((2, 1), math.nan)})
    assert torch.equal(unknown, net(x, t, cond))
    assert not torch.equal(unknown, net(x, t, {**cond, "condition": torch.full((2, 1), 400.0)}))
    with pytest.raises(ValueError, match="one column each for temperature"):
        net(x, t, {**cond, "condition": torch.zeros(2, 2)})
