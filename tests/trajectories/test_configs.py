"""Every configuration of a generative model trains, and what it writes can be used."""

from pathlib import Path

import pytest
import torch

import trajectories
from scidiff.assets import data_folder
from scidiff.cli import main
from scidiff.denoiser import Denoiser
from trajectories import TrajectoryBatch, TrajectoryGenerator
from trajectories.data.simulators import simulate
from trajectories.networks.egtn import EGTN
from trajectories.process import trajectory_process

FOLDER = Path(trajectories.__file__).parent / "configs"
CONFIGS = [*sorted(FOLDER.glob("charged*.yaml")), FOLDER / "gravity.yaml", FOLDER / "spring.yaml"]
RECORDED = ["benzene", "pedestrians_hotel", "pedestrians_zara2"]
MOLECULES = ["ethanol", "ethanol_all_tasks", "ethanol_interpolation"]
SHORT = (
    "--trainer.max_steps 2 --trainer.max_time null --trainer.max_epochs 1 --trainer.accelerator cpu "
    "--trainer.logger false --trainer.check_val_every_n_epoch 1 --trainer.enable_progress_bar false "
    "--data.init_args.num_train 8 --data.init_args.num_val 2 --data.init_args.batch_size 4 "
    "--model.init_args.network.init_args.hidden 8 --init_from null"
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps(path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["trajectories", "fit", "-c", path.stem, *SHORT.split(), "--out", "m.safetensors"]) == 0
    assert "val_loss" in capfd.readouterr().out
    generator = TrajectoryGenerator.from_pretrained("m.safetensors")
    assert generator.metadata["provenance"]["steps"] == 2
    assert (generator.dt, generator.unit) == (pytest.approx(0.1), "arbitrary")
    runs = simulate("gravity" if path.stem == "gravity" else "charged", 1, num_frames=10)
    future = generator.forecast(runs.pos[0].transpose(0, 1), 20, h=runs.h, edge_attr=runs.edge_attr, steps=1)
    assert future.pos.shape == (1, runs.pos.shape[1], 30, 3)
    assert torch.equal(future.pos[:, :, :10], runs.pos)


@pytest.mark.slow
@pytest.mark.skipif(data_folder() is None, reason="needs the data folder")
@pytest.mark.parametrize("name", RECORDED)
def test_two_steps_on_recorded_data(name, tmp_path, monkeypatch):
    check_two_steps(name, "", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", MOLECULES)
def test_two_steps_on_molecules(name, tmp_path, monkeypatch):
    check_two_steps(name, " --data.init_args.steps 2000 --data.init_args.num_val 4", tmp_path, monkeypatch)


def check_two_steps(name, more, tmp_path, monkeypatch):
    """Trains, writes a model of its data, and says how many steps it took."""
    monkeypatch.chdir(tmp_path)
    words = (
        f"fit -c {name} --trainer.max_steps 2 --trainer.accelerator cpu --trainer.logger false "
        "--trainer.enable_progress_bar false --trainer.limit_val_batches 1 --data.init_args.batch_size 4 "
        "--out m.safetensors" + more
    )
    assert main(["trajectories", *words.split()]) == 0
    generator = TrajectoryGenerator.from_pretrained("m.safetensors")
    assert bool(generator.prior.is_fitted)
    assert generator.metadata["provenance"]["steps"] == 2


def test_verbs(tmp_path, monkeypatch, capfd):
    """Files in, files out; what is known stays; bad input is one sentence and leaves no file."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # an untrained network multiplies its errors with each window of a rollout
        network = EGTN(1, edge_channels=1, hidden=8, num_layers=1)
    denoiser = Denoiser(network, trajectory_process(), prediction="eps")
    TrajectoryGenerator(denoiser, prior="bridge", dt=0.1, unit="arbitrary").save("m.safetensors")
    assert main(["trajectories", "simulate", "-n", "2", "--num-frames", "6", "--out", "runs.npz"]) == 0
    runs = TrajectoryBatch.load("runs.npz")
    common = "--checkpoint m.safetensors --steps 2 --device cpu --out a.npz"
    wanted = {
        "generate --like runs.npz -n 3 --num-frames 4": (3, 4, None),
        "forecast --observed runs.npz -n 2 --num-frames 3": (4, 9, slice(6)),
        "interpolate --frames runs.npz --known=0,1,-1": (2, 6, [0, 1, -1]),
        "refine --frames runs.npz --level 0.2 --known=0,-1 -n 2": (4, 6, [0, -1]),
        "rollout --observed runs.npz --num-frames 5 --window 6 --keep 4": (2, 11, slice(6)),
        "rollout --observed runs.npz --cond-frames 5 --num-frames 5 --window 6 --keep 4 --rolling": (2, 10, slice(5)),
    }
    for words, (count, frames, known) in wanted.items():
        assert main(["trajectories", *words.split(), *common.split()]) == 0
        result = TrajectoryBatch.load("a.npz")
        assert (len(result), result.pos.shape[2]) == (count, frames)
        assert (result.dt, result.unit) == (pytest.approx(0.1), "arbitrary")
        if known is not None:
            rows = torch.arange(2).repeat_interleave(count // 2)
            assert torch.equal(result.pos[:, :, known], runs.pos[rows][:, :, known])
    capfd.readouterr()
    Path("a.npz").unlink()
    TrajectoryBatch(runs.pos, runs.h, runs.edge_attr, dt=0.2).save("slow.npz")
    for words, text in (
        ("forecast --observed runs.npz --condition temperature=300", "without conditions"),
        ("forecast --observed runs.npz --condition hot", "a name and a number"),
        ("interpolate --frames runs.npz --known 0,x", "frame numbers with commas"),
        ("interpolate --frames runs.npz --known 6", "known frames"),
        ("refine --frames runs.npz --level 1.5", "--level must be in (0, 1)"),
        ("forecast --observed slow.npz", "trained on frames 0.1 apart"),
        ("forecast --observed none.npz", "no file none.npz"),
        ("rollout --observed runs.npz", "keep=10"),
        ("rollout --observed runs.npz --rolling --batch-size 2", "--rolling takes no"),
    ):
        assert main(["trajectories", *words.split(), *common.split()]) == 2
        assert text in capfd.readouterr().err
        assert not Path("a.npz").exists()
