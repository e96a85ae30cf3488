"""Every configuration of a generative model trains, and what it writes can be used."""

from pathlib import Path

import pytest
import torch

import trajectories
from scidiff.cli import main
from trajectories import TrajectoryGenerator
from trajectories.data.simulators import simulate

CONFIGS = sorted((Path(trajectories.__file__).parent / "configs").glob("charged_*.yaml"))
SHORT = (
    "--trainer.max_steps 2 --trainer.max_time null --trainer.max_epochs 1 --trainer.accelerator cpu "
    "--trainer.logger false --trainer.check_val_every_n_epoch 1 --trainer.enable_progress_bar false "
    "--data.init_args.num_train 8 --data.init_args.num_val 2 --data.init_args.batch_size 4 "
    "--model.init_args.network.init_args.hidden 8"
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps(path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["trajectories", "fit", "-c", path.stem, *SHORT.split(), "--out", "m.safetensors"]) == 0
    assert "val_loss" in capfd.readouterr().out
    generator = TrajectoryGenerator.from_pretrained("m.safetensors")
    assert generator.metadata["provenance"]["steps"] == 2
    assert (generator.dt, generator.unit) == (pytest.approx(0.1), "arbitrary")
    runs = simulate("charged", 1, num_frames=10)
    future = generator.forecast(runs.pos[0].transpose(0, 1), 20, h=runs.h, edge_attr=runs.edge_attr, steps=1)
    assert future.pos.shape == (1, 5, 30, 3)
    assert torch.equal(future.pos[:, :, :10], runs.pos)
