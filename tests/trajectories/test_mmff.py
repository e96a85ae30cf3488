"""Molecular dynamics: forces against differences, Langevin dynamics against the Boltzmann law of a harmonic well."""

import numpy as np
import pytest
import torch

from scidiff.cli import main
from trajectories.batch import TrajectoryBatch
from trajectories.data.md import molecule_features
from trajectories.data.mmff import MMFFMDDataModule, MolecularSystem, langevin, simulate_molecule
from trajectories.molecular import BOLTZMANN, KCAL, masses


def test_forces_after_a_move():
    """Central differences of the energy of a fresh force field, at positions other than the first."""
    used = MolecularSystem("CCO")
    rng = np.random.default_rng(0)
    used(used.pos)
    x = used.pos + 0.05 * rng.normal(size=used.pos.shape)
    energy, force = used(x)
    assert energy == pytest.approx(MolecularSystem("CCO")(x)[0], abs=1e-9)
    for atom, axis in ((0, 0), (2, 1), (8, 2)):
        step = np.zeros_like(x)
        step[atom, axis] = 1e-5
        slope = (MolecularSystem("CCO")(x + step)[0] - MolecularSystem("CCO")(x - step)[0]) / 2e-5
        assert force[atom, axis] == pytest.approx(-slope, abs=1e-4)


def test_harmonic_well():
    """BAOAB leaves the Boltzmann law of positions in a harmonic well exact, whatever the step: <x^2> = k_B T / k."""
    stiffness, temperature, count = 100.0, 400.0, 3000
    mass = np.full(count, 12.0)
    period = 2 * np.pi * (12.0 / (stiffness * KCAL)) ** 0.5
    run = langevin(
        lambda x: (0.0, -stiffness * x),
        np.zeros((count, 3)),
        mass,
        temperature,
        dt=period / 8,  # coarse: other integrators are some per cent off here
        friction=2 / period,
        steps=40,
        every=40,
        equilibration=160,
        rng=np.random.default_rng(0),
    )
    wanted = BOLTZMANN * temperature / stiffness * (1 - 1 / count)  # the centre of mass is fixed
    assert float(np.mean(run.pos.astype(float) ** 2)) == pytest.approx(wanted, rel=4 * (2 / (3 * count)) ** 0.5)
    assert np.abs(run.pos.astype(float).mean(1)).max() < 1e-6


def test_temperature_of_ethanol():
    """Velocities at the temperature that was asked for, with 3 N - 3 degrees of freedom; one seed, one run."""
    options = {"steps": 20_000, "equilibration": 4000}
    run = simulate_molecule("CCO", 300.0, **options)
    m = masses([6, 6, 8, 1, 1, 1, 1, 1, 1])
    kinetic = np.einsum("fnd,n->f", run.vel.astype(float) ** 2, m) / (KCAL * BOLTZMANN * 24)
    assert kinetic.mean() == pytest.approx(300.0, rel=0.05)
    assert run.dt == 5.0
    assert np.abs(np.einsum("fnd,n->fd", run.pos.astype(float), m / m.sum())).max() < 1e-5
    short = {"steps": 200, "equilibration": 0}
    a, b, c = (simulate_molecule("CCO", t, seed=s, **short) for t, s in ((300.0, 1), (300.0, 1), (300.0, 2)))
    assert np.array_equal(a.pos, b.pos)
    assert not np.array_equal(a.pos, c.pos)


def test_windows_with_their_temperature():
    data = MMFFMDDataModule("CO", [300.0, 600.0], steps=1000, num_frames=5, num_val=4, num_test=4)
    assert [len(data.part(name)) for name in ("train", "val", "test")] == [2 * 56, 8, 8]
    batch = data.part("val")[torch.tensor([0, 7])]
    assert batch["pos"].shape == (2, 6, 5, 3)
    assert batch["condition"].tolist() == [[300.0], [600.0]]
    stride = 16 // 4
    last = data.runs[1].pos[60 + 3 * stride :][:5]
    assert np.array_equal(batch["pos"][1].transpose(0, 1).numpy(), last)
    system = MolecularSystem("CO")
    h, edges = molecule_features(system.z, system.pos)
    assert torch.equal(batch["h"][1], h)
    assert torch.equal(batch["edge_attr"][0], edges)


@pytest.mark.parametrize(("smiles", "message"), [("C(", "one molecule"), ("C.C", "one molecule"), ("[Xe]", "MMFF94")])
def test_molecules_that_cannot_be_simulated(smiles, message):
    with pytest.raises(ValueError, match=message):
        MolecularSystem(smiles)


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "simulate --smiles CO --temperature 350 --num-frames 12 -n 2 --out run.npz"
    assert main(["trajectories", *words.split()]) == 0
    assert "CO" in capsys.readouterr().out
    batch = TrajectoryBatch.load("run.npz")
    assert batch.pos.shape == (2, 6, 12, 3)
    assert (batch.dt, batch.unit, batch.meta["temperature"]) == (5.0, "angstrom", 350.0)
    assert batch.z[0].tolist() == [6, 8, 1, 1, 1, 1]
    assert main(["trajectories", "simulate", "--smiles", "C(", "--out", "a.npz"]) == 2
    assert "one molecule" in capsys.readouterr().err
