"""Reports: figures of cases that are known, baselines and floors beside them, files and the command."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scidiff.cli import main
from trajectories.baselines import constant_velocity
from trajectories.batch import TrajectoryBatch
from trajectories.data.simulators import simulate, total_energy
from trajectories.evaluate import evaluate
from trajectories.metrics import central_velocities, displacement_errors, marginal_score, velocity_autocorrelation
from trajectories.network_scores import classification_score, prediction_score


def runs(kind, count, frames=12, first=0, **options):
    found = simulate(kind, count, num_frames=frames, first_run=first, **options)
    meta = {"kind": kind, "field": options.get("field", (0, 0, 0))}
    return TrajectoryBatch(found.pos, found.h, found.edge_attr, dt=found.dt, unit="arbitrary", meta=meta)


def forecast_of(truth, seen, errors):
    """K = len(errors) samples a system: what happened, moved by each error in the new frames."""
    pos = truth.pos.repeat_interleave(len(errors), 0)
    moved = torch.tensor(errors).repeat(len(truth))[:, None, None, None] * torch.tensor([0.0, 1.0, 0.0])
    pos = torch.cat([pos[:, :, :seen], pos[:, :, seen:] + moved], 2)
    rows = torch.arange(len(truth)).repeat_interleave(len(errors))
    return replace(truth.index(rows), pos=pos, meta={"cond_frames": seen, "num_samples": len(errors)})


def test_forecast_by_hand():
    """Every displacement is the error that was put in; the baselines are those of the data."""
    truth = runs("charged", 6)
    report = evaluate(forecast_of(truth, 4, [0.1, 0.5]), truth)
    for name in ("ade", "fde"):
        assert report[f"{name}_mean"] == pytest.approx(0.3, rel=1e-4)
        for kind in ("min", "min_agent", "min_scene"):
            assert report[f"{name}_{kind}"] == pytest.approx(0.1, rel=1e-4)
    assert report.figures["ade_mean"].error == pytest.approx(0, abs=1e-6)
    guess = constant_velocity(truth.pos.double().numpy()[:, :, :4], 8)[:, None]
    wanted = displacement_errors(guess, truth.pos[:, :, 4:])["ade_mean"]
    beside = report.figures["ade_mean"].baselines
    assert beside["constant_velocity"] == pytest.approx(wanted)
    assert set(beside) == {"stay", "constant_velocity", "linear"}
    assert report["coverage_50"] == pytest.approx(2 / 3)  # the errors are along one axis of three
    assert report.about["systems"] == 6
    assert "constant velocity" in report.table()


def test_forecasts_of_something_else():
    truth = runs("charged", 4)
    other = forecast_of(truth, 4, [0.1])
    with pytest.raises(ValueError, match="not those of the reference"):
        evaluate(other, runs("charged", 4, first=10))
    with pytest.raises(ValueError, match="do not fit"):
        evaluate(other, truth, num_samples=3)
    with pytest.raises(ValueError, match="nodes"):
        evaluate(other, runs("gravity", 4))


def test_distributions_and_floors():
    """Other runs of the same system score like halves of the reference; frozen ones do not."""
    real, other = (runs("gravity", 40, frames=6, first=first) for first in (0, 500))
    report = evaluate(other, real)
    still = evaluate(replace(other, pos=other.pos[:, :, :1].expand_as(other.pos)), real)
    for name in ("speed_w1", "acceleration_w1", "marginal_score"):
        figure = report.figures[name]
        assert figure.value < 2 * figure.floor  # halves of 20 runs differ more than 40 and 40
        if name != "marginal_score":  # which is blind to what does not move
            assert still[name] > 2 * figure.value
    x, y = (b.pos.double().numpy() for b in (real, other))
    x, y = (v - v.mean((1, 2), keepdims=True) for v in (x, y))
    assert report["marginal_score"] == pytest.approx(marginal_score(x, y))
    assert report["momentum_drift"] < 1e-3


def test_energy_in_a_field():
    """The drift that the report prints is that of the energy with the potential of the field."""
    real = runs("charged", 20, field=(0.0, 0.0, -1.0))
    report = evaluate(real, real)
    v = torch.from_numpy(central_velocities(real.pos, 0.1))
    x = real.pos[:, :, 1:-1].double()
    energy = total_energy("charged", x, v, real.edge_attr) + x[..., 2].sum(1)
    drift = ((energy - energy[:, :1]) / energy[:, :1]).abs()[:, -1]
    assert report["energy_drift"] == pytest.approx(float(np.median(drift.numpy())), rel=1e-6)
    assert report.figures["energy_drift"].floor == report["energy_drift"]
    without = evaluate(replace(real, meta={"kind": "charged"}), replace(real, meta={"kind": "charged"}))
    assert without["energy_drift"] > 2 * report["energy_drift"]


def test_memory_of_velocities():
    """By loops over frames."""
    pos = np.random.default_rng(0).normal(size=(3, 2, 9, 3)).cumsum(2)
    v = np.diff(pos, axis=2)
    wanted = [(v[:, :, : 8 - k] * v[:, :, k:]).sum(-1).mean() for k in range(8)]
    assert velocity_autocorrelation(pos) == pytest.approx(np.array(wanted) / wanted[0])


def test_network_scores():
    """Real trajectories cannot be told from others of the same kind; jumping ones can, and teach less."""
    real, other = runs("spring", 200, frames=6), runs("spring", 200, frames=6, first=1000)
    rough = replace(
        other, pos=other.pos + 0.5 * torch.randn(other.pos.shape, generator=torch.Generator().manual_seed(0))
    )
    same = classification_score(real, other, epochs=8, repeats=1)
    told = classification_score(real, rough, epochs=8, repeats=1)
    assert same.mean > math.log(2) - 0.1
    assert told.mean < 0.35
    good, bad = (prediction_score(b, real, epochs=8, repeats=1).mean for b in (other, rough))
    assert good < bad
    state = torch.random.get_rng_state()
    assert classification_score(real, other, epochs=1, repeats=1) == classification_score(
        real, other, epochs=1, repeats=1
    )
    assert torch.equal(state, torch.random.get_rng_state())


def test_command(tmp_path, monkeypatch, capsys):
    """A table, a JSON file and a picture; what does not fit is one sentence."""
    monkeypatch.chdir(tmp_path)
    truth = runs("charged", 6)
    truth.save("runs.npz")
    forecast_of(truth, 4, [0.1, 0.5]).save("f.npz")
    words = "evaluate f.npz --reference runs.npz --out report.json --plot report.png"
    assert main(["trajectories", *words.split()]) == 0
    assert "ade_min_scene" in capsys.readouterr().out
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["metrics"]["ade_mean"]["value"] == pytest.approx(0.3, rel=1e-4)
    assert found["metrics"]["ade_mean"]["baselines"]["stay"] > 0
    assert found["files"] == {"file": "f.npz", "reference": "runs.npz"}
    assert (tmp_path / "report.png").stat().st_size > 10_000
    assert main(["trajectories", "evaluate", "f.npz", "--reference", "none.npz"]) == 2
    assert "no file none.npz" in capsys.readouterr().err


def test_prepare(tmp_path, monkeypatch, capsys):
    """Every third frame, in pieces of four; the time step grows with it."""
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).normal(size=(30, 2, 2)).astype(np.float32)
    np.save("a.npy", frames)
    words = "prepare a.npy --every 3 --window 4 --dt 0.4 --unit metre --out a.npz"
    assert main(["trajectories", *words.split()]) == 0
    assert "trajectories" in capsys.readouterr().out
    made = TrajectoryBatch.load("a.npz")
    assert (made.dt, made.unit) == (pytest.approx(1.2), "metre")
    assert np.array_equal(made.frames, frames[::3][:8].reshape(2, 4, 2, 2))
    assert main(["trajectories", "prepare", "a.npy", "--window", "31", "--out", "b.npz"]) == 2
    assert "longer than the trajectories" in capsys.readouterr().err
