import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molecules.chemistry import (
    CHEMIST_VALENCES,
    QM9_VALENCES,
    SYMBOLS,
    MoleculeRecord,
    assemble,
    bond_ratios,
    covalent_radii,
    good_geometry,
    judge,
    judge_mol,
    number_of,
    record_of,
    symbol_of,
    within_bond_band,
)

GOOD = ["CCO", "c1ccccc1", "C", "[NH3+]CC([O-])=O", "C[N+](=O)[O-]", "CS(C)=O", "FB(F)F", "[C-]#[O+]", "c1cc[nH]c1"]


class QM9Vocabulary:
    elements = ("H", "C", "N", "O")
    charges = (-1, 0, 1)


def from_smiles(smiles, *, kekulise=True, embed=False):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if embed:
        assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0  # pyright: ignore[reportAttributeAccessIssue]
    if kekulise:
        Chem.Kekulize(mol, clearAromaticFlags=True)
    return record_of(mol)


def record(numbers, bonds=(), charges=None, explicit_h=True):
    """Record from element symbols and (i, j, order) triples."""
    n = len(numbers)
    order = np.zeros((n, n), dtype=int)
    for i, j, k in bonds:
        order[i, j] = order[j, i] = k
    charges = np.zeros(n, dtype=int) if charges is None else np.array(charges)
    return MoleculeRecord(np.array([number_of(s) for s in numbers]), charges, order, None, explicit_h)


def test_symbols_agree_with_rdkit():
    table = Chem.GetPeriodicTable()
    assert [table.GetElementSymbol(z) for z in range(1, 119)] == list(SYMBOLS[1:])
    assert all(number_of(symbol_of(z)) == z for z in range(1, 119))
    assert number_of("CL") == 17
    with pytest.raises(ValueError, match="not an element"):
        number_of("Xx")
    with pytest.raises(ValueError, match=r"1\.\.118"):
        symbol_of(0)


def test_radii_of_known_and_unknown_elements():
    assert covalent_radii(np.array([1, 6, 7, 8, 9, 53, 92])).tolist() == [0.31, 0.76, 0.71, 0.66, 0.57, 1.39, 1.5]


def test_qm9_rows_are_part_of_the_chemist_table():
    for symbol, rows in QM9_VALENCES.items():
        for charge, allowed in rows.items():
            assert set(allowed) <= set(CHEMIST_VALENCES[symbol][charge])


@pytest.mark.parametrize("smiles", GOOD)
@pytest.mark.parametrize("kekulise", [True, False])
def test_good_molecules_are_valid_in_every_form(smiles, kekulise):
    """Kekulised or aromatic, with or without hydrogens: the SMILES is RDKit's own canonical one."""
    expected = Chem.MolToSmiles(Chem.MolFromSmiles(smiles))
    full = from_smiles(smiles, kekulise=kekulise)
    verdict = judge(full)
    assert (verdict.valid, verdict.reason, verdict.smiles, verdict.atoms) == (True, None, expected, ())
    assert verdict.mol is not None
    assert verdict.mol.GetNumAtoms() == len(full)
    if kekulise:
        assert judge(full.without_hydrogens()).smiles == expected


