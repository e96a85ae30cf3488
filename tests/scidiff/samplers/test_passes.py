import pytest
import torch

from scidiff import VPSDE, Categorical, Denoiser, Process, sample
from scidiff.samplers import get_solver
from scidiff.samplers.passes import merge_passes, plan_passes

GRID = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64)


class Passes:
    """A guidance that only asks for passes."""

    def __init__(self, ranges):
        self.ranges = ranges

    def wrap(self, den):
        return den

    def passes(self, times):
        return self.ranges


def test_rows_go_down_and_up():
    plan = plan_passes(get_solver("heun"), Process(VPSDE()), GRID, [(0, 1), (0, 1), (1, 2)])
    moves = [(float(row.t), float(row.s), row.evaluate) for row in plan.rows if row.is_jump or row.mark]
    assert moves == [(0.9, 0.6, True), (0.6, 0.9, False), (0.9, 0.6, True), (0.6, 0.3, True)]
    assert [row.step for row in plan.rows if row.is_last] == [0, 1]
    assert plan.nfe == 6


def test_the_jump_is_the_forward_transition():
    """ddim down, x <- a x + sigma_{t|s} z up with the recorded z, ddim down again; D = x/2."""
    schedule = VPSDE()
    start = torch.tensor([[0.4, -1.2]], dtype=torch.float64)
    den = Denoiser(lambda x, t, cond: 0.5 * x, Process(schedule))
    run = {"solver": "ddim", "grid": GRID[:2], "save": "none"}
    x, info = sample(den, start, **run, guidance=Passes([(0, 1), (0, 1)]))
    t, s = GRID[:2]

    def down(x):
        eps = (x - schedule.alpha(t) * 0.5 * x) / schedule.sigma(t)
        return schedule.alpha(s) * 0.5 * x + schedule.sigma(s) * eps

    ratio = schedule.alpha(t) / schedule.alpha(s)
    up = ratio * down(start) + (schedule.sigma(t) ** 2 - ratio**2 * schedule.sigma(s) ** 2).sqrt() * info.noise[0]
    torch.testing.assert_close(x, down(up), rtol=1e-12, atol=1e-12)
    assert info.nfe == 2


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc_2", "heun", "edm_heun"])
def test_multistep_solvers_restart_after_a_jump(solver):
    """The last pass equals a fresh run from the state that the jump reached."""
    den = Denoiser(lambda x, t, cond: torch.tanh(x), Process(VPSDE()))
    grid = torch.linspace(0.9, 0.1, 5, dtype=torch.float64)
    start = torch.tensor([[0.4, -1.2]], dtype=torch.float64)
    ranges = [(0, 4), (1, 4)]
    x, info = sample(den, start, solver=solver, grid=grid, guidance=Passes(ranges), save="none")
    schedule, once = VPSDE(), sample(den, start, solver=solver, grid=grid)
    ratio = schedule.alpha(grid[1]) / schedule.alpha(grid[4])
    spread = (schedule.sigma(grid[1]) ** 2 - ratio**2 * schedule.sigma(grid[4]) ** 2).sqrt()
    again = sample(den, ratio * once + spread * info.noise[0], solver=solver, grid=grid[1:])
    torch.testing.assert_close(x, again, rtol=1e-12, atol=1e-12)


def test_classes_move_down_and_up():
    """With the exact posterior of independent sites the law of the classes stays p_0: within 4 standard errors.

    The second pass starts at t = 1, kappa = 0, from new draws of the prior: a share 1 - sum p^2 = .62 differs.
    """
    prior, law = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.2, 0.7])
    process = Process({"x": VPSDE(), "z": Categorical(prior.tolist())})

    seen = []

    def network(x, t, cond):
        seen.append(x["z"])
        kappa = (1 - t)[:, None, None]
        likelihood = kappa * torch.eye(3)[x["z"]] + (1 - kappa) * prior[x["z"]][..., None]
        return {"x": 0.5 * x["x"], "z": (law * likelihood).log()}

    counts = []
    shapes = {"x": (200, 1), "z": (200, 50)}
    for ranges in (None, [(0, 1), (0, 1), (1, 4), (2, 4)]):
        grid = torch.tensor([1.0, 0.7, 0.4, 0.2, 0.0], dtype=torch.float64)
        z = sample(Denoiser(network, process), shapes, solver="ddim", grid=grid, guidance=Passes(ranges))["z"]
        counts.append(torch.bincount(z.flatten(), minlength=3) / z.numel())
    changed = (seen[5] != seen[4]).double().mean()
    assert abs(changed - 0.62) < 4 * (0.62 * 0.38 / 10_000) ** 0.5
    for share in counts:
        assert ((share - law).abs() < 4 * (law * (1 - law) / 10_000).sqrt()).all()


def test_conflicts_and_adaptive_solvers_are_refused():
    with pytest.raises(ValueError, match="different passes"):
        merge_passes([Passes([(0, 2)]), Passes([(0, 1), (1, 2)])], GRID)
    assert merge_passes([Passes(None), object()], GRID) is None
    solver = get_solver("euler")
    solver.is_adaptive = True
    with pytest.raises(ValueError, match="its own steps"):
        plan_passes(solver, Process(VPSDE()), GRID, [(0, 2), (0, 2)])
