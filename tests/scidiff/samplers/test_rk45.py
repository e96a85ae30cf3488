"""rk45: tolerances, independence of samples, systems."""

import itertools

import torch

from scidiff import VESDE, VPSDE, Denoiser, Process, sample
from tests.scidiff.samplers.problems import gaussian, gaussian_network, gaussian_system, starts

PROCESS = Process(VPSDE())


def run(tolerance, steps=1, x=None, **options):
    den = Denoiser(gaussian_network(VPSDE()), PROCESS)
    options = {"rtol": tolerance, "atol": tolerance, **options}
    return sample(den, starts() if x is None else x, solver="rk45", solver_options=options, steps=steps, save="all")


def test_error_follows_the_tolerance():
    """For two decades of the tolerance a fifth-order method needs about 10^(2/5) times the steps: below 10^(2/4)."""
    exact = gaussian().flow(starts(), VPSDE(), 1.0, 1e-3)
    results = {tol: run(tol) for tol in (1e-5, 1e-7, 1e-9)}
    errors = [float((x - exact).abs().max()) for x, _ in results.values()]
    counts = [info.nfe for _, info in results.values()]
    assert errors[0] < 1e-2
    assert all(a / b > 20 for a, b in itertools.pairwise(errors)), errors
    assert all(b / a < 10 ** (2 / 4) for a, b in itertools.pairwise(counts)), counts


def test_grid_times_are_hit():
    x, info = run(1e-8, steps=6)
    assert len(info.path) == 7
    for t, state in zip(info.grid, info.path, strict=True):
        exact = gaussian().flow(starts(), VPSDE(), 1.0, float(t))
        assert (state - exact).abs().max() < 1e-5
    assert torch.equal(x, info.path[-1])


def test_a_sample_does_not_see_its_batch():
    x = starts()
    together = run(1e-4, x=x, steps=3)[0]
    assert (run(1e-4, x=x[:3], steps=3)[0] - together[:3]).abs().max() < 1e-12


def test_system_with_two_schedules():
    parts = {"a": VPSDE(), "b": VESDE(0.02, 5.0)}
    x = {"a": starts(), "b": 5 * starts()}
    options = {"rtol": 1e-7, "atol": 1e-7}
    grid = torch.tensor([1.0, 0.01], dtype=torch.float64)
    y = sample(gaussian_system(parts), x, solver="rk45", solver_options=options, grid=grid)
    for name, schedule in parts.items():
        exact = gaussian().flow(x[name], schedule, 1.0, 0.01)
        assert (y[name] - exact).abs().max() < 1e-4