@pytest.mark.parametrize("smiles", GOOD)
def test_record_round_trip(smiles):
    first = from_smiles(smiles)
    second = record_of(assemble(first))
    for name in ("numbers", "formal_charge", "bonds"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.explicit_h
    assert second.explicit_h


def test_assemble_keeps_coordinates_and_does_not_repair():
    first = from_smiles("CCO", embed=True)
    mol = assemble(first)
    assert np.array_equal(mol.GetConformer().GetPositions(), first.pos)
    bare = assemble(record(["C"]))
    Chem.SanitizeMol(bare)
    assert bare.GetAtomWithIdx(0).GetTotalNumHs() == 0
    assert bare.GetAtomWithIdx(0).GetNumRadicalElectrons() == 4


def test_benzene_with_explicit_hydrogens_loses_one():
    """A missing hydrogen is a valence failure of its carbon, not something RDKit may add."""
    full = from_smiles("c1ccccc1")
    verdict = judge(full.take(np.arange(len(full) - 1)))
    assert verdict.reason == "valence:C0=3"
    assert verdict.atoms == (5,)
    assert verdict.detail is not None
    assert "allowed 4" in verdict.detail


FAILURES = [
    (record(["C", "F"], [(0, 1, 1)], explicit_h=False), QM9Vocabulary, "vocabulary", (1,)),
    (record(["N"], charges=[-2], explicit_h=False), QM9Vocabulary, "vocabulary", (0,)),
    (record(["C"]), None, "valence:C0=0", (0,)),
    (record(["N", "H", "H", "H", "H"], [(0, i, 1) for i in range(1, 5)]), None, "valence:N0=4", (0,)),
    (record(["N", "H", "H", "H"], [(0, i, 1) for i in range(1, 4)], [1, 0, 0, 0]), None, "valence:N+1=3", (0,)),
    (record(["O", "H", "H"], [(0, 1, 1), (0, 2, 1)], [-1, 0, 0]), None, "valence:O-1=2", (0,)),
    (record(["C", *"HHHHH"], [(0, i, 1) for i in range(1, 6)], explicit_h=False), None, "valence:C0=5", (0,)),
    (record(["He"]), None, "valence:He0=0", (0,)),
    (record(["H", "H", "H", "H"], [(0, 1, 1), (2, 3, 1)]), None, "fragments:2", (2, 3)),
    (record(["C", "O", "O"], explicit_h=False), None, "fragments:3", (1, 2)),
    (record(["H", "O", "H"], [(0, 1, 4), (1, 2, 4)]), None, "sanitize:AtomKekulizeException", None),
    (record(list("CHHPHO"), [(0, 1, 1), (0, 2, 1), (0, 3, 2), (3, 4, 1), (3, 5, 2)]), None, "bond_change", (3, 5)),
]


@pytest.mark.parametrize(("bad", "vocabulary", "reason", "atoms"), FAILURES, ids=[case[2] for case in FAILURES])
def test_failures_have_their_reason(bad, vocabulary, reason, atoms):
    verdict = judge(bad, vocabulary and vocabulary())
    assert verdict.reason == reason
    assert not verdict.valid
    assert verdict.smiles is None
    assert verdict.mol is None
    assert verdict.detail
    assert atoms is None or verdict.atoms == atoms


def test_radical_needs_a_permissive_table():
    """With the published table that allows trivalent neutral carbon, RDKit's radical electrons are the last guard."""
    methyl = record(["C", "H", "H", "H"], [(0, i, 1) for i in range(1, 4)])
    assert judge(methyl).reason == "valence:C0=3"
    verdict = judge(methyl, valences={"C": {0: (3, 4)}, "H": {0: (1,)}})
    assert (verdict.reason, verdict.atoms) == ("radical", (0,))


def test_hydrogens_that_rdkit_adds_are_reported():
    verdict = judge_mol(Chem.MolFromSmiles("CO"))
    assert (verdict.reason, verdict.atoms) == ("implicit_h", (0, 1))
    assert judge_mol(Chem.MolFromSmiles("CO"), explicit_h=False).smiles == "CO"
    assert judge_mol(Chem.AddHs(Chem.MolFromSmiles("c1cc[nH]c1"))).smiles == "c1cc[nH]c1"
    assert judge_mol(Chem.MolFromSmiles("C[CH2]"), explicit_h=False).reason == "radical"
    assert judge_mol(Chem.MolFromSmiles("[CH3]"), explicit_h=True).reason == "valence:C0=3"


def test_sanitising_that_raises_is_a_reason(monkeypatch):
    """Any exception counts, not the first type of a tuple (a published evaluation caught only one of two)."""

    def fail(mol):
        raise RuntimeError("broken")

    monkeypatch.setattr("molecules.verdict.Chem.SanitizeMol", fail)
    verdict = judge(from_smiles("C"))
    assert (verdict.reason, verdict.detail) == ("sanitize:RuntimeError", "broken")


def test_order_of_reasons():
    """A molecule with several faults shows the first one of the list."""
    faulty = record(["F", "C", "H"], [(1, 2, 1)])
    assert judge(faulty, QM9Vocabulary()).reason == "vocabulary"
    assert judge(faulty).reason == "valence:F0=0"
    assert judge(faulty, valences={"F": {0: (0,)}, "C": {0: (1,)}, "H": {0: (1,)}}).reason == "fragments:2"


def test_only_on_request_the_largest_fragment():
    methane_and_water = record(
        [*"OHH", "C", *"HHHH"], [(0, 1, 1), (0, 2, 1), (3, 4, 1), (3, 5, 1), (3, 6, 1), (3, 7, 1)]
    )
    assert judge(methane_and_water).reason == "fragments:2"
    assert judge(methane_and_water, largest_fragment=True).smiles == "C"
    broken = methane_and_water.take([0, 1, 2, 3, 4, 5, 6])
    assert judge(broken, largest_fragment=True).atoms == (3,)


def test_net_charge_is_reported_not_judged():
    ammonium = record(["N", *"HHHH"], [(0, i, 1) for i in range(1, 5)], [1, 0, 0, 0, 0])
    verdict = judge(ammonium)
    assert verdict.valid
    assert verdict.net_charge == 1


def test_judge_does_not_change_its_input():
    first = from_smiles("c1ccccc1", kekulise=False)
    before = first.bonds.copy()
    judge(first)
    assert np.array_equal(first.bonds, before)


def test_geometry_limits():
    """H2 at 0.62 angstrom is exactly the sum of radii; scaling moves it in and out of the band."""
    hydrogen = record(["H", "H"], [(0, 1, 1)])
    at = lambda ratio: MoleculeRecord(  # noqa: E731
        hydrogen.numbers, hydrogen.formal_charge, hydrogen.bonds, np.array([[0.0, 0, 0], [0.62 * ratio, 0, 0]])
    )
    assert bond_ratios(at(1.0))[0, 1] == pytest.approx(1.0)
    assert [good_geometry(at(ratio)) for ratio in (0.74, 0.76, 1.29, 1.31)] == [False, True, True, False]
    assert [within_bond_band(at(ratio)) for ratio in (0.74, 0.76, 1.24, 1.26)] == [False, True, True, False]
    assert not good_geometry(at(float("nan")))
    with pytest.raises(ValueError, match="no coordinates"):
        good_geometry(hydrogen)


def test_contact_of_unbonded_atoms_is_caught():
    ethanol = from_smiles("CCO", embed=True)
    assert good_geometry(ethanol)
    assert ethanol.pos is not None
    pos = ethanol.pos.copy()
    pos[2] = pos[0] + 0.9  # oxygen beside the other carbon
    moved = MoleculeRecord(ethanol.numbers, ethanol.formal_charge, ethanol.bonds, pos)
    assert not good_geometry(moved)


def test_record_refuses_inconsistent_arrays():
    with pytest.raises(ValueError, match="symmetric"):
        MoleculeRecord(np.array([1, 1]), np.zeros(2), np.array([[0, 1], [0, 0]]))
    with pytest.raises(ValueError, match="shapes"):
        MoleculeRecord(np.array([1, 1]), np.zeros(3), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        MoleculeRecord(np.array([1, 1]), np.zeros(2), np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="bond codes"):
        assemble(record(["H", "H"], [(0, 1, 5)]))
