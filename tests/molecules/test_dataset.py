import json

import numpy as np
import pytest

from molecules.chemistry import MoleculeRecord, judge
from molecules.data import MoleculeDataset, MoleculeSpec, packaged_qm9
from molecules.data.spec import coordinate_std
from scidiff.configurable import Configurable


@pytest.fixture(scope="module")
def dataset():
    return packaged_qm9()


def water(pos=None):
    bonds = np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]])
    pos = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) if pos is None else pos
    return MoleculeRecord(np.array([8, 1, 1]), np.zeros(3), bonds, pos)


def cyanide():
    """[C-]#N, with a charge and no hydrogen."""
    return MoleculeRecord(np.array([6, 7]), np.array([-1, 0]), np.array([[0, 3], [3, 0]]), np.eye(2, 3))


def same(first, second):
    names = ("sizes", "numbers", "formal_charge", "positions", "num_bonds", "bonds", "ids", "split")
    return all(np.array_equal(getattr(first, n), getattr(second, n)) for n in names) and (
        (first.smiles, first.explicit_h, first.meta) == (second.smiles, second.explicit_h, second.meta)
    )


def test_records_go_in_and_come_out():
    records = [water(), cyanide(), water()]
    dataset = MoleculeDataset.from_records(records)
    assert (len(dataset), dataset.sizes.tolist(), dataset.num_bonds.tolist()) == (3, [3, 2, 3], [2, 1, 2])
    assert (dataset.numbers.dtype, dataset.formal_charge.dtype, dataset.positions.dtype) == ("uint8", "int8", "float32")
    for k, record in enumerate(records):
        found = dataset.record(k)
        assert np.array_equal(found.numbers, record.numbers)
        assert np.array_equal(found.formal_charge, record.formal_charge)
        assert np.array_equal(found.bonds, record.bonds)
        assert found.pos == pytest.approx(record.pos, abs=1e-6)
    assert np.array_equal(dataset.record(-2).numbers, [6, 7])
    assert dataset.valences().tolist() == [2, 1, 1, 3, 3, 2, 1, 1]


def test_save_and_load(dataset, tmp_path):
    part = dataset.subset(np.arange(50))
    path = part.save(tmp_path / "deep" / "part.npz")
    assert same(MoleculeDataset.from_npz(path), part)
    assert MoleculeDataset.is_prepared(path)
    assert [file.name for file in path.parent.iterdir()] == ["part.npz"]


def test_failed_save_keeps_the_old_file(dataset, tmp_path):
    path = dataset.subset([0]).save(tmp_path / "a.npz")
    before = path.read_bytes()
    broken = dataset.subset([1])
    broken.meta = {"not json": object()}
    with pytest.raises(TypeError):
        broken.save(path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"\.npz"):
        dataset.subset([0]).save(tmp_path / "a.dat")


def test_wrong_files_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare"):
        MoleculeDataset.from_npz(tmp_path / "absent.npz")
    np.savez(tmp_path / "raw.npz", num_atoms=np.array([1]))
    with pytest.raises(ValueError, match="no prepared file"):
        MoleculeDataset.from_npz(tmp_path / "raw.npz")
    assert not MoleculeDataset.is_prepared(tmp_path / "raw.npz")


def test_subset_by_index_mask_and_split(dataset):
    index = np.array([7, 3, 3])
    part = dataset.subset(index)
    for k, source in enumerate(index):
        assert np.array_equal(part.record(k).bonds, dataset.record(source).bonds)
        assert np.array_equal(part.record(k).pos, dataset.record(source).pos)
        assert part.smiles[k] == dataset.smiles[source]
        assert part.ids[k] == dataset.ids[source]
    mask = np.zeros(len(dataset), dtype=bool)
    mask[[3, 7]] = True
    assert same(dataset.subset(mask), dataset.subset([3, 7]))
    assert [len(dataset.subset(name)) for name in ("train", "valid", "test")] == [1600, 200, 200]
    assert len(dataset.subset(np.zeros(len(dataset), dtype=bool))) == 0
    with pytest.raises(ValueError, match="train, valid, test"):
        dataset.subset("validation")
    with pytest.raises(ValueError, match="no split"):
        MoleculeDataset.from_records([water()]).subset("train")
    with pytest.raises(IndexError):
        dataset.record(len(dataset))


