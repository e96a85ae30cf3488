"""Files of trajectories: round trips to the printed digits, files of other programs, what cannot be read."""

import numpy as np
import pytest
import torch
from rdkit import Chem

from trajectories.batch import TrajectoryBatch
from trajectories.data.folder import TrajectoryFolder
from trajectories.data.md import molecule_features
from trajectories.io import read_trajectories, write_trajectories

Z = torch.tensor([6, 8, 1, 1])  # formaldehyde
PLACE = torch.tensor([[0.0, 0.0, 0.0], [1.21, 0.0, 0.0], [-0.6, 0.94, 0.0], [-0.6, -0.94, 0.0]])


@pytest.fixture
def molecule():
    """Two trajectories of three frames, shaken a little."""
    noise = 0.03 * torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    return TrajectoryBatch(PLACE[None, :, None] + noise, z=Z.expand(2, 4), dt=2.5, unit="angstrom")


def test_xyz_round_trip(molecule, tmp_path):
    again = read_trajectories(write_trajectories(molecule, tmp_path / "a.xyz"))
    assert again.pos == pytest.approx(molecule.pos, abs=0.51e-8 + 1e-7)  # eight digits, single precision
    assert torch.equal(again.z, molecule.z)
    assert (again.dt, again.unit, again.node_mask) == (2.5, "angstrom", None)
    h, edges = molecule_features(Z.numpy(), PLACE.numpy())
    assert torch.equal(again.h[1], h)
    assert torch.equal(again.edge_attr[0], edges)
    assert edges[2, 1, 2] == 1  # from a hydrogen to the oxygen two bonds


def test_pdb_round_trip_and_rdkit(molecule, tmp_path):
    """Three digits, the same in RDKit; the bonds of the molecule beside it."""
    one = molecule.index(torch.tensor([1]))
    path = write_trajectories(one, tmp_path / "a.pdb")
    again = read_trajectories(path)
    assert again.pos == pytest.approx(one.pos, abs=0.51e-3)
    assert torch.equal(again.z, one.z)
    assert again.dt == 2.5
    mol = Chem.MolFromPDBFile(str(path), removeHs=False, sanitize=False, proximityBonding=False)
    assert mol.GetNumConformers() == 3
    theirs = np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])
    assert theirs == pytest.approx(again.frames[0], abs=1e-6)
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == Z.tolist()
    bonds = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith("CONECT")]
    assert bonds == [["1", "2", "3", "4"], ["2", "1"], ["3", "1"], ["4", "1"]]


def test_particles_and_padding(tmp_path):
    """Nodes that are no atoms, and systems of different size."""
    pos = torch.arange(2 * 3 * 2 * 3, dtype=torch.float32).reshape(2, 3, 2, 3)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    written = write_trajectories(TrajectoryBatch(pos, node_mask=mask), tmp_path / "a.xyz")
    again = read_trajectories(written)
    assert torch.equal(again.pos[0], pos[0])
    assert torch.equal(again.pos[1, :1], pos[1, :1])
    assert torch.equal(again.node_mask, mask)
    assert (again.z, again.dt, again.unit, again.h) == (None, None, None, None)


