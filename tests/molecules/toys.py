"""Small molecules and data files for the tests of the molecule metrics."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

import molecules
from molecules.chemistry import MoleculeRecord, record_of
from molecules.data.dataset import MoleculeDataset


def from_smiles(smiles, *, explicit_h=True, kekulized=True, embed=True):
    """Record of a SMILES with an ETKDG conformer (seed 7)."""
    mol = Chem.MolFromSmiles(smiles)
    if explicit_h or embed:
        mol = Chem.AddHs(mol)
    if embed:
        assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
        AllChem.MMFFOptimizeMolecule(mol, maxIters=500)
    if not explicit_h:
        mol = Chem.RemoveHs(mol)
    if kekulized:
        Chem.Kekulize(mol, clearAromaticFlags=True)
    return record_of(mol, explicit_h=explicit_h)


def make(symbols, bonds, charges=None, pos=None, explicit_h=True):
    """Record from symbols like "C H H" and bonds like [(0, 1, 1)]; atoms 1.1 A apart on a line by default."""
    table = Chem.GetPeriodicTable()
    numbers = np.array([table.GetAtomicNumber(symbol) for symbol in symbols.split()])
    n = len(numbers)
    matrix = np.zeros((n, n), dtype=int)
    for i, j, order in bonds:
        matrix[i, j] = matrix[j, i] = order
    if pos is None:
        pos = np.stack([1.1 * np.arange(n), np.zeros(n), np.zeros(n)], axis=1)
    return MoleculeRecord(
        numbers, np.zeros(n, dtype=int) if charges is None else np.array(charges), matrix, pos, explicit_h
    )


def methane(shift=0.0):
    """CH4 with C-H of 1.09 A."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    pos = 1.09 * np.concatenate([np.zeros((1, 3)), corners])
    pos[:, 0] += shift
    return make("C H H H H", [(0, k, 1) for k in range(1, 5)], pos=pos)


def two_methanes():
    """CH4 + CH4 as one record of two fragments."""
    first, second = methane(), methane(shift=6.0)
    bonds = np.zeros((10, 10), dtype=int)
    bonds[:5, :5], bonds[5:, 5:] = first.bonds, second.bonds
    numbers = np.concatenate([first.numbers, second.numbers])
    return MoleculeRecord(numbers, np.zeros(10, dtype=int), bonds, np.concatenate([first.pos, second.pos]))


def aromatic_water():
    """H:O:H, water with aromatic bonds."""
    return make("O H H", [(0, 1, 4), (0, 2, 4)], pos=np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))


def data_file(name):
    """A file below $SCIDIFF_DATA/molecules; the test is skipped where it is absent."""
    root = os.environ.get("SCIDIFF_DATA")
    path = Path(root or "") / "molecules" / name
    if root is None or not path.is_file():
        pytest.skip(f"{name} is not below $SCIDIFF_DATA")
    return path


def point_clouds(path, split=None):
    """Records without bonds of a flat file of geometries (keys num_atoms, charges = atomic numbers, positions)."""
    with np.load(path, allow_pickle=False) as data:
        counts, numbers, pos = data["num_atoms"].astype(int), data["charges"], data["positions"]
        chosen = np.arange(len(counts)) if split is None else np.flatnonzero(data["split"] == split)
    offset = np.concatenate([[0], np.cumsum(counts)])
    rows = [slice(offset[i], offset[i + 1]) for i in chosen]
    return [
        MoleculeRecord(numbers[row], np.zeros(len(numbers[row])), np.zeros((len(numbers[row]),) * 2), pos[row])
        for row in rows
    ]


def drug_like(limit=None):
    """Records of the drug-like surrogate set, bonds in the aromatic form."""
    with np.load(data_file("drugs_mmff/drugs_mmff.npz"), allow_pickle=False) as data:
        arrays = {key: data[key].astype(float if key == "positions" else int) for key in data.files}
    atoms = np.concatenate([[0], np.cumsum(arrays["num_atoms"])])
    pairs = np.concatenate([[0], np.cumsum(arrays["num_bonds"])])
    records = []
    for k in range(limit or len(arrays["num_atoms"])):
        row, n = slice(atoms[k], atoms[k + 1]), arrays["num_atoms"][k]
        bonds = np.zeros((n, n), dtype=int)
        i, j, order = arrays["bonds"][pairs[k] : pairs[k + 1]].T
        bonds[i, j] = bonds[j, i] = order
        records.append(
            MoleculeRecord(arrays["charges"][row], arrays["formal_charge"][row], bonds, arrays["positions"][row])
        )
    return records


@cache
def packaged(count):
    """Random molecules of the packaged QM9 subset, always the same."""
    dataset = MoleculeDataset.from_npz(Path(molecules.__path__[0]) / "assets" / "qm9_2k.npz")
    return [dataset.record(int(i)) for i in np.random.default_rng(0).permutation(len(dataset))[:count]]