def test_concatenate_inverts_subset(dataset):
    parts = [dataset.subset(np.arange(0, 700)), dataset.subset(np.arange(700, 2000))]
    assert same(MoleculeDataset.concatenate(parts), dataset)
    with pytest.raises(ValueError, match="same kind"):
        MoleculeDataset.concatenate([parts[0], parts[1].without_hydrogens()])


def test_without_hydrogens_agrees_with_the_records(dataset):
    """Flat arrays against the record's own removal, one molecule at a time; four molecules interleave hydrogens."""
    heavy = dataset.without_hydrogens()
    assert not heavy.explicit_h
    is_hydrogen = [dataset.record(k).numbers == 1 for k in range(len(dataset))]
    assert sum(bool((np.diff(flags.astype(int)) < 0).any()) for flags in is_hydrogen) == 4
    for k in range(len(dataset)):
        expected, found = dataset.record(k).without_hydrogens(), heavy.record(k)
        for name in ("numbers", "formal_charge", "bonds", "pos"):
            assert np.array_equal(getattr(expected, name), getattr(found, name))
    assert heavy.numbers.min() == 6


def test_hydrogen_alone_vanishes():
    h2 = MoleculeRecord(np.array([1, 1]), np.zeros(2), np.array([[0, 1], [1, 0]]), np.eye(2, 3))
    heavy = MoleculeDataset.from_records([water(), h2, cyanide()], smiles=["O", "[HH]", "[C-]#N"]).without_hydrogens()
    assert heavy.sizes.tolist() == [1, 2]
    assert heavy.smiles == ["O", "[C-]#N"]


def test_lengths_are_checked():
    arguments = [[2], [6, 7], [0, 0], np.zeros((2, 3)), [1], [[0, 1, 3]]]
    assert len(MoleculeDataset(*map(np.array, arguments))) == 1
    for position, wrong in ((1, [6]), (2, [0]), (3, np.zeros((3, 3))), (4, [2]), (5, [])):
        changed = [*arguments]
        changed[position] = wrong
        with pytest.raises(ValueError, match="must have"):
            MoleculeDataset(*map(np.array, changed))
    with pytest.raises(ValueError, match="one entry"):
        MoleculeDataset(*map(np.array, arguments), split=np.array([0, 1]))
    with pytest.raises(ValueError, match="coordinates"):
        MoleculeDataset.from_records([MoleculeRecord(np.array([6]), np.zeros(1), np.zeros((1, 1)))])
    with pytest.raises(ValueError, match="at least one"):
        MoleculeDataset.from_records([])


def test_packaged_molecules_are_all_valid(dataset):
    """Strict validity of every molecule, with hydrogens and without, and the stored SMILES is that of the verdict."""
    heavy = dataset.without_hydrogens()
    for k in range(len(dataset)):
        verdict = judge(dataset.record(k))
        assert verdict.valid, (dataset.ids[k], verdict.reason)
        assert verdict.smiles == dataset.smiles[k]
        assert judge(heavy.record(k)).smiles == dataset.smiles[k]


def test_packaged_counts(dataset):
    """Counts of the packaged subset, taken from it on the day it was made (the full set's are in test_prepare)."""
    assert len(dataset.numbers) == 36_232
    assert {z: int((dataset.numbers == z).sum()) for z in (1, 6, 7, 8)} == {1: 18_675, 6: 12_728, 7: 1_985, 8: 2_844}
    assert np.bincount(dataset.bonds[:, 2]).tolist() == [0, 34_803, 2_069, 558]
    assert [(dataset.formal_charge == c).sum() for c in (-1, 1)] == [7, 7]
    assert len(set(dataset.smiles)) == 2_000


