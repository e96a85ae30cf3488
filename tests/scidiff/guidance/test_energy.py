import pytest
import torch

from scidiff import VPSDE, Categorical, Denoiser, Process, ZeroMean, sample
from scidiff.guidance import Classifier, Energy
from tests.scidiff.guidance.gaussian import GaussianData

TIMES = torch.tensor([0.02, 0.3, 0.7, 0.95], dtype=torch.float64)


def test_quadratic_classifier_gives_the_product_of_gaussians():
    """log p(y | x_t) of y = H x_0 + n is quadratic in x_t; guided x0 = E[x_0 | x_t, y] by dense conditioning."""
    data = GaussianData.random(Process(VPSDE()), {"": (4,)})
    x_0, x_t = data.draw(4, TIMES)
    H = torch.randn(2, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = x_0 @ H.T

    def log_likelihood(x, t):
        gain, scale = data.system(t)
        cov = H @ (data.cov - gain @ (scale[:, :, None] * data.cov)) @ H.T + 0.04 * torch.eye(2, dtype=torch.float64)
        error = y - data.network(x, t, {}) @ H.T
        return -0.5 * (error * torch.linalg.solve(cov, error[..., None])[..., 0]).sum(1)

    guided = Classifier(log_likelihood).wrap(data.denoiser())(x_t, TIMES)
    torch.testing.assert_close(guided.x0, data.posterior(x_t, TIMES, H, y, 0.04), rtol=1e-10, atol=1e-10)


def test_classifier_lowers_eps_by_w_sigma_grad():
    """The published form: eps - w sigma grad log p(c | x)."""
    process = Process(VPSDE())
    den = Denoiser(lambda x, t, cond: torch.tanh(x), process, prediction="eps")
    x = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(4, 2)
    guided = Classifier(lambda x, t: (3 * x).sin().sum(1), scale=0.7).wrap(den)(x, TIMES)
    sigma = VPSDE().sigma(TIMES)[:, None]
    torch.testing.assert_close(guided.eps, torch.tanh(x) - 0.7 * sigma * 3 * (3 * x).cos(), rtol=1e-10, atol=1e-10)


def test_energy_shifts_end_point_and_logits():
    """J = -sum x0^2/2 + phat[class 1]: x0 - scale x0, logits + scale (0, 1)."""
    process = Process({"x": VPSDE(), "z": Categorical([0.5, 0.5])})

    def network(x_t, t, cond):
        return {"x": 0.5 * x_t["x"], "z": torch.zeros(*x_t["z"].shape, 2, dtype=torch.float64)}

    den = Denoiser(network, process)
    state = {"x": torch.ones(4, 3, dtype=torch.float64), "z": torch.zeros(4, 2, dtype=torch.int64)}
    guided = Energy(lambda s: -s["x"].square().sum(1) / 2 + s["z"][..., 1].sum(1), scale=0.2).wrap(den)(state, TIMES)
    torch.testing.assert_close(guided.x0["x"], 0.8 * 0.5 * state["x"])
    torch.testing.assert_close(guided.logits["z"], torch.tensor([0.0, 0.2], dtype=torch.float64).expand(4, 2, 2))


def test_invariant_energy_keeps_equivariance_and_zero_mean():
    """Radius of gyration plus an off-centre term: samples turn with the noise (rotation and reflection), mean 0."""
    process = Process(VPSDE(), space=ZeroMean())
    den = Denoiser(lambda x, t, cond: x / (1 + x.square().sum((1, 2), keepdim=True)), process)

    def reward(x):
        return -(torch.pdist(x[0]).square().sum() + torch.pdist(x[1]).square().sum()).reshape(1) + x.norm(dim=-1).sum(1)

    generator = torch.Generator().manual_seed(0)
    start = process.project(torch.randn(2, 5, 3, generator=generator, dtype=torch.float64))
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    for turn in (rotation, -rotation):
        runs = [sample(den, s, steps=5, guidance=Energy(reward, 0.01)) for s in (start, start @ turn)]
        torch.testing.assert_close(runs[1], runs[0] @ turn, rtol=1e-9, atol=1e-9)
        assert runs[0].mean(1).abs().max() < 1e-12
    assert (sample(den, start, steps=5) - sample(den, start, steps=5, guidance=Energy(reward, 0.01))).abs().max() > 1e-3


def test_energy_that_pushes_the_centre_leaves_it():
    process = Process(VPSDE(), space=ZeroMean())
    den = Denoiser(lambda x, t, cond: 0.5 * x, process)
    x = process.project(torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    guided = Energy(lambda x0: x0.sum((1, 2)), 5.0).wrap(den)(x, TIMES)
    torch.testing.assert_close(guided.x0, 0.5 * x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "item", [Classifier(lambda x, t: x.sum(1)), Energy(lambda x0: x0.sum(1))], ids=["cls", "energy"]
)
def test_no_graph_is_left_under_no_grad(item):
    layer = torch.nn.Linear(2, 2)
    den = Denoiser(lambda x, t, cond: layer(x), Process(VPSDE()))
    with torch.no_grad():
        prediction = item.wrap(den)(torch.ones(4, 2), TIMES)
    assert not prediction.x0.requires_grad
    assert item.wrap(den)(torch.ones(4, 2), TIMES).x0.requires_grad  # the weights can still be trained through it
