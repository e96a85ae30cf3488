"""Fixed parts: geometry, elements, charges and inner bonds come back exactly, whatever the model does."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from scipy.spatial.distance import pdist

from molecules.fragments import fixed_parts, laid_onto, read_part, scaffold_atoms
from molecules.records import MoleculeRecord, record_of
from tests.molecules.models import small_generator, small_spec


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return mol


@pytest.mark.parametrize("smiles", ["c1cc[nH]c1", "C1CC1", "O"])
def test_fixed_atoms_come_back_exactly(smiles):
    """Ring with kekulised bonds, ring, single atom: first in every molecule, in the given place."""
    mol = embedded(smiles)
    (part,) = fixed_parts(mol, None, 1, small_spec())
    mols = small_generator().sample(5, fixed=mol, steps=4, seed=3)
    k = len(part)
    assert k == Chem.MolFromSmiles(smiles).GetNumAtoms()
    for record in mols:
        assert len(record) > k
        np.testing.assert_array_equal(record.numbers[:k], part.numbers)
        np.testing.assert_array_equal(record.bonds[:k, :k], part.bonds)
        np.testing.assert_array_equal(record.pos[:k], part.pos)


def test_the_sampler_itself_holds_the_shape():
    """Before the molecule is laid onto the part, its first atoms have the part's distances within 1e-4 angstrom."""
    generator, mol = small_generator(), embedded("C1CCOC1")
    part = fixed_parts(mol, None, 1, small_spec())[0]
    drawn = []
    records = generator._records
    generator._records = lambda state, sizes: drawn.extend(records(state, sizes)) or records(state, sizes)
    generator.sample(3, fixed=mol, n_atoms=8, steps=4)
    assert len(drawn) == 3
    for record in drawn:
        np.testing.assert_allclose(pdist(record.pos[: len(part)]), pdist(part.pos), rtol=0, atol=1e-4)


def test_laying_onto_is_a_proper_rigid_motion():
    """Undo a known rotation and translation: exact to rounding; distances and handedness stay."""
    rng = np.random.default_rng(0)
    pos = rng.normal(size=(7, 3))
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    whole = MoleculeRecord(np.full(7, 6), np.zeros(7), np.zeros((7, 7)), pos @ q + [1.0, -2.0, 3.0], explicit_h=False)
    part = MoleculeRecord(np.full(4, 6), np.zeros(4), np.zeros((4, 4)), pos[:4], explicit_h=False)
    np.testing.assert_allclose(laid_onto(whole, part).pos, pos, rtol=0, atol=1e-6)
    alone = laid_onto(whole, MoleculeRecord([6], [0], [[0]], pos[:1], explicit_h=False))  # no turn is needed
    np.testing.assert_allclose(alone.pos - alone.pos[0], whole.pos - whole.pos[0], rtol=0, atol=1e-12)


def test_two_fragments_in_their_pose_and_chosen_atoms():
    """A linker: both ends stay where they are, unbonded to each other; fixed_atoms takes a part of a molecule."""
    first, second = embedded("CO"), embedded("N")
    pair = Chem.CombineMols(first, second)
    nitrogen = first.GetNumAtoms()
    assert pair.GetAtomWithIdx(nitrogen).GetSymbol() == "N"
    mols = small_generator().sample(4, fixed=pair, fixed_atoms=[0, nitrogen], n_atoms=6, steps=3)
    wanted = pair.GetConformer().GetPositions()[[0, nitrogen]]
    for record in mols:
        assert record.numbers[:2].tolist() == [6, 7]
        assert record.bonds[0, 1] == 0
        np.testing.assert_array_equal(record.pos[:2], wanted)


def test_one_part_a_molecule_and_no_influence_of_the_batch():
    parts = [record_of(embedded("C1CC1")).without_hydrogens(), record_of(embedded("CCO")).without_hydrogens()]
    generator = small_generator()
    both = generator.sample(2, fixed=parts, n_atoms=[6, 7], steps=3, seed=[4, 5])
    alone = generator.sample(1, fixed=parts[1], n_atoms=7, steps=3, seed=[5])
    assert len(both[0]) == 6
    np.testing.assert_array_equal(both[1].numbers, alone[0].numbers)
    np.testing.assert_allclose(both[1].pos, alone[0].pos, rtol=0, atol=1e-4)