def test_spec_of_a_toy_by_hand():
    """Two waters and a cyanide: 8 atoms, 7 pairs, every share countable."""
    moved = water(np.array([[0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]]) + 5.0)
    spec = MoleculeSpec.from_dataset(MoleculeDataset.from_records([moved, moved, cyanide()]))
    assert spec.elements == ("H", "C", "N", "O")
    assert (spec.charges, spec.numbers, spec.max_atoms) == ((-1, 0), (1, 6, 7, 8), 3)
    assert spec.sizes == {2: 1, 3: 2}
    assert spec.atom_marginal == pytest.approx((4 / 8, 1 / 8, 1 / 8, 2 / 8))
    assert spec.charge_marginal == pytest.approx((1 / 8, 7 / 8))
    assert spec.charge_given_atom == ((0.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 1.0))
    assert spec.bond_marginal == pytest.approx((2 / 7, 4 / 7, 0, 1 / 7))
    assert spec.valences == {"H": {0: {1: 1.0}}, "C": {-1: {3: 1.0}}, "N": {0: {3: 1.0}}, "O": {0: {2: 1.0}}}
    # Components, centred: each water has two of length 1 (sum of squares 2), cyanide four of 1/2 (sum 1).
    assert spec.pos_std == pytest.approx((5 / 24) ** 0.5, rel=1e-6)
    assert (spec.num_atom_classes, spec.num_charge_classes, spec.num_bond_classes) == (4, 2, 4)


def test_spec_of_the_packaged_set(dataset):
    """Recorded from the packaged 2,000 molecules; the standard deviation is within its sampling error of 1.39835."""
    spec = MoleculeSpec.from_dataset(dataset)
    assert spec.atom_marginal == pytest.approx((0.5154284, 0.3512917, 0.0547858, 0.0784941), abs=1e-7)
    assert spec.bond_marginal == pytest.approx((0.8823222, 0.1094186, 0.0065048, 0.0017543), abs=1e-7)
    assert spec.pos_std == pytest.approx(1.4036925, abs=1e-6)
    assert coordinate_std(dataset.without_hydrogens()) == pytest.approx(1.1504059, abs=1e-6)
    assert sum(spec.atom_marginal) == pytest.approx(1.0)
    assert sum(spec.bond_marginal) == pytest.approx(1.0)
    expected = np.array(spec.charge_given_atom).T @ np.array(spec.atom_marginal)
    assert spec.charge_marginal == pytest.approx(expected.tolist())


def test_spec_survives_json_and_config(dataset):
    spec = MoleculeSpec.from_dataset(dataset)
    assert MoleculeSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert Configurable.from_config(json.loads(json.dumps(spec.to_config()))) == spec
    assert spec.provenance["molecules"] == 2_000
    with pytest.raises(ValueError, match="keys"):
        MoleculeSpec.from_dict({"elements": ["C"]})
    with pytest.raises(ValueError, match="one share"):
        MoleculeSpec.from_dict({**spec.to_dict(), "elements": ["C"]})
    with pytest.raises(ValueError, match="empty"):
        MoleculeSpec.from_dataset(dataset.subset(np.zeros(len(dataset), dtype=bool)))


def test_spec_counts_aromatic_bonds_as_a_fifth_class():
    bonds = np.zeros((6, 6), dtype=int)
    ring = np.arange(6)
    bonds[ring, (ring + 1) % 6] = bonds[(ring + 1) % 6, ring] = 4
    benzene = MoleculeRecord(np.full(6, 6), np.zeros(6), bonds, np.eye(6, 3), explicit_h=False)
    dataset = MoleculeDataset.from_records([benzene])
    spec = MoleculeSpec.from_dataset(dataset)
    assert spec.bond_classes[-1] == "aromatic"
    assert spec.bond_marginal == pytest.approx((9 / 15, 0, 0, 0, 6 / 15))
    assert dataset.valences().tolist() == [3] * 6


def test_positions_in_the_vocabulary(dataset):
    spec = MoleculeSpec.from_dataset(dataset)
    assert spec.atom_index(np.array([[1, 8], [9, 6]])).tolist() == [[0, 3], [-1, 1]]
    assert spec.charge_index(np.array([-2, -1, 0, 1, 2])).tolist() == [-1, 0, 1, 2, -1]
    fluoride = MoleculeRecord(np.array([1, 9]), np.zeros(2), np.array([[0, 1], [1, 0]]), np.eye(2, 3))
    assert spec.covers(MoleculeDataset.from_records([water(), fluoride, cyanide()])).tolist() == [True, False, True]
