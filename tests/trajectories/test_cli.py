"""`scidiff trajectories`: simulations as files, training from configurations, errors in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import trajectories
from scidiff import checkpoint
from scidiff.cli import main
from scidiff.configurable import build
from trajectories.data.simulators import simulate

CONFIGS = sorted((Path(trajectories.__file__).parent / "configs").glob("nbody_*.yaml"))
SHORT = (
    "--trainer.max_steps 2 --trainer.max_epochs 1 --trainer.accelerator cpu --trainer.logger false "
    "--trainer.check_val_every_n_epoch 1 --trainer.enable_progress_bar false --data.init_args.num_train 16 "
    "--data.init_args.num_val 4 --data.init_args.num_test 4 --data.init_args.batch_size 8 "
    "--data.init_args.input_frame 0 --data.init_args.target_frame 1"
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_of_every_regression(path, tmp_path, monkeypatch, capfd):
    """Train, rebuild the network from the user checkpoint, evaluate the Lightning checkpoint."""
    monkeypatch.chdir(tmp_path)
    small = ["--model.init_args.network.init_args.hidden", "16"]
    words = ["-c", path.stem, *SHORT.split(), *small]
    assert main(["trajectories", "fit", *words, "--out", "m.safetensors"]) == 0
    assert "val_loss" in capfd.readouterr().out
    loaded = checkpoint.load("m.safetensors")
    module = build(loaded.config)
    checkpoint.load_state(module, loaded.tensors)
    state = simulate("charged", 2, num_frames=1)
    batch = {"pos": state.pos[:, :, 0], "vel": state.vel[:, :, 0], "h": state.h, "edge_attr": state.edge_attr}
    assert module.eval()(batch).shape == (2, 5, 3)
    (ckpt,) = tmp_path.rglob("last.ckpt")
    assert torch.load(ckpt, weights_only=True)["scidiff_config"] == json.dumps(module.to_config())
    assert main(["trajectories", "test", *words, "--ckpt_path", str(ckpt), "--out", "metrics.json"]) == 0
    assert json.loads(Path("metrics.json").read_text())["test_loss"] > 0


def test_simulate_writes_frames_first(tmp_path, capsys):
    out = tmp_path / "runs.npz"
    words = "simulate --kind spring -n 3 --num-frames 4 --num-bodies 6 --seed 7 --field 0,0,-1 --observation-noise 0.1"
    assert main(["trajectories", *words.split(), "--out", str(out)]) == 0
    assert "spring" in capsys.readouterr().out
    runs = simulate("spring", 3, num_frames=4, num_bodies=6, seed=7, field=(0, 0, -1), observation_noise=0.1)
    with np.load(out) as data:
        assert np.array_equal(data["pos"], runs.pos.transpose(1, 2).numpy())
        assert np.array_equal(data["vel"], runs.vel.transpose(1, 2).numpy())
        assert np.array_equal(data["edge_attr"], runs.edge_attr.numpy())
        assert float(data["dt"]) == pytest.approx(0.1)
        assert str(data["unit"]) == "arbitrary"
        assert json.loads(str(data["meta"]))["kind"] == "spring"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--kind gravty --out a.npz", "did you mean 'gravity'"),
        ("--out a.csv", "must end in .npz"),
        ("--field 1,2 --out a.npz", "three components"),
        ("--field down --out a.npz", "three numbers with commas"),
    ],
    ids=["kind", "suffix", "field", "text"],
)
def test_bad_input_is_one_sentence(words, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["trajectories", "simulate", *words.split()]) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_demo(tmp_path, capfd):
    """Forecasts of the packaged model beat constant velocity by far; every file that is listed is there."""
    assert main(["demo", "trajectories", "--out", str(tmp_path)]) == 0
    assert "forecast.gif" in capfd.readouterr().out
    report = json.loads((tmp_path / "trajectories" / "report.json").read_text())
    error = report["metrics"]["ade_mean"]
    assert error["value"] < 0.4 * error["baselines"]["constant_velocity"]
    for name in ("forecast.npz", "forecast.gif", "forecast.png", "statistics.png"):
        assert (tmp_path / "trajectories" / name).stat().st_size > 5000
