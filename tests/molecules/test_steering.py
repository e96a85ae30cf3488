"""Temperature and goals: closed forms of the shifted probabilities and of one step of the geometry."""

import numpy as np
import pytest
import torch

from molecules.steering import DistanceGoal, GyrationGoal, Temperature
from tests.molecules.models import small_denoiser, small_generator


def point():
    g, mask = torch.Generator().manual_seed(0), torch.arange(6) < torch.tensor([6, 4])[:, None]
    pos = torch.randn(2, 6, 3, generator=g, dtype=torch.float64) * mask[..., None]
    pos = pos - (pos.sum(1, keepdim=True) / mask.sum(1)[:, None, None]) * mask[..., None]
    classes = {name: torch.zeros(2, 6, dtype=torch.long) for name in ("atom", "charge")}
    x = {"pos": pos, **classes, "bond": torch.zeros(2, 6, 6, dtype=torch.long)}
    return small_denoiser(torch.float64), x, torch.full((2,), 0.2, dtype=torch.float64), {"node_mask": mask}


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_probabilities_are_powers(temperature):
    den, x, t, cond = point()
    with torch.no_grad():
        plain, tempered = den(x, t, cond).x0, Temperature(temperature).wrap(den)(x, t, cond).x0
    for name in ("atom", "charge", "bond"):
        power = plain[name] ** (1 / temperature)
        assert (tempered[name] - power / power.sum(-1, keepdim=True)).abs().max() < 1e-12
    assert torch.equal(tempered["pos"], plain["pos"])


def radius(pos, mask):
    return [float(np.sqrt((p[m] - p[m].mean(0)).square().sum(1).mean())) for p, m in zip(pos, mask)]


def test_radius_of_gyration_moves_by_its_share():
    """One prediction: R - goal shrinks by ``strength`` exactly, for molecules of two sizes, and the mean stays 0."""
    den, x, t, cond = point()
    unit, goal, strength = 1.144, 2.0, 0.3
    with torch.no_grad():
        plain = den(x, t, cond).x0["pos"]
        guided = GyrationGoal(goal, unit, strength).wrap(den)(x, t, cond).x0["pos"]
    for before, after in zip(radius(plain, cond["node_mask"]), radius(guided, cond["node_mask"])):
        assert after - goal / unit == pytest.approx((1 - strength) * (before - goal / unit), rel=1e-9)
    assert guided.sum(1).abs().max() < 1e-12
    assert not guided[~cond["node_mask"]].any()


def test_distance_moves_by_its_share():
    den, x, t, cond = point()
    with torch.no_grad():
        plain = den(x, t, cond).x0["pos"]
        guided = DistanceGoal(0, 3, 1.5, 1.144, 0.4).wrap(den)(x, t, cond).x0["pos"]
    before, after = ((p[:, 0] - p[:, 3]).norm(dim=-1) for p in (plain, guided))
    assert (after - 1.5 / 1.144).tolist() == pytest.approx((0.6 * (before - 1.5 / 1.144)).tolist(), rel=1e-9)


def test_generated_molecules_follow_the_goal():
    """An untrained model, pulled outwards and inwards: mean radii in the order of the goals."""
    generator = small_generator()
    unit = generator.recipe.scale(generator.spec)
    means = []
    for goal in (0.8, 3.0):
        mols = generator.sample(8, n_atoms=7, steps=10, seed=0, guidance=GyrationGoal(goal, unit))
        means.append(np.mean([np.sqrt(((r.pos - r.pos.mean(0)) ** 2).sum(1).mean()) for r in mols]))
    free = generator.sample(8, n_atoms=7, steps=10, seed=0)
    middle = np.mean([np.sqrt(((r.pos - r.pos.mean(0)) ** 2).sum(1).mean()) for r in free])
    assert means[0] < middle < means[1]


def test_bad_goals_are_refused():
    with pytest.raises(ValueError, match="above 0, got 0"):
        Temperature(0)
    with pytest.raises(ValueError, match="goal > 0"):
        GyrationGoal(-1.0, 1.0)
