"""The network around the Wiener filter: exact for normal data, guided forecasts are linear regression."""

import numpy as np
import pytest
import torch
from torch import nn

from scidiff.configurable import Configurable
from scidiff.oracles import GaussianOracle
from timeseries.data.datamodule import TimeSeriesDataModule
from timeseries.data.series import as_series
from timeseries.data.windows import Windows
from timeseries.diffusion import TimeSeriesDiffusion, make_denoiser
from timeseries.networks import S4Backbone, WienerNetwork
from timeseries.networks.wiener import robust_moments

LENGTH, CHANNELS = 12, 2


def covariance(size: int = LENGTH * CHANNELS) -> torch.Tensor:
    """A stationary process with a period, and noise."""
    d = torch.arange(size, dtype=torch.float64)
    d = (d[:, None] - d).abs()
    return torch.cos(2 * torch.pi * d / 8) * torch.exp(-d / 10) + 0.1 * torch.eye(size, dtype=torch.float64)


def rows(count: int, cov: torch.Tensor, seed: int = 0) -> torch.Tensor:
    z = torch.randn(count, len(cov), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z @ torch.linalg.cholesky(cov).T + 0.3


class Blind(Configurable, nn.Module):
    """A correction that is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Sequential(nn.Linear(1, 1))

    def forward(self, x, t, cond=None):
        return torch.zeros_like(x)


def measured(network: nn.Module | None = None, seed: int = 0) -> WienerNetwork:
    """A network that knows `covariance` up to the error of 20,000 windows."""
    net = WienerNetwork(network, LENGTH, CHANNELS)
    states = rows(20_000, covariance(), seed).unflatten(1, (LENGTH, 1, CHANNELS))
    net.measure(states, torch.ones_like(states, dtype=torch.bool))
    return net.double()


@pytest.mark.parametrize("time", [2e-5, 1e-3, 0.02, 1.0], ids=str)
def test_untrained_network_is_the_wiener_filter(time):
    """Against the exact denoiser of the normal law with the measured moments; S4 starts with no correction."""
    torch.manual_seed(0)
    net = measured(S4Backbone(CHANNELS, width=8, num_layers=1, state_size=4))
    moments = (net.vectors * net.variances) @ net.vectors.T
    den = make_denoiser(net)
    oracle = GaussianOracle(net.mean, moments).denoiser(den.process)
    x = 80 * time * torch.randn(5, LENGTH, 1, CHANNELS, dtype=torch.float64) + 0.5
    t = torch.full((5,), time, dtype=torch.float64)
    wanted = oracle(x.flatten(1), t).x0.reshape(x.shape)
    torch.testing.assert_close(den(x, t).x0, wanted, rtol=1e-7, atol=1e-7)


def test_correction_is_in_units_of_the_error():
    """D = Wiener + U sqrt(rho^2 lambda/(lambda + rho^2)) U^T G with G = 1 everywhere."""
    net, den_time = measured(Blind()), 0.005
    one = measured(Blind())
    one.network.forward = lambda x, t, cond=None: torch.ones_like(x)
    x, t = torch.randn(3, LENGTH, 1, CHANNELS, dtype=torch.float64), torch.full((3,), den_time, dtype=torch.float64)
    difference = make_denoiser(one)(x, t).x0 - make_denoiser(net)(x, t).x0
    rho2 = (80 * den_time) ** 2
    root = (net.vectors * (rho2 * net.variances / (net.variances + rho2)).sqrt()) @ net.vectors.T
    wanted = (root @ torch.ones(LENGTH * CHANNELS, dtype=torch.float64)).reshape(1, LENGTH, 1, CHANNELS)
    torch.testing.assert_close(difference, wanted.expand_as(difference), rtol=1e-8, atol=1e-8)


def test_input_of_the_correction_has_unit_covariance():
    """Noisy normal windows arrive white."""
    net = measured(Blind())
    seen = []
    net.network.forward = lambda x, t, cond=None: seen.append(x) or torch.zeros_like(x)
    x = rows(40_000, covariance(), 1)
    x = (x + 0.4 * rows(40_000, torch.eye(LENGTH * CHANNELS, dtype=torch.float64), 2) - 0.12).unflatten(
        1, (LENGTH, 1, CHANNELS)
    )
    make_denoiser(net)(x, torch.full((len(x),), 0.4 / 80, dtype=torch.float64))
    found = torch.cov(seen[0].flatten(1).T)
    # entries of a sample covariance have standard error 1/sqrt(N) (sqrt(2/N) on the diagonal), for each of two samples
    assert (found - torch.eye(len(found), dtype=torch.float64)).abs().max() < 5 * (2 / 20_000 + 2 / 40_000) ** 0.5


def test_robust_moments_of_normal_rows():
    """Standard errors are about 1/sqrt(N) of the diagonal."""
    cov = covariance()
    mean, found = robust_moments(rows(20_000, cov))
    assert (found - cov).abs().max() < 6 * 1.1 * (2 / 20_000) ** 0.5
    assert (mean - 0.3).abs().max() < 5 * (1.1 / 20_000) ** 0.5


def test_robust_moments_heed_no_outliers():
    """2 % of rows a hundred times larger multiply the sample covariance by 200, and this one by little."""
    cov = covariance()
    x = rows(20_000, cov) - 0.3
    x[:400] *= 100
    assert torch.cov(x.T).diagonal().mean() > 100 * cov.diagonal().mean()
    _, found = robust_moments(x)
    assert (found - cov).abs().max() < 0.15


def test_moments_are_measured_when_training_starts_and_travel():
    """From the training windows; a module that comes with moments keeps them."""
    import pytorch_lightning as pl

    rng = np.random.default_rng(0)
    data = TimeSeriesDataModule.from_series(
        as_series(rng.standard_normal((3, 80)).cumsum(1), "h"),
        prediction_length=4,
        context_length=8,
        batches_per_epoch=1,
    )
    module = TimeSeriesDiffusion(WienerNetwork(S4Backbone(width=8, num_layers=1, state_size=4)), ema=None)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, datamodule=data)
    net = module.denoiser.network
    assert isinstance(net, WienerNetwork)
    assert not net.needs_moments
    assert net.shape == (12, 1, 1)
    windows = data.training_windows(8192)
    state = module.prepare(windows)[0]
    mean, cov = robust_moments(state.flatten(1).double())
    torch.testing.assert_close(net.mean, mean.float())
    torch.testing.assert_close((net.vectors * net.variances) @ net.vectors.T, cov.float(), rtol=1e-3, atol=1e-4)


def test_bad_input():
    with pytest.raises(ValueError, match="without gaps"):
        measured().measure(torch.zeros(4, LENGTH, 1, CHANNELS), torch.zeros(4, LENGTH, 1, CHANNELS, dtype=torch.bool))
    with pytest.raises(ValueError, match="output"):
        WienerNetwork(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="expected windows"):
        measured()(torch.zeros(1, 3, 1, CHANNELS), torch.zeros(1))
    with pytest.raises(ValueError, match="edm"):
        TimeSeriesDiffusion(WienerNetwork(), preset="tsdiff")


def test_windows_is_a_tuple_of_two():
    """`TimeSeriesDataModule.training_windows` gives what `measure` takes."""
    data = TimeSeriesDataModule.from_series(
        as_series(np.arange(60.0)[None], "h"), prediction_length=4, context_length=8, seed=3
    )
    first, second = data.training_windows(16), data.training_windows(16)
    assert isinstance(first, Windows)
    torch.testing.assert_close(first.values, second.values)
    assert first.values.shape == (16, 12, 1, 1)