def test_sizes_lie_above_the_part_in_the_shares_of_the_data():
    """The inverse of the truncated distribution: 2,000 draws against its shares, 4.5 standard errors."""
    generator = small_generator()
    least = np.full(2000, 7)
    from scidiff import random

    sizes = generator._sizes(2000, None, random.seed_table(0, 2000), least)
    counts = {n: c for n, c in small_spec().sizes.items() if n > 7}
    for n, count in counts.items():
        p = count / sum(counts.values())
        assert abs((sizes == n).mean() - p) <= 4.5 * (p * (1 - p) / 2000) ** 0.5
    assert set(sizes.tolist()) <= set(counts)


@pytest.mark.parametrize(
    ("options", "error", "telling"),
    [
        ({"fixed": "C1CC1"}, TypeError, "RDKit molecule or a MoleculeRecord"),
        ({"fixed": Chem.MolFromSmiles("CC")}, ValueError, "finite coordinates"),
        ({"fixed": [embedded("CC")]}, ValueError, "one for each of the 2 samples"),
        ({"fixed": embedded("CP")}, ValueError, "outside the vocabulary"),
        ({"fixed": embedded("CC"), "fixed_atoms": [0, 9]}, ValueError, "from 0 to 7"),
        ({"fixed": embedded("CC"), "fixed_atoms": [7]}, ValueError, "no atoms left"),
        ({"fixed": embedded("CCCC"), "n_atoms": 3}, ValueError, "leave room for the 4 atoms"),
        ({"fixed": embedded("CCCCCCCCC")}, ValueError, "pass n_atoms"),
        ({"fixed_atoms": [0]}, ValueError, "belongs to fixed="),
    ],
    ids=["kind", "flat", "count", "element", "index", "hydrogen", "small", "large", "alone"],
)
def test_bad_parts_are_refused(options, error, telling):
    with pytest.raises(error, match=telling):
        small_generator().sample(2, steps=2, **options)


def test_scaffolds_are_rings_and_what_joins_them():
    """Chains between rings stay, ends go, exocyclic double bonds too; no ring, no scaffold."""
    cases = {"CCc1ccccc1": 6, "C1CC1CCC1CC1": 8, "O=C1CCCC1": 5, "CCO": 0, "C1CC2CC1CC2": 7}
    for smiles, count in cases.items():
        assert len(scaffold_atoms(embedded(smiles))) == count


def test_parts_are_read_from_files(tmp_path):
    """One molecule, two in their pose, the scaffold of one; the elements, bonds and places of the file."""
    toluene, water = embedded("Cc1ccccc1"), embedded("O")
    for name, mols in {"one": [toluene], "two": [toluene, water]}.items():
        with Chem.SDWriter(str(tmp_path / f"{name}.sdf")) as writer:
            for mol in mols:
                writer.write(mol)
    one, two = read_part(tmp_path / "one.sdf"), read_part(tmp_path / "two.sdf")
    assert two.GetNumAtoms() == one.GetNumAtoms() + 3
    scaffold = fixed_parts(read_part(tmp_path / "one.sdf", "scaffold"), None, 1, small_spec())[0]
    assert scaffold.numbers.tolist() == [6] * 6
    assert sorted(scaffold.bonds.sum(0).tolist()) == [3] * 6
    np.testing.assert_allclose(scaffold.pos, toluene.GetConformer().GetPositions()[1:7], rtol=0, atol=1e-4)
    with pytest.raises(FileNotFoundError, match="Expected an SDF"):
        read_part(tmp_path / "none.sdf")
    with Chem.SDWriter(str(tmp_path / "chain.sdf")) as writer:
        writer.write(embedded("CCO"))
    with pytest.raises(ValueError, match="no ring"):
        read_part(tmp_path / "chain.sdf", "scaffold")
