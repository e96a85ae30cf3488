import math

import pytest
import torch

from scidiff import VPSDE, BrownianBridge, Categorical, Denoiser, Interpolant, Process, encode, encode_noise, sample
from tests.scidiff.closed_forms import F64, Mixture, network

TARGET = Mixture()


def denoiser(schedule, x_1=None):
    process = Process(schedule)
    return Denoiser(network(TARGET, process, x_1), process)


@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("ddim", 1), ("dpmpp_2m", 2), ("dpm_solver_3", 3)])
def test_round_trip_error_falls_with_the_order(solver, order):
    """x -> noise -> x with the same grid; single-step methods at least with their order, measured in two doublings."""
    den, x = denoiser(VPSDE()), TARGET.sample(16, torch.Generator().manual_seed(0))
    errors = []
    for steps in (40, 80, 160):
        options = {"solver": solver, "steps": steps}
        errors.append(float((sample(den, encode(den, x, **options), **options) - x).abs().mean()))
    slope = math.log2(errors[0] / errors[2]) / 2
    assert slope > order - 0.35, errors
    assert errors[2] < 0.1


def test_encoding_matches_the_exact_flow_of_a_gaussian():
    """(x - alpha m)/sqrt(alpha^2 s + sigma^2) is constant along the flow."""
    one = torch.ones(1, dtype=F64)
    target = Mixture(one, torch.tensor([[1.0, -0.5]], dtype=F64), 0.25 * one)
    schedule = VPSDE()
    process = Process(schedule)
    den = Denoiser(network(target, process), process)
    x = target.sample(8, torch.Generator().manual_seed(0))
    code = encode(den, x, solver="dpm_solver_3", steps=100)
    ends = torch.tensor([schedule.t_min, 1.0], dtype=F64)
    alpha, sigma = schedule.alpha(ends), schedule.sigma(ends)
    scale = (0.25 * alpha**2 + sigma**2).sqrt()
    exact = alpha[1] * target.means + scale[1] / scale[0] * (x - alpha[0] * target.means)
    torch.testing.assert_close(code, exact, rtol=0, atol=1e-4)


def test_bridge_is_encoded_up_to_t_max():
    """A point holds no code: the encoding stops before it, and decoding starts from there."""
    schedule = BrownianBridge(0.8)
    x_1 = torch.randn(8, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    den, x = denoiser(schedule, x_1), TARGET.sample(8, torch.Generator().manual_seed(0))
    grid = torch.linspace(schedule.t_max**0.5, schedule.t_min**0.5, 201, dtype=F64) ** 2
    code = encode(den, x, solver="dpm_solver_3", grid=torch.cat([torch.ones(1, dtype=F64), grid]), x_1=x_1)
    back = sample(den, code, solver="dpm_solver_3", grid=grid, x_1=x_1)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-2)
    assert (code - x_1).abs().max() < 0.2


@pytest.mark.parametrize("eta", [0.1, 1.0])
@pytest.mark.parametrize("schedule", [VPSDE(), BrownianBridge(0.8)], ids=repr)
def test_noise_code_reproduces_the_data_exactly(schedule, eta):
    x_1 = torch.randn(8, 2, generator=torch.Generator().manual_seed(1), dtype=F64) if schedule.has_endpoint else None
    den, x = denoiser(schedule, x_1), TARGET.sample(8, torch.Generator().manual_seed(0))
    code = encode_noise(den, x, eta=eta, steps=30, seed=4, x_1=x_1)
    torch.testing.assert_close(sample(den, code.state, x_1=x_1, **code.options()), x, rtol=0, atol=1e-9)
    other = encode_noise(den, x, eta=eta, steps=30, seed=5, x_1=x_1)
    assert (other.state - code.state).abs().max() > 1e-3 or schedule.has_endpoint


def test_noise_of_the_right_model_is_standard_normal():
    """For data of the model itself the noises at eta = 1 have unit variance, so another model can use them."""
    one = torch.ones(1, dtype=F64)
    target = Mixture(one, torch.tensor([[1.0, -0.5]], dtype=F64), 0.25 * one)
    process = Process(VPSDE())
    den = Denoiser(network(target, process), process)
    n, steps = 2000, 200
    code = encode_noise(den, target.sample(n, torch.Generator().manual_seed(0)), eta=1.0, steps=steps, seed=0)
    middle = torch.stack(code.noise[20:-20])
    assert float(middle.std()) == pytest.approx(1.0, abs=0.02)


def test_what_cannot_be_encoded_is_explained():
    den, x = denoiser(VPSDE()), torch.zeros(2, 2, dtype=F64)
    with pytest.raises(ValueError, match="deterministic"):
        encode(den, x, solver="ancestral")
    with pytest.raises(ValueError, match="eta > 0"):
        encode_noise(den, x, eta=0.0)
    discrete = Process({"x": VPSDE(), "z": Categorical([0.5, 0.5])})
    with pytest.raises(ValueError, match="categorical"):
        encode(Denoiser(lambda *_: {}, discrete), {"x": x, "z": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(ValueError, match="no x_1"):
        encode(Denoiser(lambda x, t, cond: x, Process(Interpolant())), x, solver="ddim")
