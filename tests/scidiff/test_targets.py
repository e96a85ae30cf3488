import pytest
import torch

from scidiff import (
    EDM,
    VPSDE,
    BrownianBridge,
    Categorical,
    Denoiser,
    GaussianNoise,
    Interpolant,
    Process,
    StudentTNoise,
    ZeroMean,
)
from scidiff.losses import DenoisingLoss
from scidiff.targets import AntitheticLoss, StableTarget
from tests.scidiff.closed_forms import F64, POINTS, Points

GENERATOR = torch.Generator


@pytest.mark.parametrize("D", [1.0, 8.0, float("inf")])
def test_stable_target_is_the_exact_denoiser_of_the_batch(D):
    process = Process(EDM(), StudentTNoise(D))
    t = torch.tensor([0.001, 0.01, 0.1], dtype=F64)
    x_t, _ = process.perturb(POINTS, t, generator=GENERATOR().manual_seed(0))
    expected = Points(D).x0(x_t, torch.ones_like(t), EDM().sigma(t))
    torch.testing.assert_close(StableTarget(process)(POINTS, x_t, t), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(StableTarget(process)(x_t, x_t, t, reference=POINTS), expected, rtol=1e-9, atol=1e-12)


def test_stable_target_has_the_same_mean_and_less_variance():
    """Over draws of x_0 and noise given x_t the plain target x_0 has the posterior mean, and more spread than 0."""
    process = Process(VPSDE())
    n = 4000
    x_0 = POINTS[torch.randint(3, (n,), generator=GENERATOR().manual_seed(0))]
    t = torch.full((n,), 0.5, dtype=F64)
    x_t, _ = process.perturb(x_0, t, generator=GENERATOR().manual_seed(1))
    target = StableTarget(process)(x_0, x_t, t, reference=POINTS)
    # tower property: E[x_0 g(x_t)] = E[target g(x_t)]
    for test in (torch.ones_like(x_t), x_t, x_t.sin()):
        difference = (x_0 - target) * test
        assert (difference.mean(0).abs() < 4 * difference.std(0) / n**0.5).all()
    den = Denoiser(lambda x, t, cond: target, process)
    plain = DenoisingLoss()(den, x_0, t, x_t=x_t).total
    stable = DenoisingLoss()(den, x_0, t, x_t=x_t, target=lambda *_: target).total
    assert stable.abs().max() == 0
    assert plain.mean() > 0.1


def test_only_states_with_the_same_mask_count():
    process = Process(VPSDE(), GaussianNoise(), ZeroMean())
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    x_0 = process.project(torch.randn(3, 3, 2, generator=GENERATOR().manual_seed(0), dtype=F64), {"node_mask": mask})
    t = torch.full((3,), 0.6, dtype=F64)
    x_t, _ = process.perturb(x_0, t, generator=GENERATOR().manual_seed(1), cond={"node_mask": mask})
    target = StableTarget(process)(x_0, x_t, t, {"node_mask": mask})
    torch.testing.assert_close(target[1], x_0[1])
    pair = StableTarget(process)(x_0[::2], x_t[::2], t[::2])
    torch.testing.assert_close(target[::2], pair)
    assert (target[0] - x_0[0]).abs().max() > 1e-3


def test_stable_targets_need_exchangeable_states():
    for process in (Process(BrownianBridge()), Process({"z": Categorical([0.5, 0.5])})):
        with pytest.raises(ValueError, match="exchangeable"):
            StableTarget(process)
    process = Process(VPSDE())
    with pytest.raises(ValueError, match="one time a sample"):
        StableTarget(process)(POINTS, POINTS, torch.full((3, 2), 0.5, dtype=F64))


@pytest.mark.parametrize("kind", ["velocity", "score", "eps"])
@pytest.mark.parametrize("schedule", [Interpolant("linear"), Interpolant("trig", "bsquared")], ids=repr)
def test_antithetic_loss_is_the_squared_error_less_a_constant(schedule, kind):
    """Against the plain definition with both signs; the constant is |sigma' eps|^2 or |eps/sigma|^2."""
    process = Process(schedule)
    weight = torch.tensor([[0.3, -0.1], [0.2, 0.5]], dtype=F64, requires_grad=True)
    den = Denoiser(lambda x, t, cond: x @ weight, process, prediction=kind)
    x_0, x_1, eps = (torch.randn(6, 2, generator=GENERATOR().manual_seed(i), dtype=F64) for i in range(3))
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    loss = AntitheticLoss(reduction="sum")(den, x_0, t, x_1=x_1, eps=eps).total
    time, expected = t[:, None], torch.zeros(6, dtype=F64)
    for sign in (1, -1):
        x_t = schedule.alpha(time) * x_0 + schedule.endpoint(time) * x_1 + sign * schedule.sigma(time) * eps
        drift = schedule.alpha_dot(time) * x_0 + schedule.endpoint_dot(time) * x_1
        target = {
            "velocity": drift + sign * schedule.sigma_dot(time) * eps,
            "score": -sign * eps / schedule.sigma(time),
            "eps": sign * eps,
        }[kind]
        expected = expected + (x_t @ weight - target).square().sum(1) / 2
    constant = {"velocity": schedule.sigma_dot(time) * eps, "score": eps / schedule.sigma(time), "eps": 0 * eps}[kind]
    torch.testing.assert_close(loss, expected - constant.square().sum(1), rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(value.sum(), weight, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_antithetic_pairs_bound_the_variance_near_the_ends():
    """With brownian gamma the plain velocity loss has gradients of variance 1/t; pairs have not."""
    schedule, n = Interpolant("linear"), 4000
    process = Process(schedule)
    weight = torch.zeros((), dtype=F64, requires_grad=True)
    den = Denoiser(lambda x, t, cond: weight * x.tanh(), process, prediction="velocity")
    x_0, x_1, eps = (torch.randn(n, 1, generator=GENERATOR().manual_seed(i), dtype=F64) for i in range(3))
    spreads = []
    for time in (1e-2, 1e-6):
        t = torch.full((n,), time, dtype=F64)
        a, b, s = (float(f(t)[0]) for f in (schedule.alpha, schedule.endpoint, schedule.sigma))
        slope = float(schedule.sigma_dot(t)[0])

        slopes = {}  # d/d weight at weight = 0
        for sign in (1, -1):
            x_t = a * x_0 + b * x_1 + sign * s * eps
            slopes[sign] = -2 * x_t.tanh() * (x_1 - x_0 + sign * slope * eps)
        spreads.append((float(slopes[1].std()), float(((slopes[1] + slopes[-1]) / 2).std())))
        total = AntitheticLoss()(den, x_0, t, x_1=x_1, eps=eps).total
        (gradient,) = torch.autograd.grad(total.mean(), weight)
        torch.testing.assert_close(gradient, ((slopes[1] + slopes[-1]) / 2).mean(), rtol=1e-6, atol=1e-9)
    assert spreads[1][0] > 50 * spreads[0][0]
    assert spreads[1][1] < 2 * spreads[0][1]


def test_pairs_of_heads_and_refusals():
    process = Process(Interpolant("linear"))
    den = Denoiser(lambda x, t, cond: (x, -x), process, prediction=("velocity", "score"))
    x_0, x_1 = (torch.randn(3, 2, generator=GENERATOR().manual_seed(i), dtype=F64) for i in range(2))
    t = torch.full((3,), 0.4, dtype=F64)
    output = AntitheticLoss({"score": 0.5})(den, x_0, t, x_1=x_1, generator=GENERATOR().manual_seed(0))
    assert set(output.parts) == {"velocity", "score"}
    torch.testing.assert_close(output.total, output.parts["velocity"] + output.parts["score"])
    with pytest.raises(ValueError, match="DenoisingLoss"):
        AntitheticLoss()(Denoiser(lambda x, t, cond: x, Process(VPSDE())), x_0, t)
