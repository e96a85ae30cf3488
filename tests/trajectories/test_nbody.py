"""The regression task: frames, parts, batches, and its linear baselines against their definitions."""

import numpy as np
import pytest
import torch

from trajectories.data.batches import Runs, RunSampler
from trajectories.data.nbody import FIRST_RUN, NBodyRegression, linear_baselines
from trajectories.data.simulators import simulate

SMALL = {"num_train": 23, "num_val": 5, "num_test": 7, "input_frame": 2, "target_frame": 4}


def test_parts_are_frames_of_the_simulator():
    """Each part has runs of its own, which do not depend on its size."""
    data = NBodyRegression(**SMALL, batch_size=10)
    data.setup()
    for name, count in {"train": 23, "val": 5, "test": 7}.items():
        part, runs = data.part(name), simulate("charged", count, num_frames=5, first_run=FIRST_RUN[name])
        assert torch.equal(part["pos"], runs.pos[:, :, 2])
        assert torch.equal(part["vel"], runs.vel[:, :, 2])
        assert torch.equal(part["target"], runs.pos[:, :, 4])
        assert torch.equal(part["h"], runs.h)
        assert torch.equal(part["edge_attr"], runs.edge_attr)
    more = NBodyRegression(**{**SMALL, "num_train": 30}).part("train")
    assert torch.equal(more["pos"][:23], data.part("train")["pos"])


def test_batches():
    """Every run once, in batches of nearly equal size; another order in another epoch, the same for the same seed."""
    data = NBodyRegression(**SMALL, batch_size=10)
    batches = list(data.train_dataloader())
    assert sorted(len(batch["pos"]) for batch in batches) == [7, 8, 8]
    seen = torch.cat([batch["pos"] for batch in batches]).flatten(1)
    assert sorted(seen[:, 0].tolist()) == sorted(data.part("train")["pos"].flatten(1)[:, 0].tolist())
    assert torch.equal(torch.cat([batch["pos"] for batch in data.train_dataloader()]).flatten(1), seen)
    assert torch.equal(torch.cat([batch["pos"] for batch in data.val_dataloader()]), data.part("val")["pos"])
    sampler = RunSampler(23, 10, shuffle=True, seed=43)
    first = torch.cat(list(sampler))
    sampler.set_epoch(1)
    assert not torch.equal(torch.cat(list(sampler)), first)
    assert len(Runs(data.part("test"))) == 7


def test_linear_baselines():
    """The least-squares fit equals numpy's, is no worse on its own data, and finds the weights of linear data."""
    part = NBodyRegression(**{**SMALL, "num_train": 200}).part("train")
    errors = linear_baselines(part, part, duration=0.2)
    pos, vel, target = (part[name].double().numpy() for name in ("pos", "vel", "target"))
    assert errors["stay"] == pytest.approx(np.mean((target - pos) ** 2))
    assert errors["constant_velocity"] == pytest.approx(np.mean((target - pos - 0.2 * vel) ** 2))
    columns = np.stack([(pos - pos.mean(1, keepdims=True)).ravel(), vel.ravel()], 1)
    weights = np.linalg.lstsq(columns, (target - pos).ravel(), rcond=None)[0]
    assert errors["least_squares"] == pytest.approx(np.mean(((target - pos).ravel() - columns @ weights) ** 2))
    assert errors["least_squares"] <= errors["fitted_velocity"] <= min(errors["stay"], errors["constant_velocity"])
    centred = part["pos"] - part["pos"].mean(1, keepdim=True)
    exact = {**part, "target": part["pos"] + 0.3 * centred - 2.0 * part["vel"]}
    assert linear_baselines(exact, exact)["least_squares"] < 1e-12


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="must be positive"):
        NBodyRegression(num_train=0)
    with pytest.raises(ValueError, match="input_frame < target_frame"):
        NBodyRegression(input_frame=4, target_frame=4)
    with pytest.raises(ValueError, match="no system 'spin'"):
        NBodyRegression("spin").setup()
