"""A minute of training on a CPU, in the scale of the packaged models."""

import pytest
import pytorch_lightning as pl
import torch

from trajectories.baselines import constant_velocity
from trajectories.batch import TrajectoryBatch
from trajectories.data.particles import NBodyDataModule
from trajectories.diffusion import TrajectoryDiffusion
from trajectories.generator import TrajectoryGenerator
from trajectories.informed import InformedWalk
from trajectories.networks import VectorEGTN


@pytest.mark.slow
def test_a_minute_beats_constant_velocity():
    """Charged particles, 10 frames to 20 more: the error of a single sample is below 0.9 of constant velocity's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VectorEGTN(1, edge_channels=1, hidden=32, vector_channels=16, num_layers=3)
    model = TrajectoryDiffusion(network, prior=InformedWalk(), prediction="edm", lr=2e-3, ema=0.99)
    data = NBodyDataModule("charged", num_val=64, batch_size=32)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    options |= {"enable_model_summary": False, "limit_val_batches": 0, "gradient_clip_val": 1.0}
    pl.Trainer(max_steps=300, **options).fit(model, data)
    tensors = data.part("val").tensors
    pos = tensors["pos"]
    seen = TrajectoryBatch(pos[:, :, :10], tensors["h"], tensors["edge_attr"])
    drawn = TrajectoryGenerator(model).forecast(seen, 20, steps=10).pos[:, :, 10:]
    straight = torch.from_numpy(constant_velocity(pos[:, :, :10].numpy(), 20))
    ours, theirs = ((guess - pos[:, :, 10:]).norm(dim=-1).mean() for guess in (drawn, straight))
    assert ours < 0.9 * theirs
