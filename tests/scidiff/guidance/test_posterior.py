"""Moment matching and pseudo-inverse guidance against dense Gaussian conditioning."""

import pytest
import torch

from scidiff import EDM, VPSDE, Categorical, Denoiser, Free, Linear, Process, Symmetric, ZeroMean, sample
from scidiff.guidance import MomentMatching, Observation, PseudoInverse
from scidiff.samplers import solver_names
from tests.scidiff.guidance.gaussian import GaussianData

TIMES = torch.tensor([0.02, 0.3, 0.7, 0.95], dtype=torch.float64)
STD = 0.3


def selection(observed, size):
    return torch.eye(size, dtype=torch.float64)[observed]


@pytest.mark.parametrize("schedule", [VPSDE(), EDM(0.01, 10.0), Linear()], ids=repr)
def test_moment_matching_is_exact_on_a_gaussian(schedule):
    """E[x_0 | x_t, y] of the joint Gaussian. 4 observed numbers: CG ends after 4 products; condition below 1e3."""
    data = GaussianData.random(Process(schedule), {"": (6,)})
    x_0, x_t = data.draw(4, TIMES)
    H = selection([0, 2, 3, 5], 6)
    mask = torch.tensor([[True, False, True, True, False, True]])
    full = torch.where(mask, x_0 + STD, torch.nan)  # what was not observed is never read
    guide = MomentMatching(Observation(mask, y=full, noise_std=STD), cg_iters=4)
    guided = guide.wrap(data.denoiser())(x_t, TIMES).x0
    expected = data.posterior(x_t, TIMES, H, (x_0 + STD) @ H.T, STD**2)
    torch.testing.assert_close(guided, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ["cg", "gmres"])
