"""Brownian path: increments, law, convergence of stochastic solvers on one path."""

import math

import pytest
import torch

from scidiff import VPSDE, Denoiser, Process, sample
from scidiff.brownian import BrownianPath
from scidiff.noise import NoiseSource
from scidiff.random import seed_table
from tests.scidiff.samplers.problems import gaussian_network

SEEDS = seed_table(0, 2000)
LEVELS = 12


def value(t, levels=LEVELS, seeds=SEEDS):
    return BrownianPath(levels).value(seeds, "x", t, 5)


def test_increments_add_up():
    """W is one function of time: the parts of an interval sum to the whole, in any order of asking."""
    source = NoiseSource(0, 4, path=BrownianPath())
    like = torch.zeros(4, 3, dtype=torch.float64)

    def increment(t, s):
        source.interval = (t, s)
        return source.normal(like, "x") * math.sqrt(source.path.round(t) - source.path.round(s))

    whole = increment(0.9, 0.1)
    parts = increment(0.2, 0.1) + increment(0.9, 0.55) + increment(0.55, 0.2)
    assert (whole - parts).abs().max() < 1e-12


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.5), (0.75, 0.25), (0.34, 0.33), (0.9, 0.0)])
def test_increments_have_the_law_of_a_brownian_motion(t, s):
    """Variance |t - s| of 10^4 numbers within four standard errors, also across the nodes of the tree."""
    difference = value(t) - value(s)
    assert difference.var().item() == pytest.approx(t - s, rel=4 * (2 / 10_000) ** 0.5 + 2**-LEVELS / (t - s))


def test_disjoint_increments_are_independent():
    """Correlation of 10^4 pairs below four standard errors, for neighbours on either side of a node."""
    for times in ((0.1, 0.37, 0.71), (0.2, 0.5, 0.8), (0.49, 0.5, 0.51)):
        low, middle, high = (value(t) for t in times)
        pairs = torch.stack([(middle - low).flatten(), (high - middle).flatten()])
        assert torch.corrcoef(pairs)[0, 1].abs() < 4 / 100


def test_a_path_depends_on_seed_and_component():
    few = SEEDS[:3]
    assert torch.equal(value(0.4, seeds=few), value(0.4, seeds=SEEDS[:5])[:3])
    assert not torch.equal(BrownianPath(LEVELS).value(few, "y", 0.4, 5), value(0.4, seeds=few))


@pytest.mark.parametrize("solver", ["dpmpp_sde_2m", "ancestral", "euler_maruyama"])
def test_runs_converge_to_one_solution(solver):
    """Strong convergence: four times the steps at least halve the distance to the finest run (order 1/2 and above)."""
    den = Denoiser(gaussian_network(VPSDE()), Process(VPSDE()))
    run = {"solver": solver, "grid": "uniform", "seed": 1}
    runs = [sample(den, (20, 3), steps=n, noise=BrownianPath(10), **run) for n in (8, 32, 128)]
    far, near = ((run - runs[-1]).abs().mean() for run in runs[:-1])
    assert near < far / 2
    own = sample(den, (20, 3), steps=128, **run)
    assert (own - runs[-1]).abs().mean() > 3 * near  # other noise, another solution


def test_refusals():
    path = BrownianPath(levels=4)
    source = NoiseSource(0, 1, path=path)
    source.interval = (0.5, 0.499)
    with pytest.raises(ValueError, match="does not resolve"):
        source.normal(torch.zeros(1, 2), "x")
    with pytest.raises(ValueError, match="levels"):
        BrownianPath(0)
    den = Denoiser(gaussian_network(VPSDE()), Process(VPSDE()))
    grid = torch.linspace(1, 0.1, 3)[:, None].expand(3, 3)
    with pytest.raises(ValueError, match="one time for all elements"):
        sample(den, (2, 3), solver="ancestral", grid=grid, noise=path)
