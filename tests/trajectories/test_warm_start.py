"""A start from other weights takes the network and leaves the walk to the own data."""

import pytorch_lightning as pl
import torch

from scidiff.warm_start import WarmStart
from trajectories.diffusion import TrajectoryDiffusion
from trajectories.generator import TrajectoryGenerator
from trajectories.informed import InformedWalk
from trajectories.networks import VectorEGTN


def module(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = VectorEGTN(0, hidden=8, vector_channels=4, num_layers=1)
    return TrajectoryDiffusion(network, prior=InformedWalk(), prediction="edm")


def fitted(model, speed):
    generator = torch.Generator().manual_seed(1)
    pos = speed * torch.randn(50, 6, 2, 3, generator=generator).cumsum(1)
    given = (torch.arange(6) < 3)[None, :, None].expand(50, 6, 2)
    model.prior.fit([(pos, given, ~given)])
    return model


def test_the_walk_stays(tmp_path):
    path = TrajectoryGenerator(fitted(module(0), 1.0)).save(tmp_path / "start.safetensors")
    own = fitted(module(1), 5.0)
    before = {name: value.clone() for name, value in own.prior.state_dict().items()}
    WarmStart(path).on_fit_start(pl.Trainer(logger=False, enable_checkpointing=False), own)
    for name, value in own.denoiser.network.state_dict().items():
        assert torch.equal(value, module(0).denoiser.network.state_dict()[name])
    for name, value in own.prior.state_dict().items():
        assert torch.equal(value, before[name])