def test_mask_matrix_and_callable_agree(solver):
    data = GaussianData.random(Process(VPSDE()), {"": (5,)})
    x_0, x_t = data.draw(4, TIMES)
    H = torch.randn(3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = x_0 @ H.T
    expected = data.posterior(x_t, TIMES, H, y, STD**2)
    for observation in (
        Observation(H, y=y, noise_std=STD),
        Observation(lambda x: x @ H.T, lambda u: u @ H, y, STD),
        Observation(lambda x: x @ H.T, y=y, noise_std=STD),
    ):
        guide = MomentMatching(observation, cg_iters=3, solver=solver)
        guided = guide.wrap(data.denoiser())(x_t, TIMES).x0
        torch.testing.assert_close(guided, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("space", "shape"), [(ZeroMean(), (4, 2)), (Symmetric(), (4, 4))], ids=["zero mean", "symmetric"]
)
def test_moment_matching_is_exact_on_spaces(space, shape):
    """The metric of the noise enters: without the factor 2 of a symmetric pair the covariance would be half."""
    data = GaussianData.random(Process(VPSDE(), space=space), {"": shape})
    x_0, x_t = data.draw(4, TIMES)
    size = data.metric.shape[0]
    observed = [1, 2, 6]
    mask = torch.zeros(size, dtype=torch.bool)
    mask[observed] = True
    y = (x_0 + 0.1).reshape(4, *shape)
    guide = MomentMatching(Observation(mask.reshape(1, *shape), y=y, noise_std=STD), cg_iters=3)
    guided = guide.wrap(data.denoiser())(x_t, TIMES).x0
    expected = data.posterior(x_t, TIMES, selection(observed, size), x_0[:, observed] + 0.1, STD**2)
    torch.testing.assert_close(guided.flatten(1), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(guided, data.process.project(guided), rtol=0, atol=1e-14)


def test_moment_matching_of_a_system_uses_the_covariance_between_components():
    """Different schedules; only a is observed, yet b moves to its exact posterior mean."""
    process = Process({"a": VPSDE(), "b": (EDM(0.01, 5.0), ZeroMean())})
    data = GaussianData.random(process, {"a": (3,), "b": (3, 2)})
    x_0, x_t = data.draw(4, TIMES)
    H = selection([0, 2], 9)
    mask = torch.tensor([[True, False, True]])
    y = x_0[:, :3]
    named = Observation(mask, y=y, noise_std=STD, component="a")
    whole = Observation(lambda x: x["a"][:, ::2], y=y[:, ::2], noise_std=STD)
    expected = data.posterior(x_t, TIMES, H, x_0 @ H.T, STD**2)
    for observation in (named, whole):
        guided = MomentMatching(observation, cg_iters=2).wrap(data.denoiser())(x_t, TIMES).x0
        torch.testing.assert_close(data.flat(guided), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("space", "shape"), [(Free(), (6,)), (ZeroMean(), (6, 1))], ids=["free", "zero mean"])
def test_nesting_conditions_on_both_observations(space, shape):
    """b.wrap(a.wrap(den)): the Jacobian of the model that a guides is that of the posterior given y_a."""
    data = GaussianData.random(Process(VPSDE(), space=space), {"": shape})
    x_0, x_t = data.draw(4, TIMES)
    H = selection([0, 1, 3], 6)
    y = x_0.reshape(4, *shape)
    first = Observation(torch.tensor([[True, True, False, False, False, False]]), y=y, noise_std=STD)
    second = Observation(torch.tensor([[False, False, False, True, False, False]]), y=y, noise_std=STD)
    guided = data.denoiser()
    for observation, iterations in ((first, 2), (second, 1)):
        guided = MomentMatching(observation, cg_iters=iterations).wrap(guided)
    with torch.no_grad():
        x0 = guided(x_t, TIMES).x0
    expected = data.posterior(x_t, TIMES, H, x_0 @ H.T, STD**2)
    torch.testing.assert_close(x0.flatten(1), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["mask", "matrix", "callable"])
def test_pseudo_inverse_against_dense_algebra(kind):
    """x0 + (sigma^2/alpha) J^T H^T (r^2 H H^T + R)^{-1} (y - H x0), with J from the dense gain."""
    data = GaussianData.random(Process(VPSDE()), {"": (5,)})
    x_0, x_t = data.draw(4, TIMES)
    mask = torch.tensor([[True, False, True, True, False]])
    H = selection([0, 2, 3], 5)
    if kind != "mask":
        H = torch.randn(3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = x_0 @ H.T
    observation = {
        "mask": Observation(mask, y=x_0, noise_std=STD),
        "matrix": Observation(H, y=y, noise_std=STD),
        "callable": Observation(lambda x: x @ H.T, y=y, noise_std=STD),
    }[kind]
    sd, schedule = 1.3, data.process.continuous[""].schedule
    alpha, sigma = (v[:, None] for v in (schedule.alpha(TIMES), schedule.sigma(TIMES)))
    gain, _ = data.system(TIMES)
    x0 = data.network(x_t, TIMES, {})
    r2 = sigma**2 * sd**2 / (sigma**2 + alpha**2 * sd**2)
    middle = r2[..., None] * (H @ H.T) + STD**2 * torch.eye(3, dtype=torch.float64)
    u = torch.linalg.solve(middle, (y - x0 @ H.T)[..., None])
    expected = x0 + sigma**2 / alpha * (gain.mT @ H.T @ u)[..., 0]
    guided = PseudoInverse(observation, data_std=sd).wrap(data.denoiser())(x_t, TIMES).x0
    torch.testing.assert_close(guided, expected, rtol=1e-11, atol=1e-11)


def test_small_noise_meets_the_floor():
    """R = max(noise_std, floor, sigma(t_min)/alpha(t_min))^2: VPSDE has .0105 at t_min = 1e-3, below the floor."""
    data = GaussianData.random(Process(VPSDE()), {"": (3,)})
    x_0, x_t = data.draw(4, TIMES)
    H = selection([0], 3)
    mask = torch.tensor([[True, False, False]])
    for floor, std in ((0.02, 0.02), (0.5, 0.5), (0.0, 1e-3)):
        guide = MomentMatching(Observation(mask, y=x_0, noise_std=1e-3), cg_iters=1, floor=floor)
        expected = data.posterior(x_t, TIMES, H, x_0 @ H.T, std**2)
        torch.testing.assert_close(guide.wrap(data.denoiser())(x_t, TIMES).x0, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", solver_names())
def test_every_solver_samples_the_posterior(solver):
    """Path by path the run is the one with the exact denoiser of x_0 | y, itself a Gaussian; same seeds, 8 steps."""
    data = GaussianData.random(Process(VPSDE()), {"": (3,)})
    y = data.mean[None] + torch.tensor([[0.8, 0.0, 0.0]], dtype=torch.float64)
    guide = MomentMatching(Observation(torch.tensor([[True, False, False]]), y=y, noise_std=STD), cg_iters=1)
    first = data.cov[:, :1]
    posterior = GaussianData(
        data.process,
        data.shapes,
        data.mean + first[:, 0] / (data.cov[0, 0] + STD**2) * 0.8,
        data.cov - first @ first.T / (data.cov[0, 0] + STD**2),
    )
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guided = sample(data.denoiser(), start, solver=solver, steps=8, guidance=guide)
    exact = sample(posterior.denoiser(), start, solver=solver, steps=8)
    torch.testing.assert_close(guided, exact, rtol=1e-9, atol=1e-9)


def test_works_in_float32_with_a_categorical_component_and_leaves_it_alone():
    process = Process({"x": (VPSDE(), ZeroMean()), "z": Categorical([0.2, 0.3, 0.5])})
    data = GaussianData.random(Process(VPSDE(), space=ZeroMean()), {"": (4, 2)})

    def network(x_t, t, cond):
        return {"x": data.network(x_t["x"], t, cond), "z": torch.zeros(*x_t["z"].shape, 3) + x_t["z"][..., None] * 0.1}

    den = Denoiser(network, process)
    times = TIMES.float()
    x_0, x_t = data.draw(4, TIMES)
    mask = torch.zeros(1, 4, 1, dtype=torch.bool)
    mask[:, 0] = True
    state = {"x": x_t.float(), "z": torch.randint(0, 3, (4, 4), generator=torch.Generator().manual_seed(0))}
    observation = Observation(mask, y=x_0.reshape(4, 4, 2).float(), noise_std=STD, component="x")
    guided = MomentMatching(observation, cg_iters=4).wrap(den)(state, times)
    expected = data.posterior(x_t, times.double(), selection([0, 1], 8), x_0[:, :2], STD**2)
    assert guided.x0["x"].dtype == torch.float32
    # machine epsilon 6e-8, sigma^2/alpha up to 1e2 at t = .95, condition number up to 1e2
    torch.testing.assert_close(guided.x0["x"].flatten(1), expected.float(), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(guided.logits["z"], den(state, times).logits["z"], rtol=0, atol=0)
    x = sample(den, {"x": (4, 4, 2), "z": (4, 4)}, steps=4, guidance=MomentMatching(observation))
    assert x["x"].mean(1).abs().max() < 1e-5
    with pytest.raises(ValueError, match="categorical"):
        MomentMatching(Observation(mask[..., 0], y=state["z"], component="z")).wrap(den)


def test_options_are_checked():
    observation = Observation(torch.ones(1, 2, dtype=torch.bool), y=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="cg_iters"):
        MomentMatching(observation, cg_iters=0)
    with pytest.raises(ValueError, match="gmres"):
        MomentMatching(observation, solver="bicg")  # type: ignore[arg-type]
