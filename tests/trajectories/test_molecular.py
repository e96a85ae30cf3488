"""Molecules in motion: internal coordinates against RDKit, temperatures against velocities that were drawn."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from trajectories.molecular import (
    BOLTZMANN,
    KCAL,
    Topology,
    angles,
    bonds_intact,
    frame_temperature,
    masses,
    molecule_scores,
    slow_scores,
)
from trajectories.slow_modes import torsions


@pytest.fixture(scope="module")
def ethanol():
    """The molecule, its atomic numbers and a frame (N, 3)."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    return mol, np.array([a.GetAtomicNum() for a in mol.GetAtoms()]), mol.GetConformer().GetPositions()


def shaken(frame, shape, width, seed=0):
    return frame + width * np.random.default_rng(seed).normal(size=(*shape, *frame.shape))


def test_topology(ethanol):
    """Bonds as RDKit has them, n (n - 1) / 2 angles at an atom of n neighbours, a torsion for C-C and for C-O."""
    mol, z, frame = ethanol
    found = Topology.of(shaken(frame, (50,), 0.05), z)
    assert {tuple(b) for b in found.bonds.tolist()} == {
        tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in mol.GetBonds()
    }
    degrees = [atom.GetDegree() for atom in mol.GetAtoms()]
    assert len(found.angles) == sum(d * (d - 1) // 2 for d in degrees) == 13
    assert [tuple(sorted(t[1:3])) for t in found.torsions.tolist()] == [(0, 1), (1, 2)]
    assert z[found.torsions[0][3]] == 8  # the oxygen, not a hydrogen
    conformer = mol.GetConformer()
    wanted = [rdMolTransforms.GetAngleRad(conformer, *map(int, t)) for t in found.angles]
    assert angles(frame, found.angles) == pytest.approx(wanted, abs=1e-9)
    wanted = [rdMolTransforms.GetDihedralRad(conformer, *map(int, t)) for t in found.torsions]
    assert torsions(frame, found.torsions) == pytest.approx(wanted, abs=1e-9)


def test_temperature_of_drawn_velocities(ethanol):
    """Maxwell velocities without motion of the centre: the mean over many draws is T, its error T sqrt(2 / dof)."""
    _, z, frame = ethanol
    m, count, temperature = masses(z), 4000, 350.0
    v = np.random.default_rng(0).normal(size=(count, len(z), 3)) * np.sqrt(KCAL * BOLTZMANN * temperature / m)[:, None]
    v -= np.einsum("bnd,n->bd", v, m / m.sum())[:, None]
    frames = np.stack([frame + 0 * v, frame + 2.0 * v + 7.0], 1)  # a drift of the whole molecule counts for nothing
    found = frame_temperature(frames, 2.0, z)
    assert found.mean() == pytest.approx(temperature, abs=4 * temperature * (2 / (3 * len(z) - 3) / count) ** 0.5)


def test_scores_of_the_same_and_of_other_motion(ethanol):
    _, z, frame = ethanol
    real, again = shaken(frame, (40, 5), 0.03), shaken(frame, (40, 5), 0.03, seed=1)
    same = molecule_scores(real, real, z, 1.0)
    assert [same[name] for name in ("bond_jsd", "angle_jsd", "torsion_jsd", "ramachandran_jsd")] == pytest.approx(
        [0] * 4
    )
    assert (same["bonds_intact"], same["temperature_ratio"]) == (1.0, 1.0)
    wide = molecule_scores(real, shaken(frame, (40, 5), 0.06), z, 1.0)
    close = molecule_scores(real, again, z, 1.0)
    assert close["bond_jsd"] < wide["bond_jsd"]
    assert wide["temperature_ratio"] == pytest.approx(4.0, rel=0.1)  # (0.06 / 0.03)^2


def test_broken_bonds(ethanol):
    """One bond of one frame out of four stretched beyond 25 %."""
    _, z, frame = ethanol
    bonds = Topology.of(frame, z).bonds
    frames = np.stack([frame] * 4)
    axis = frame[2] - frame[1]
    frames[3, 2] = frame[1] + 1.27 * axis
    near = bonds[(bonds == [1, 2]).all(1)]
    assert bonds_intact(frames, frame[None], near) == 0.75
    frames[3, 2] = frame[1] + 1.24 * axis
    assert bonds_intact(frames, frame[None], near) == 1.0


def test_slow_modes_of_a_torsion_that_flips(ethanol):
    """A hydroxyl that sits in two states: the same process scores better than one that flips ten times as often."""
    mol, z, _ = ethanol
    conformer = mol.GetConformer()

    def run(rate, seed):
        rng, state, frames = np.random.default_rng(seed), 1.0, []
        for _ in range(1500):
            state = -state if rng.random() < rate else state
            rdMolTransforms.SetDihedralRad(conformer, 0, 1, 2, 8, state * 1.2 + 0.1 * rng.normal())
            frames.append(conformer.GetPositions() + 0.01 * rng.normal(size=(9, 3)))
        return np.stack(frames)

    real = run(0.02, 0)
    near, far = (slow_scores(real, run(rate, 1), z, 5) for rate in (0.02, 0.2))
    assert near["decorrelation_error"] < far["decorrelation_error"]
    assert abs(near["vamp2_gap"]) < far["vamp2_gap"]
    assert slow_scores(real, real, z, 5) == pytest.approx(
        {"tica_jsd": 0, "tica_plane_jsd": 0, "vamp2_gap": 0, "decorrelation_error": 0}, abs=1e-9
    )
