"""Regression of positions: equations, symmetry, rotations of batches, and learning below the linear baselines."""

import warnings

import pytest
import pytorch_lightning as pl
import torch

from scidiff.nn import get_network
from scidiff.testing import assert_equivariant
from trajectories.data.nbody import NBodyRegression, linear_baselines
from trajectories.regression import PositionRegression

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def egnn(**options):
    return get_network("egnn", 2, edge_channels=2, vector_channels=1, **options)


def module(network, **options):
    return PositionRegression(network, edge_features=("pair", "squared_distance"), **options)


def batch_of(num_runs=6):
    return NBodyRegression(num_train=num_runs, input_frame=1, target_frame=2).part("train")


def test_prediction_is_x_plus_the_vector_of_the_network():
    """Features: charge, speed; product of charges, squared distance; the velocity."""
    torch.manual_seed(0)
    model, batch = module(egnn(hidden=8, num_layers=1)), batch_of()
    pos, vel = batch["pos"], batch["vel"]
    squared = torch.stack([(pos - pos[:, j : j + 1]).square().sum(-1) for j in range(5)], 2)
    h = torch.cat([batch["h"], vel.norm(dim=-1, keepdim=True)], -1)
    edges = torch.cat([batch["edge_attr"], squared[..., None]], -1)
    out = model.network(h, pos, edge_attr=edges, v=vel[:, :, None])
    torch.testing.assert_close(model(batch), pos + out.v[:, :, 0], rtol=0, atol=1e-6)
    assert_equivariant(
        lambda pos, vel: model({**batch, "pos": pos, "vel": vel}),
        (pos, vel),
        kinds=("point", "vector"),
        out="point",
    )


def test_augmentation_turns_everything_alike():
    """Distances and angles to the target stay; the same batch of the same epoch turns the same way."""
    model, batch = module(egnn(hidden=8, num_layers=1), augment=True), batch_of()
    first, again, other = model._turned(batch, 0), model._turned(batch, 0), model._turned(batch, 1)
    assert torch.equal(first["pos"], again["pos"])
    assert not torch.allclose(first["pos"], other["pos"])
    for turned, sign in ((first, 1), (other, -1)):
        for a in ("pos", "vel", "target"):
            for b in ("pos", "vel", "target"):
                products = [torch.einsum("bnd,bmd->bnm", x[a], x[b]) for x in (batch, turned)]
                torch.testing.assert_close(*products, rtol=1e-4, atol=1e-4)
        volumes = [torch.linalg.det(x["pos"][:, :3].double()) for x in (batch, turned)]
        torch.testing.assert_close(volumes[1], sign * volumes[0], rtol=1e-3, atol=1e-4)


def test_learning_rate_and_decay():
    """Adam; warm-up to the peak and cosine to the end; the penalty acts on matrices alone."""
    model = module(egnn(hidden=8, num_layers=1), lr=1e-2, warmup_steps=4, lr_end=0.5, weight_decay=0.1)
    rates = []

    class Record(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])
            assert all(p.ndim > 1 for p in optimizer.param_groups[0]["params"])
            assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0]

    data = NBodyRegression(num_train=20, num_val=2, num_test=2, input_frame=0, target_frame=1, batch_size=2)
    fit(model, data, 1, callbacks=[Record()])
    assert len(rates) == 10
    assert rates[:4] == pytest.approx([1e-2 * k / 4 * cosine(k - 1) for k in (1, 2, 3, 4)])
    assert rates[-1] == pytest.approx(1e-2 * cosine(9))


def cosine(step):
    return float(0.5 + 0.25 * (1 + torch.cos(torch.tensor(torch.pi * step / 10))))


def fit(model, data, epochs, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", limit_val_batches=0, gradient_clip_val=1.0, **QUIET, **options
        )
        trainer.fit(model, datamodule=data)


@torch.no_grad()
def error_of(model, part):
    model.eval()
    return float((model(part) - part["target"]).square().mean())


def ponita(**options):
    return get_network("ponita", 1, vector_channels=1, **options)


def test_networks_beat_the_linear_baseline_within_seconds():
    """200 runs, 2 frames ahead; the bound is the best of the linear baselines, on 100 other runs."""
    data = NBodyRegression(num_train=200, num_test=100, input_frame=30, target_frame=34, batch_size=20)
    linear = linear_baselines(data.part("train"), data.part("test"), duration=0.4)
    torch.manual_seed(0)
    models = {
        "egnn": module(egnn(hidden=16, num_layers=2), lr=5e-3, warmup_steps=20),
        "ponita": PositionRegression(
            ponita(hidden=16, num_layers=2, num_orientations=6),
            node_features=("charge",),
            edge_features=(),
            lr=1e-2,
            warmup_steps=20,
            augment=True,
        ),
    }
    for name, model in models.items():
        fit(model, data, 15)
        assert error_of(model, data.part("test")) < min(linear.values()), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["egnn", "ponita"])
def test_networks_are_four_times_below_the_linear_baseline(name):
    """Charged particles, 3,000 runs, frame 30 to 40; the bound is a quarter of the best linear error, on 2,000 runs."""
    data = NBodyRegression(num_val=1)
    linear = linear_baselines(data.part("train"), data.part("test"))
    torch.manual_seed(0)
    if name == "egnn":
        model = module(egnn(hidden=32, num_layers=4), lr=2e-3, warmup_steps=50)
        fit(model, data, 30)
    else:
        network = ponita(hidden=32, num_layers=3, num_orientations=8, layer_scale=None)
        features = {"node_features": ("charge",), "edge_features": ()}
        model = PositionRegression(network, **features, lr=5e-3, warmup_steps=50, augment=True)
        fit(model, data, 30)
    assert error_of(model, data.part("test")) < min(linear.values()) / 4


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="unknown feature 'mass'"):
        PositionRegression(egnn(), node_features=("mass",))
    with pytest.raises(ValueError, match=r"= \(2, 1, 1\).*got \(2, 2, 1\)"):
        PositionRegression(egnn())
    with pytest.raises(ValueError, match="lr > 0"):
        module(egnn(), lr=0.0)
