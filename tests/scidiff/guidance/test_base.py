import pytest
import torch

from scidiff import VPSDE, Denoiser, Linear, Process, sample
from scidiff.guidance import (
    DPS,
    AutoGuidance,
    Classifier,
    Energy,
    MomentMatching,
    Observation,
    PseudoInverse,
    Replace,
    SelfGuidance,
    Sum,
)
from scidiff.noise import GaussianNoise
from tests.scidiff.guidance.gaussian import GaussianData

TIMES = torch.tensor([0.02, 0.3, 0.7, 0.95], dtype=torch.float64)
MASK = torch.tensor([[True, False, True]])
OBSERVATION = Observation(MASK, y=torch.ones(1, 3), noise_std=0.1)
REWARD = Energy(lambda x0: -x0.square().sum(1), 0.1)
GRADIENT_GUIDES = {
    "mmps": lambda: MomentMatching(OBSERVATION),
    "pinv": lambda: PseudoInverse(OBSERVATION),
    "self": lambda: SelfGuidance(OBSERVATION, scale=0.1),
    "ddpm": lambda: SelfGuidance(OBSERVATION, scale=0.1, parity="ddpm"),
    "dps": lambda: DPS(OBSERVATION, zeta=0.1),
    "classifier": lambda: Classifier(lambda x, t: -x.square().sum(1)),
}


class HeavyNoise(GaussianNoise):
    is_gaussian = False


@pytest.fixture
def data():
    return GaussianData.random(Process(VPSDE()), {"": (3,)})


def test_sum_adds_the_corrections_and_evaluates_once(data):
    calls = []
    den = Denoiser(lambda *a: calls.append(1) or data.network(*a), data.process)
    _, x_t = data.draw(4, TIMES)
    terms = [REWARD, PseudoInverse(OBSERVATION), SelfGuidance(OBSERVATION, "ms", 0.3)]
    plain = den(x_t, TIMES).x0
    alone = [term.wrap(den)(x_t, TIMES).x0 - plain for term in terms]
    calls.clear()
    together = Sum(*terms).wrap(den)
    torch.testing.assert_close(together(x_t, TIMES).x0, plain + sum(alone), rtol=1e-12, atol=1e-12)
    assert len(calls) == together.evaluations == 1
    assert Sum(*terms, AutoGuidance(den, 2.0)).wrap(den).evaluations == 2
    with pytest.raises(ValueError, match="at least one"):
        Sum()


def test_sum_passes_constraints_on(data):
    start = torch.zeros(2, 3, dtype=torch.float64)
    y = torch.full((1, 3), 0.7, dtype=torch.float64)
    x = sample(data.denoiser(), start, steps=4, guidance=Sum(REWARD, Replace(Observation(MASK, y=y))))
    assert (x[:, [0, 2]] == 0.7).all()


def test_correlated_observations_are_nested_not_summed(data):
    """E[x_0 | x_t, y_1, y_2] from a list; the sum of the two corrections differs because y_1 and y_2 are correlated."""
    x_0, x_t = data.draw(4, TIMES)
    eye = torch.eye(3, dtype=torch.float64)
    one, two = (Observation(eye[i : i + 1], y=x_0[:, i : i + 1], noise_std=0.3) for i in (0, 1))
    first, second = (MomentMatching(o, cg_iters=1) for o in (one, two))
    exact = data.posterior(x_t, TIMES, eye[:2], x_0[:, :2], 0.09)
    nested = second.wrap(first.wrap(data.denoiser()))(x_t, TIMES).x0
    torch.testing.assert_close(nested, exact, rtol=1e-10, atol=1e-10)
    assert (Sum(first, second).wrap(data.denoiser())(x_t, TIMES).x0 - exact).abs().max() > 1e-2


@pytest.mark.parametrize("name", GRADIENT_GUIDES)
def test_gradients_under_no_grad_and_inference_mode(data, name):
    """Same numbers with and without no_grad; no graph is left behind; a clear refusal under inference mode."""
    guide = GRADIENT_GUIDES[name]()
    guided = guide.wrap(data.denoiser())
    _, x_t = data.draw(4, TIMES)
    free = guided(x_t, TIMES).x0
    with torch.no_grad():
        quiet = guided(x_t, TIMES)
    torch.testing.assert_close(quiet.x0, free.detach(), rtol=0, atol=1e-14)
    assert not quiet.x0.requires_grad
    assert not quiet.eps.requires_grad
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        guided(x_t, TIMES)


@pytest.mark.parametrize("name", GRADIENT_GUIDES)
def test_finite_d_is_refused_unless_heuristic(name):
    process = Process(VPSDE(), HeavyNoise())
    guide = GRADIENT_GUIDES[name]()
    with pytest.raises(ValueError, match="heuristic=True"):
        guide.wrap(Denoiser(lambda x, t, cond: x, process))
    guide.wrap(Denoiser(lambda x, t, cond: x, process, heuristic=True))


@pytest.mark.parametrize("name", GRADIENT_GUIDES)
def test_float32_and_the_singular_ends(name):
    """alpha = 0 at t = 1 of the linear path and sigma = 0 at t = 0: finite, and unguided there."""
    process = Process(Linear())
    den = Denoiser(lambda x, t, cond: torch.tanh(x), process)
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    times = torch.tensor([0.0, 1.0])
    p = GRADIENT_GUIDES[name]().wrap(den)(x, times)
    assert p.x0.dtype == torch.float32
    torch.testing.assert_close(p.x0, torch.stack([x[0], torch.tanh(x[1])]))
    run = sample(den, x, steps=4, grid="uniform", guidance=GRADIENT_GUIDES[name]())
    assert run.dtype == torch.float32
    assert run.isfinite().all()


def test_derivatives_of_a_guided_denoiser(data):
    """Outside no_grad the guided prediction is differentiable in x_t: the gain of the posterior Gaussian."""
    x_0, x_t = data.draw(4, TIMES)
    observation = Observation(MASK, y=x_0, noise_std=0.3)
    guided = MomentMatching(observation, cg_iters=2).wrap(data.denoiser())
    jacobian = torch.autograd.functional.jacobian(lambda x: guided(x, TIMES).x0.sum(0), x_t).movedim(1, 0)
    H = torch.eye(3, dtype=torch.float64)[[0, 2]]
    gain, scale = data.system(TIMES)
    cov = data.cov - gain @ (scale[:, :, None] * data.cov)
    middle = H @ cov @ H.T + 0.09 * torch.eye(2, dtype=torch.float64)
    expected = gain - cov @ H.T @ torch.linalg.solve(middle, H @ gain)
    torch.testing.assert_close(jacobian, expected, rtol=1e-9, atol=1e-9)


def test_a_network_without_a_graph_is_reported(data):
    den = Denoiser(torch.no_grad()(data.network), data.process)
    with pytest.raises(RuntimeError, match="carries no graph"):
        MomentMatching(OBSERVATION).wrap(den)(torch.zeros(4, 3, dtype=torch.float64), TIMES)
