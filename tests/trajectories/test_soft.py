"""Projections against averages over the group; strengths that find the symmetry of a simulation in a field."""

import math

import pytest
import torch
from torch import nn

from scidiff.testing import random_rotation
from trajectories.data.simulators import simulate
from trajectories.diffusion import TrajectoryDiffusion
from trajectories.networks.egtn import EGTN
from trajectories.soft import (
    GROUPS,
    ProjectionPenalty,
    SoftEGTN,
    VectorLinear,
    projected,
    relative_equivariance_error,
    sample_penalty,
)
from trajectories.tasks import TaskMix

F64 = torch.float64


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def elements(group):
    """A finite set of group elements whose average is that of the group, for matrices and vectors."""
    if group == "O(3)":
        signs = [torch.diag(s.double()) for s in torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)]
        orders = [torch.eye(3, dtype=F64)[list(p)] for p in ((0, 1, 2), (1, 2, 0), (2, 0, 1))]
        return [s @ p for s in signs for p in orders]
    k = "xyz".index(group[-1])
    i, j = (k + 1) % 3, (k + 2) % 3
    found = []
    for step in range(4):
        turn = torch.eye(3, dtype=F64)
        c, s = round(math.cos(step * math.pi / 2)), round(math.sin(step * math.pi / 2))
        turn[i, i], turn[j, j], turn[i, j], turn[j, i] = c, c, -s, s
        found.append(turn)
    if group.startswith("O"):
        mirror = torch.eye(3, dtype=F64)
        mirror[i, i] = -1.0
        found += [turn @ mirror for turn in found]
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_projection_is_the_average_over_the_group(group, random):
    weight, bias = torch.randn(2, 3, 4, 3, generator=random, dtype=F64), torch.randn(2, 3, generator=random, dtype=F64)
    turns = elements(group)
    mean = torch.stack([torch.einsum("ca,oaib,db->ocid", g, weight, g) for g in turns]).mean(0)
    constant = torch.stack([torch.einsum("ca,oa->oc", g, bias) for g in turns]).mean(0)
    found = projected(weight, bias, group)
    assert found[0] == pytest.approx(mean, abs=1e-12)
    assert found[1] == pytest.approx(constant, abs=1e-12)
    again = projected(*found, group)
    assert again[0] == pytest.approx(found[0], abs=1e-12)


def fitted(field, steps=160):
    """A penalised linear head that learns displacements over ten frames from velocities, and its penalty."""
    runs = simulate("charged", 200, num_frames=11, field=field)
    v, moved = runs.vel[:, :, 0].reshape(-1, 1, 3), (runs.pos[:, :, 10] - runs.pos[:, :, 0]).reshape(-1, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = VectorLinear(1, 1)
    penalty = ProjectionPenalty(strength=1e-4, warmup=steps // 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        ((head(v)[:, 0] - moved).square().mean() + penalty(head)).backward()
        optimizer.step()
    return head, penalty


def test_strengths_find_the_field():
    """In a field along z the symmetry about z weighs most; without one, that of all rotations is hardly broken."""
    head, penalty = fitted((0.0, 0.0, 1.0))
    strength = dict(zip(penalty.groups, penalty.strengths.tolist(), strict=True))
    assert strength["O(2)z"] == pytest.approx(1e-4)
    assert all(strength[g] < 0.2 * strength["O(2)z"] for g in ("O(3)", "O(2)x", "O(2)y"))
    assert abs(float(head.bias[0, 2].detach())) > 10 * float(head.bias[0, :2].detach().abs().max())
    free, plain = fitted((0.0, 0.0, 0.0))
    broken, whole = (p.violations(h)[0].detach() for h, p in ((head, penalty), (free, plain)))
    assert whole < 0.05 * broken


def test_head_without_violation_is_equivariant(random):
    """Projected weights: the network has the symmetry of the group, and of no larger one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SoftEGTN(EGTN(0, hidden=8, num_layers=1)).double()
    x, t = torch.randn(2, 4, 3, 3, generator=random, dtype=F64), torch.tensor([0.3, 0.6], dtype=F64)
    start = net(x, t, {})
    assert torch.equal(start, net.network(x, t, {}))  # the head adds nothing at first
    for layer in (net.first, net.last):
        nn.init.normal_(layer.weight, generator=random)
        nn.init.normal_(layer.bias, generator=random)

    def function(pos):
        return net(pos, t, {})

    any_turn = random_rotation(random, F64)
    about_z = elements("O(2)z")[1] @ elements("O(2)z")[4]
    assert relative_equivariance_error(function, x, any_turn) > 0.05
    assert float(sample_penalty(function, x, random).detach()) > 0.01
    for group, turn in (("O(2)z", about_z), ("O(3)", any_turn)):
        for layer in (net.first, net.last):
            weight, bias = projected(layer.weight.data, layer.bias.data, group)
            layer.weight.data, layer.bias.data = weight, bias
        assert relative_equivariance_error(function, x, turn) < 1e-10
        assert float(ProjectionPenalty([group]).double().violations(net).detach()) < 1e-20
        if group == "O(2)z":
            assert relative_equivariance_error(function, x, any_turn) > 0.01
    assert float(sample_penalty(function, x, random).detach()) < 1e-20
    assert function(x + 5.0).detach() == pytest.approx(function(x).detach(), abs=1e-9)


def test_penalty_enters_the_loss(random):
    """The loss of a soft model is that of its denoiser plus the penalty."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SoftEGTN(EGTN(0, hidden=8, num_layers=1), ProjectionPenalty(strength=3.0))
    model = TrajectoryDiffusion(net, tasks=TaskMix(cond_frames=2))
    batch = {"pos": torch.randn(3, 2, 4, 3, generator=random)}
    model.eval()
    losses = []
    for strength in (3.0, 0.0):
        net.regulariser.strengths.fill_(strength)
        losses.append(model.training_loss(batch, torch.Generator().manual_seed(0)).loss)
    wanted = 3.0 * net.regulariser.violations(net).sum()
    assert (losses[0] - losses[1]).detach() == pytest.approx(wanted.detach().expand(3), rel=1e-4)
    again = TrajectoryDiffusion.from_config(model.to_config())
    assert again.denoiser.network.regulariser.groups == net.regulariser.groups
    with pytest.raises(ValueError, match="no group"):
        ProjectionPenalty(["O(4)"])
