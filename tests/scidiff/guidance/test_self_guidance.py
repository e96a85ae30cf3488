import pytest
import torch

from scidiff import VPSDE, Denoiser, Process, ZeroMean, sample
from scidiff.guidance import Observation, SelfGuidance, quantile_levels

TIMES = torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64)
A = 0.6
MASK = torch.tensor([[True, True, False]])


def setting(process=None):
    """x0 = A x_t, so grad_x E = A dE/dx0."""
    den = Denoiser(lambda x, t, cond: A * x, process or Process(VPSDE()))
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return den, x, y


def slope(loss, x, y, levels):
    """dE/dx0 by hand: -2 e, or -q for e > 0 and 1 - q for e < 0."""
    e = torch.where(MASK, y - A * x, 0)
    if loss == "ms":
        return -2 * e
    return torch.where(MASK, torch.where(e > 0, -levels[:, None], 1 - levels[:, None]), 0)


@pytest.mark.parametrize("loss", ["ms", "quantile"])
def test_paper_form_by_hand(loss):
    """x0 - (sigma^2/alpha) scale grad E, which is TSDiff's eps + scale sigma grad E."""
    den, x, y = setting()
    guided = SelfGuidance(Observation(MASK, y=y), loss, 0.8).wrap(den)(x, TIMES)
    gradient = A * slope(loss, x, y, torch.arange(1, 5, dtype=torch.float64) / 5)
    plain, sigma, alpha = den(x, TIMES), VPSDE().sigma(TIMES)[:, None], VPSDE().alpha(TIMES)[:, None]
    torch.testing.assert_close(guided.eps, plain.eps + 0.8 * sigma * gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(guided.x0, plain.x0 - sigma**2 / alpha * 0.8 * gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("loss", ["ms", "quantile"])
def test_ddpm_parity_moves_the_state_by_the_posterior_variance(loss):
    """One ancestral step with and without; the ratio to the paper form is alpha_{t|s} sigma_s^2/sigma_t^2."""
    den, x, y = setting()
    t, s = torch.tensor([0.6, 0.5], dtype=torch.float64)
    schedule, grid = VPSDE(), torch.stack([t, s])
    observation = Observation(MASK, y=y)
    plain = sample(den, x, solver="ancestral", grid=grid)
    moved, paper = (
        sample(den, x, solver="ancestral", grid=grid, guidance=SelfGuidance(observation, loss, 0.8, parity)) - plain
        for parity in ("ddpm", "paper")
    )
    alpha = schedule.alpha(t) / schedule.alpha(s)
    forward = schedule.sigma(t) ** 2 - alpha**2 * schedule.sigma(s) ** 2
    posterior = forward * schedule.sigma(s) ** 2 / schedule.sigma(t) ** 2
    gradient = A * slope(loss, x, y, torch.arange(1, 5, dtype=torch.float64) / 5)
    torch.testing.assert_close(moved, -0.8 * posterior * gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        moved, paper * alpha * schedule.sigma(s) ** 2 / schedule.sigma(t) ** 2, rtol=1e-9, atol=1e-12
    )


def test_ddpm_parity_does_nothing_in_the_step_to_clean_data():
    """v = 0 at sigma = 0, as TSDiff's last step."""
    den, x, y = setting()
    grid = torch.tensor([0.1, 0.0], dtype=torch.float64)
    guide = SelfGuidance(Observation(MASK, y=y), "ms", 5.0, "ddpm")
    torch.testing.assert_close(
        sample(den, x, solver="ancestral", grid=grid, guidance=guide), sample(den, x, solver="ancestral", grid=grid)
    )


def test_levels_belong_to_the_samples_of_a_window():
    """Two windows of two samples: levels 1/3, 2/3, 1/3, 2/3; a batch that splits a window is refused."""
    torch.testing.assert_close(quantile_levels(4, 2), torch.tensor([1, 2, 1, 2], dtype=torch.float64) / 3)
    with pytest.raises(ValueError, match="all samples of a window"):
        quantile_levels(4, 3)
    den, x, y = setting()
    by_number = SelfGuidance(Observation(MASK, y=y), num_samples=2).wrap(den)(x, TIMES).x0
    by_level = SelfGuidance(Observation(MASK, y=y), levels=quantile_levels(4, 2)).wrap(den)(x, TIMES).x0
    torch.testing.assert_close(by_number, by_level, rtol=0, atol=0)
    assert (by_number - SelfGuidance(Observation(MASK, y=y)).wrap(den)(x, TIMES).x0).abs().max() > 1e-3
    with pytest.raises(ValueError, match="one quantile level a sample"):
        SelfGuidance(Observation(MASK, y=y), levels=torch.ones(3)).wrap(den)(x, TIMES)


def test_quantiles_are_for_time_series():
    process = Process({"pos": (VPSDE(), ZeroMean()), "series": VPSDE()})
    den = Denoiser(lambda x, t, cond: x, process)
    series, pos = (Observation(MASK, y=torch.zeros(1, 3), component=name) for name in ("series", "pos"))
    with pytest.raises(ValueError, match=r"time_series=\('pos',\)"):
        SelfGuidance(pos).wrap(den)
    SelfGuidance(pos, "ms").wrap(den)
    guided = SelfGuidance(series, time_series=("series",)).wrap(den)
    state = {"pos": torch.zeros(4, 3, 3, dtype=torch.float64), "series": torch.ones(4, 3, dtype=torch.float64)}
    assert (guided(state, TIMES).x0["series"] - state["series"]).abs().max() > 0
    with pytest.raises(ValueError, match="loss"):
        SelfGuidance(series, "mae")  # type: ignore[arg-type]
