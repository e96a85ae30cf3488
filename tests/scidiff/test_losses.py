import math

import pytest
import torch
from scipy import stats

from scidiff import (
    EDM,
    VPSDE,
    Categorical,
    Denoiser,
    GaussianNoise,
    Linear,
    Masked,
    Process,
    StudentTNoise,
    Symmetric,
    ZeroMean,
)
from scidiff.losses import WEIGHTINGS, DenoisingLoss, TimeLaw, weighting
from tests.scidiff.closed_forms import F64

TIMES = torch.linspace(0.05, 0.95, 7, dtype=F64)
GENERATOR = torch.Generator


@pytest.mark.parametrize("schedule", [VPSDE(), EDM(0.02, 10.0), Linear()], ids=repr)
def test_weights_are_the_squared_errors_of_each_parameterisation(schedule):
    """One error in x0, carried to eps, velocity, F and score through the conversions: weight times |dx0|^2."""
    x, x_0, error = (torch.randn(7, 3, generator=GENERATOR().manual_seed(i), dtype=F64) for i in range(3))
    data_std, process = 0.7, Process(schedule)
    first, second = (Denoiser(lambda *_, v=v: v, process)(x, TIMES) for v in (x_0, x_0 + error))
    ratio = {
        "eps": (second.eps - first.eps).square(),
        "velocity": (second.velocity - first.velocity).square(),
        "likelihood": (schedule.diffusion(TIMES)[:, None] * (second.score - first.score)).square(),
        "x0": error.square(),
    }
    for name, squares in ratio.items():
        torch.testing.assert_close(
            weighting(name, schedule, TIMES)[:, None] * error.square(), squares, rtol=1e-9, atol=1e-12
        )
    alpha, sigma = schedule.alpha(TIMES), schedule.sigma(TIMES)
    c_out = sigma * data_std / ((alpha * data_std) ** 2 + sigma**2).sqrt()
    torch.testing.assert_close(weighting("edm", schedule, TIMES, data_std), 1 / c_out**2)
    snr = (alpha / sigma) ** 2
    torch.testing.assert_close(weighting("min_snr", schedule, TIMES), torch.minimum(snr, torch.tensor(5.0, dtype=F64)))
    h = 1e-6
    slope = ((schedule.log_snr(TIMES + h)).exp() - (schedule.log_snr(TIMES - h)).exp()) / (2 * h)
    torch.testing.assert_close(weighting("vlb", schedule, TIMES), 0.5 * slope.abs(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_vanish_where_there_is_no_noise(name):
    """Given elements at t = 0 have an infinite signal-to-noise ratio and no error: 0, not nan."""
    value = weighting(name, VPSDE(), torch.tensor([0.0, 0.5], dtype=F64))
    assert value[0] == 0
    assert value[1] > 0


def pair_network(x, t, cond):
    return 0.3 * x


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("law", [GaussianNoise(), StudentTNoise(3.0)], ids=repr)
def test_equal_times_per_frame_are_one_time(name, law):
    """perturb, denoiser and loss with t (B, F) of equal entries are those with t (B,), bit for bit."""
    process = Process(VPSDE(), law)
    den = Denoiser(pair_network, process, prediction="v")
    x_0 = torch.randn(5, 4, 3, generator=GENERATOR().manual_seed(0))
    t = torch.rand(5, generator=GENERATOR().manual_seed(1))
    outputs = []
    for times in (t, t[:, None].expand(5, 4)):
        x_t, eps = process.perturb(x_0, times, generator=GENERATOR().manual_seed(2))
        p = den(x_t, times)
        loss = DenoisingLoss(weighting=name)(den, x_0, times, x_t=x_t)
        outputs.append((x_t, eps, p.x0, p.eps, p.velocity, loss.total))
    for one, many in zip(*outputs, strict=True):
        assert torch.equal(one, many)


def test_conditioning_frames_at_time_zero_are_given_and_add_nothing():
    process = Process(VPSDE())
    den = Denoiser(pair_network, process, prediction="eps")
    x_0 = torch.randn(2, 4, 3, generator=GENERATOR().manual_seed(0), dtype=F64)
    t = torch.tensor([[0.0, 0.3, 0.0, 0.8]], dtype=F64).expand(2, 4)
    x_t, eps = process.perturb(x_0, t, generator=GENERATOR().manual_seed(1))
    assert torch.equal(x_t[:, ::2], x_0[:, ::2])
    assert torch.equal(den(x_t, t).x0[:, ::2], x_0[:, ::2])
    loss = DenoisingLoss(weighting="eps", reduction="sum")(den, x_0, t, x_t=x_t)
    expected = (0.3 * x_t - eps)[:, 1::2].square().sum((1, 2))
    torch.testing.assert_close(loss.total, expected, rtol=1e-9, atol=1e-9)


def test_components_may_have_their_own_times():
    """A dict of times: each part equals that of a process with this component alone."""
    system = Process({"a": VPSDE(), "b": (Linear(), ZeroMean())})
    network = {"a": 0.3, "b": -0.2}
    den = Denoiser(
        lambda x, t, cond: {k: network[k] * x[k] for k in x}, system, prediction={"a": "eps", "b": "velocity"}
    )
    x_0 = {
        "a": torch.randn(3, 2, dtype=F64, generator=GENERATOR().manual_seed(0)),
        "b": torch.randn(3, 4, 2, dtype=F64),
    }
    x_0["b"] = x_0["b"] - x_0["b"].mean(1, keepdim=True)
    t = {"a": TIMES[:3], "b": TIMES[4:].flip(0)}
    x_t, _ = system.perturb(x_0, t, generator=GENERATOR().manual_seed(2))
    loss = DenoisingLoss({"a": 2.0}, weighting={"a": "eps", "b": "velocity"})(den, x_0, t, x_t=x_t)
    for name, kind in (("a", "eps"), ("b", "velocity")):
        component = system.components[name]
        alone = Denoiser(lambda x, t, cond, k=name: network[k] * x, Process(component), prediction=kind)
        part = DenoisingLoss(weighting=kind)(alone, x_0[name], t[name], x_t=x_t[name]).total
        torch.testing.assert_close(loss.parts[name], part)
    torch.testing.assert_close(loss.total, 2 * loss.parts["a"] + loss.parts["b"])


def test_reductions_count_live_numbers_once():
    """Masked entries never count, symmetric pairs count once."""
    n = 4
    upper = torch.randn(2, n, n, generator=GENERATOR().manual_seed(0), dtype=F64).triu(1)
    x_0, wrong = upper + upper.transpose(1, 2), 0.5
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    x_0 = x_0 * mask[:, :, None] * mask[:, None, :]
    den = Denoiser(lambda x, t, cond: x_0 + wrong, Process(VPSDE(), GaussianNoise(), Symmetric()))
    t = torch.full((2,), 0.5, dtype=F64)
    for reduction, expected in (("mean", [0.25, 0.25]), ("sum", [6 * 0.25, 3 * 0.25])):
        loss = DenoisingLoss(reduction=reduction)(den, x_0, t, cond={"node_mask": mask}, generator=GENERATOR())
        torch.testing.assert_close(loss.total, torch.tensor(expected, dtype=F64))
    x_0 = torch.tensor([[1.0, 2.0, 3.0]], dtype=F64)
    den = Denoiser(
        lambda x, t, cond: torch.tensor([[1.5, 9.0, 3.0]], dtype=F64), Process(VPSDE(), GaussianNoise(), Masked())
    )
    cond = {"live": torch.tensor([[True, False, True]])}
    assert float(DenoisingLoss()(den, x_0, t[:1], cond=cond).total) == pytest.approx(0.125)


def test_cross_entropy_of_classes():
    process = Process({"z": Categorical([0.25, 0.25, 0.5])})
    logits = torch.randn(3, 4, 3, generator=GENERATOR().manual_seed(0))
    den = Denoiser(lambda x, t, cond: {"z": logits}, process)
    z_0 = torch.randint(3, (3, 4), generator=GENERATOR().manual_seed(1))
    loss = DenoisingLoss()(den, {"z": z_0}, torch.rand(3), generator=GENERATOR())
    expected = -torch.log_softmax(logits, -1).gather(-1, z_0[..., None])[..., 0].mean(1)
    torch.testing.assert_close(loss.total, expected)


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize(
    ("law", "transform", "distribution"),
    [
        (("uniform",), lambda t: t, stats.uniform(1e-5, 1 - 1e-5)),
        (("beta", 1.0, 2.0), lambda t: t, stats.beta(1, 2)),
        (("beta", 2.5, 1.5), lambda t: t, stats.beta(2.5, 1.5)),
        (("logit_normal", 0.3, 0.8), lambda t: (t / (1 - t)).log(), stats.norm(0.3, 0.8)),
        (("lognormal_sigma", -1.2, 1.2), lambda t: EDM().sigma(t).log(), stats.norm(-1.2, 1.2)),
    ],
    ids=lambda v: v[0] if isinstance(v, tuple) else None,
)
def test_time_laws(law, transform, distribution, stratified):
    times = TimeLaw(*law, stratified=stratified).sample(4000, EDM(), generator=GENERATOR().manual_seed(0)).double()
    assert stats.kstest(transform(times).numpy(), distribution.cdf).pvalue > 1e-3
    if stratified:  # one number in each of 4000 equal quantiles
        quantiles = distribution.cdf(transform(times).numpy())
        assert len(set((quantiles * 4000 - 1e-3).astype(int))) > 3900


def test_uniform_lambda():
    schedule = VPSDE()
    times = TimeLaw("uniform_lambda").sample(4000, schedule, generator=GENERATOR().manual_seed(0)).double()
    lam = 0.5 * schedule.log_snr(times)
    low, high = (float(0.5 * schedule.log_snr(torch.tensor(t, dtype=F64))) for t in (1.0, schedule.t_min))
    assert stats.kstest(lam.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_element_times_are_shared_or_independent():
    times = TimeLaw().sample_elements(4000, 3, VPSDE(), independent=0.2, generator=GENERATOR().manual_seed(0))
    is_shared = (times == times[:, :1]).all(1)
    assert float(is_shared.double().mean()) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 4000))
    for values in (times[is_shared][:, 0], times[~is_shared].flatten()):
        assert stats.kstest(values.double().numpy(), stats.uniform(0, 1).cdf).pvalue > 1e-3
    correlation = torch.corrcoef(times[~is_shared].T)
    assert (correlation - torch.eye(3)).abs().max() < 4 / math.sqrt(800) + 0.01


def test_unknown_names_are_explained():
    with pytest.raises(ValueError, match="Did you mean 'min_snr'"):
        weighting("minsnr", VPSDE(), TIMES)
    with pytest.raises(ValueError, match="unknown time law"):
        TimeLaw("gamma")
