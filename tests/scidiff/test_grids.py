"""Time grids: rules against their formulas, ends, refusals."""

import pytest
import torch

from scidiff import EDM, VESDE, VPSDE, Categorical, Cosine, DiscreteVP, Linear, Process, ZeroMean
from scidiff.grids import GRIDS, time_grid

F64 = torch.float64
SCHEDULES = [VPSDE(), VESDE(), EDM(), Cosine(), Linear(), DiscreteVP.polynomial()]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_grids_fall_from_the_first_time_to_the_last(schedule, grid, steps):
    times = time_grid(Process(schedule), grid, steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == F64
    assert bool((times.diff() < 0).all())
    needs_lambda = grid in ("logsnr", "karras", "edm")
    assert float(times[0]) == (schedule.t_max if needs_lambda else 1.0)
    last = {"edm": 0.0, "log": max(schedule.t_min, 0.01)}.get(grid, schedule.t_min)
    assert float(times[-1]) == pytest.approx(last, rel=1e-14, abs=0)


def test_rules():
    """Each rule is linear in its own variable."""
    process, schedule = Process(VPSDE()), VPSDE()

    def is_linear(values):
        return float(values.diff().diff().abs().max()) < 1e-10 * float(values.abs().max())

    assert is_linear(time_grid(process, "uniform", 10))
    assert is_linear(time_grid(process, "quadratic", 10).sqrt())
    assert is_linear(schedule.log_snr(time_grid(process, "logsnr", 10)))
    assert is_linear((-schedule.log_snr(time_grid(process, "karras", 10)) / 14).exp())
    assert is_linear(time_grid(process, "log", 10).log())


def test_edm_grid_is_the_published_one():
    """sigma_i of Karras et al. 2022, eq. 5, with rho = 7, .002 and 80, 18 nodes, then 0."""
    i = torch.arange(18, dtype=F64)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = time_grid(Process(EDM()), "edm", 18)
    torch.testing.assert_close(times[:-1] * 80, sigma, rtol=1e-12, atol=0)
    assert times[-1] == 0


def test_systems_follow_a_component():
    process = Process({"x": (VPSDE(), ZeroMean()), "y": VESDE(), "z": Categorical([0.5, 0.5])})
    assert torch.equal(time_grid(process, "logsnr", 7), time_grid(Process(VPSDE()), "logsnr", 7))
    assert torch.equal(time_grid(process, "logsnr", 7, "y"), time_grid(Process(VESDE()), "logsnr", 7))
    discrete = time_grid(Process({"z": Categorical([0.5, 0.5])}), "uniform", 4)
    assert torch.allclose(discrete, torch.linspace(1, 1e-3, 5, dtype=F64))
    with pytest.raises(ValueError, match="no component 'w'"):
        time_grid(process, "logsnr", 7, "w")


def test_tensors_are_used_as_given():
    times = torch.tensor([0.9, 0.5, 0.1])
    assert torch.equal(time_grid(Process(VPSDE()), times, 99), times.double())
    rolling = torch.tensor([[1.0, 0.5], [0.5, 0.0], [0.0, 0.0]])
    assert time_grid(Process(VPSDE()), rolling, 99).shape == (3, 2)


@pytest.mark.parametrize(
    ("grid", "steps", "message"),
    [
        ("logsrn", 5, "Did you mean 'logsnr'"),
        ("uniform", 0, "at least 1"),
        (torch.tensor([0.1, 0.5]), 1, "reverse"),
        (torch.tensor([0.5, 0.5]), 1, "strictly"),
        (torch.tensor([1.5, 0.5]), 1, "lie in"),
        (torch.tensor([float("nan"), 0.5]), 1, "lie in"),
        (torch.tensor([0.5]), 1, "shape"),
    ],
)
def test_bad_grids_are_refused(grid, steps, message):
    with pytest.raises(ValueError, match=message):
        time_grid(Process(VPSDE()), grid, steps)