def test_files_of_others(tmp_path):
    """Columns in another order, plain XYZ, PDB without an element column, arrays of any name."""
    (tmp_path / "a.xyz").write_text(
        '2\nLattice="9 0 0 0 9 0 0 0 9" Properties=forces:R:3:species:S:1:pos:R:3 time=1.0\n'
        "1 2 3 C 0.5 0 0\n1 2 3 H 1.5 0 0\n"
        '2\nLattice="9 0 0 0 9 0 0 0 9" Properties=forces:R:3:species:S:1:pos:R:3 time=3.0\n'
        "1 2 3 C 0.5 1 0\n1 2 3 H 1.5 1 0\n\n"
    )
    ours = read_trajectories(tmp_path / "a.xyz")
    assert ours.frames[0, :, 1].tolist() == [[1.5, 0, 0], [1.5, 1, 0]]
    assert (ours.dt, ours.z.tolist()) == (2.0, [[6, 1]])
    (tmp_path / "b.xyz").write_text("1\nanything at all\n17 1.0 2.0 3.0\n")
    assert read_trajectories(tmp_path / "b.xyz").z.tolist() == [[17]]
    line = "ATOM      1  CA  GLY A   1      11.000  12.000 -13.500  1.00  0.00\n"
    (tmp_path / "c.pdb").write_text(line)
    plain = read_trajectories(tmp_path / "c.pdb")
    assert plain.frames[0, 0].tolist() == [[11.0, 12.0, -13.5]]
    assert plain.z.tolist() == [[6]]
    frames = np.random.default_rng(0).normal(size=(7, 4, 2))
    np.save(tmp_path / "d.npy", frames)
    np.savez(tmp_path / "d.npz", walkers=frames, dt=0.4)
    for name in ("d.npy", "d.npz"):
        assert np.array_equal(read_trajectories(tmp_path / name).frames[0], frames)
    assert read_trajectories(tmp_path / "d.npz").dt == 0.4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", "2\n\nC 0 0 0\n", "line 1: the last frame is incomplete"),
        ("a.xyz", "1\n\nQq 0 0 0\n", "'Qq' is no element"),
        ("a.xyz", "1\n\nC 0 0 0\n2\n\nC 0 0 0\nC 0 0 0\n", "the same atoms"),
        ("a.pdb", "REMARK\n", "holds no frame"),
        ("a.csv", "1,2", "unknown ending"),
    ],
)
def test_what_cannot_be_read(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_trajectories(tmp_path / name)


def test_what_cannot_be_written(molecule, tmp_path):
    flat = TrajectoryBatch(torch.zeros(1, 2, 3, 2))
    for batch, name, message in (
        (flat, "a.xyz", "three dimensions"),
        (molecule, "a.pdb", "one trajectory"),
        (TrajectoryBatch(torch.full((1, 1, 1, 3), 1e4)), "a.pdb", "within 999"),
        (molecule, "a.dcd", "unknown ending"),
    ):
        with pytest.raises(ValueError, match=message):
            write_trajectories(batch, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_folder_by_trajectory(tmp_path):
    """Systems of two sizes: every window is a piece of its own trajectory, with its own features."""
    rng = np.random.default_rng(0)
    for name, count, nodes, frames in (("a", 6, 3, 5), ("b", 4, 2, 7)):
        pos = rng.normal(size=(count, frames, nodes, 2)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", pos=pos, h=np.full((count, nodes, 1), nodes, np.float32), dt=0.4)
    data = TrajectoryFolder(str(tmp_path), num_frames=4, unit="metre")
    assert (data.dt, data.unit) == (0.4, "metre")
    counts = [len(data.part(name)) for name in ("train", "val", "test")]
    assert counts == [6 * 2, 2 * 4, 2 * 4]  # all of a, then two and two of b
    last = data.part("test")[torch.tensor([7])]
    with np.load(tmp_path / "b.npz") as b:
        assert np.array_equal(last["pos"][0, :2].transpose(0, 1).numpy(), b["pos"][3, 3:7])
    assert last["node_mask"].tolist() == [[True, True, False]]
    assert last["h"][0, :, 0].tolist() == [2, 2, 0]


def test_folder_by_time(tmp_path):
    """One long trajectory: the three parts share no frame."""
    np.save(tmp_path / "a.npy", np.arange(200.0).reshape(100, 1, 2))
    data = TrajectoryFolder(str(tmp_path / "a.npy"), num_frames=5, every=2, stride=3, dt=0.5)
    assert data.dt == 1.0
    parts = [data.part(name) for name in ("train", "val", "test")]
    seen = [set(part[torch.arange(len(part))]["pos"].flatten().tolist()) for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen))
    first = data.part("train")[torch.tensor([1])]["pos"][0, 0]
    assert first.tolist() == [[2 * f * 2.0, 2 * f * 2.0 + 1] for f in range(3, 8)]
    with pytest.raises(ValueError, match="no window of 40 frames"):
        TrajectoryFolder(str(tmp_path / "a.npy"), num_frames=40).part("val")
