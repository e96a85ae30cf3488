"""Data modules of particles and molecules: parts, windows, features, readers."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from trajectories.data.md import MDTrajectoryDataModule, bond_hops, molecule_features, read_md
from trajectories.data.nbody import FIRST_RUN
from trajectories.data.particles import NBodyDataModule
from trajectories.data.simulators import simulate

ROOT = Path(os.environ.get("SCIDIFF_DATA", "missing")) / "trajectories"
needs_md = pytest.mark.skipif(not (ROOT / "mmff_md").is_dir(), reason="needs trajectories/mmff_md under $SCIDIFF_DATA")
BONDS = {"aspirin": 21, "benzene": 12, "ethanol": 8, "malonaldehyde": 8}
BONDS |= {"naphthalene": 19, "salicylic": 16, "toluene": 15, "uracil": 12}


def test_particles():
    data = NBodyDataModule("spring", num_train=20, num_val=3, num_test=4, num_frames=5, batch_size=8)
    data.setup("fit")
    runs = simulate("spring", 3, num_frames=5, first_run=FIRST_RUN["val"])
    (batch,) = data.val_dataloader()
    assert torch.equal(batch["pos"], runs.pos)
    assert torch.equal(batch["edge_attr"], runs.edge_attr)
    batches = list(data.train_dataloader())
    assert [len(b["pos"]) for b in batches] == [7, 7, 6]
    seen = torch.cat([b["pos"] for b in batches])[:, 0, 0, 0]
    assert seen.sort().values.tolist() == data.part("train").tensors["pos"][:, 0, 0, 0].sort().values.tolist()
    assert (data.dt, data.unit) == (pytest.approx(0.1), "arbitrary")


def chain_file(path, frames=100, **arrays):
    """Four atoms 1.5 angstrom apart on a line, and one far away, drifting by 0.1 a frame."""
    line = np.array([[0, 0, 0], [1.5, 0, 0], [3, 0, 0], [4.5, 0, 0], [0, 9, 0]], np.float32)
    pos = line + 0.1 * np.arange(frames, dtype=np.float32)[:, None, None]
    np.savez(path, R=pos, z=np.array([1, 6, 6, 8, 9], np.uint8), **arrays)
    return pos


def test_hops_and_features(tmp_path):
    pos = chain_file(tmp_path / "a.npz", E=np.zeros(100))
    hops = bond_hops(pos[0])
    assert hops[0].tolist() == [0, 1, 2, 3, -1]
    h, edges = molecule_features(np.array([1, 6, 6, 8, 9]), pos[0])
    assert h.shape == (5, 30)
    assert h[1].nonzero().flatten().tolist() == [18, 19, 20]
    assert h[1][18:21].tolist() == pytest.approx([1, 0.6, 0.36])
    assert edges[0].argmax(-1).tolist()[1:] == [1, 2, 3, 0]
    assert edges.sum(-1).tolist() == (1 - torch.eye(5)).tolist()
    with pytest.raises(ValueError, match="H to F"):
        molecule_features(np.array([17]), pos[0, :1])


def test_windows_of_a_trajectory(tmp_path):
    """Original MD17: 0.5 fs, the last frame dropped; parts do not share frames; strides as in the protocol."""
    pos = chain_file(tmp_path / "a.npz", frames=101)
    assert read_md(tmp_path / "a.npz").dt == 0.5
    data = MDTrajectoryDataModule(str(tmp_path / "a.npz"), num_frames=5, num_val=4, num_test=16)
    assert [len(data.part(name)) for name in ("train", "val", "test")] == [56, 4, 16]
    assert data.part("val").starts.tolist() == [60, 64, 68, 72]
    assert data.part("test").starts.tolist() == list(range(80, 96))
    item = data.part("val")[torch.tensor([2, 0])]
    assert item["pos"].shape == (2, 5, 5, 3)
    assert item["pos"].transpose(1, 2).numpy() == pytest.approx(
        pos[[68, 60], None][:, 0, None] + 0.1 * np.arange(5)[:, None, None], abs=1e-5
    )
    assert item["h"].shape == (2, 5, 30)
    sparse = MDTrajectoryDataModule(str(tmp_path / "a.npz"), every=4, num_frames=5, num_val=1, num_test=1)
    assert sparse.dt == 2.0
    assert sparse.part("train").pos.numpy() == pytest.approx(pos[:100:4])
    with pytest.raises(ValueError, match="fewer than the 17 asked for"):
        MDTrajectoryDataModule(str(tmp_path / "a.npz"), num_frames=5, num_test=17).part("test")


def test_kinds_of_files(tmp_path):
    chain_file(tmp_path / "revised.npz", old_index=np.arange(100), idx_train1=np.arange(9))
    revised = read_md(tmp_path / "revised.npz")
    assert revised.dt is None
    assert revised.splits["idx_train1"].tolist() == list(range(9))
    assert len(revised.pos) == 100
    with pytest.raises(ValueError, match="no trajectory"):
        MDTrajectoryDataModule(str(tmp_path / "revised.npz")).part("train")
    np.savez(tmp_path / "b.npz", R=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="must hold R"):
        read_md(tmp_path / "b.npz")


@needs_md
@pytest.mark.parametrize("name", BONDS)
def test_bonds_of_the_molecules(name):
    frames = read_md(ROOT / "mmff_md" / f"{name}.npz")
    assert (bond_hops(frames.pos[0]) == 1).sum() == 2 * BONDS[name]
    assert frames.dt == 5.0
    assert len(frames.pos) == 16_000


@needs_md
def test_ethanol():
    """Protocol of 60 / 20 / 20 %, strides 12 and 3, and the kinetic temperature of N - 1 atoms."""
    data = MDTrajectoryDataModule(str(ROOT / "mmff_md" / "ethanol.npz"))
    assert len(data.part("train")) == 9_571
    assert data.part("val").starts[:2].tolist() == [9_600, 9_612]
    assert data.part("test").starts[:2].tolist() == [12_800, 12_803]
    masses = np.array([0, 1.008, 0, 0, 0, 0, 12.011, 14.007, 15.999])[data.frames.z]
    kinetic = (masses[:, None] * data.frames.vel.astype(np.float64) ** 2).sum((1, 2))
    assert (kinetic / (4.184e-4 * 24 * 0.0019872041)).mean() == pytest.approx(507, abs=1)


@pytest.mark.skipif(not (ROOT / "rmd17").is_dir(), reason="needs trajectories/rmd17 under $SCIDIFF_DATA")
def test_revised_md17():
    frames = read_md(ROOT / "rmd17" / "rmd17_ethanol.npz")
    assert frames.pos.shape == frames.force.shape == (9_633, 9, 3)
    assert frames.energy.shape == (9_633,)
    assert len(frames.splits) == 10
    assert not set(frames.splits["idx_train1"]) & set(frames.splits["idx_test1"])
