"""Facts of the whole prepared QM9; the small checks of the same code are in test_prepare."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from molecules.chemistry import judge
from molecules.data import MoleculeDataset, MoleculeSpec, prepare_qm9
from tests.molecules.toys import data_file

ALL_SIZES = (
    "3:2 4:4 5:4 6:11 7:18 8:57 9:140 10:390 11:889 12:1935 13:3682 14:6405 15:9973 16:13659 17:16892 18:17387 "
    "19:18117 20:12386 21:13151 22:4426 23:6354 24:711 25:1923 26:59 27:356 29:35"
)
TRAIN_HEAVY_SIZES = "1:2 2:5 3:7 4:25 5:90 6:470 7:2372 8:13395 9:82045"
FACTS = {  # part: atoms H C N O F; bonds; the same of heavy atoms; share of charge +1; std explicit, implicit; SMILES
    "train": [
        (0.514066, 0.352470, 0.055521, 0.077943),
        (0.882161, 0.109551, 0.006518, 0.001769),
        (0.725345, 0.114256, 0.160399),
        (0.726071, 0.235647, 0.030109, 0.008173),
        (2.453e-4, 5.049e-4),
        (1.39835, 1.14400),
        98_377,
    ],
    "valid": [
        (0.514277, 0.353618, 0.054553, 0.077552),
        (0.882218, 0.109515, 0.006435, 0.001832),
        (0.728024, 0.112313, 0.159663),
        (0.726035, 0.235744, 0.029752, 0.008469),
        (2.465e-4, 5.075e-4),
        (1.40007, 1.14498),
        17_469,
    ],
    "test": [
        (0.512318, 0.352370, 0.056371, 0.077534, 0.001407),
        (0.881911, 0.109645, 0.006666, 0.001778),
        (0.722539, 0.115590, 0.158985, 0.002886),
        (0.726405, 0.234826, 0.030605, 0.008164),
        (2.671e-4, 5.477e-4),
        (1.39892, 1.14419),
        13_083,
    ],
}


def histogram(text):
    return {int(size): int(count) for size, count in (item.split(":") for item in text.split())}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """QM9 prepared now, with its report."""
    data_file("qm9/qm9_geometries.npz")
    out = tmp_path_factory.mktemp("qm9") / "qm9.npz"
    report = prepare_qm9(None, out)
    return report, MoleculeDataset.from_npz(out)


@pytest.mark.slow
def test_full_set_counts(full):
    report, dataset = full
    assert (report.total, report.kept) == (128_968, 128_966)
    assert report.splits == {"train": 98_411, "valid": 17_472, "test": 13_083}
    assert report.methods == {"order": 128_961, "isomorphism": 5}
    assert [row[:2] for row in report.dropped] == [(133_857, "bond_length"), (133_859, "bond_length")]
    spec = MoleculeSpec.from_dataset(dataset)
    assert spec.sizes == histogram(ALL_SIZES)
    assert spec.valences == {
        "H": {0: {1: 1.0}},
        "C": {-1: {3: 1.0}, 0: {4: 1.0}},
        "N": {-1: {2: 1.0}, 0: {3: 1.0}, 1: {4: 1.0}},
        "O": {-1: {1: 1.0}, 0: {2: 1.0}},
        "F": {0: {1: 1.0}},
    }
    charged = dict.fromkeys(((6, -1), (7, -1), (7, 1), (8, -1)), 0)
    for z, c in charged:
        charged[z, c] = int(((dataset.numbers == z) & (dataset.formal_charge == c)).sum())
    assert charged == {(6, -1): 97, (7, -1): 72, (7, 1): 578, (8, -1): 409}
    assert len(set(dataset.smiles)) == 128_902


@pytest.mark.slow
@pytest.mark.parametrize("part", list(FACTS))
def test_full_set_marginals(full, part):
    dataset = full[1].subset(part)
    atoms, bonds, heavy_atoms, heavy_bonds, charges, std, distinct = FACTS[part]
    explicit, implicit = (MoleculeSpec.from_dataset(d) for d in (dataset, dataset.without_hydrogens()))
    assert explicit.atom_marginal == pytest.approx(atoms, abs=6e-7)
    assert explicit.bond_marginal == pytest.approx(bonds, abs=6e-7)
    assert implicit.atom_marginal == pytest.approx(heavy_atoms, abs=6e-7)
    assert implicit.bond_marginal == pytest.approx(heavy_bonds, abs=6e-7)
    for spec, share in zip((explicit, implicit), charges):
        assert (spec.charge_marginal[0], spec.charge_marginal[2]) == pytest.approx((share, share), abs=6e-8)
    assert (explicit.pos_std, implicit.pos_std) == pytest.approx(std, abs=6e-6)
    assert len(set(dataset.smiles)) == distinct
    if part == "train":
        assert implicit.sizes == histogram(TRAIN_HEAVY_SIZES)


@pytest.mark.slow
def test_five_molecules_of_the_full_set_have_another_numbering(full):
    """Their SMILES is still that of the GDB; id 24 also has its hydrogen before the nitrogen."""
    dataset = full[1]
    with gzip.open(Path(os.environ["SCIDIFF_DATA"]) / "molecules/qm9/qm9_smiles_by_gdb_id.smi.gz", "rt") as file:
        smiles = file.read().split()
    for gdb_id in (23, 24, 486, 52_466, 59_818):
        record = dataset.record(int(np.flatnonzero(dataset.ids == gdb_id)[0]))
        assert judge(record).smiles == Chem.MolToSmiles(Chem.MolFromSmiles(smiles[gdb_id - 1]))
