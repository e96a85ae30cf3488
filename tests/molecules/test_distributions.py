"""Distances against scipy and hand-computed sets, geometry against RDKit, descriptors against closed forms."""

import copy

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdMolTransforms
from scipy import linalg, stats

from molecules.batches import pad_records
from molecules.chemistry import assemble, judge
from molecules.descriptors import descriptor_means, descriptor_table, frechet_descriptor_distance, ring_sizes
from molecules.distributions import collect, compare, total_variation, wasserstein
from molecules.energy import mmff_strain, strain_summary
from molecules.geometry import measure
from molecules.geometry_mmd import gaussian_mmd, geometry_mmd, internal_coordinates
from molecules.harmonize import harmonize, kekulize
from molecules.pb_lite import pb_lite, pb_lite_summary
from tests.molecules.toys import drug_like, from_smiles, make, methane

SMILES = ("CCO", "c1ccccc1O", "CC(=O)NC", "C#CC=C", "C1CC1C=O", "N#Cc1ccncc1", "C=C=CC", "CS(=O)(=O)C", "CC(C)(F)Cl")


@pytest.fixture(scope="module")
def records():
    return [from_smiles(smiles) for smiles in SMILES]


def test_wasserstein_against_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 40, size=300), rng.integers(5, 60, size=500)
    counts = [np.bincount(values, minlength=60) for values in (first, second)]
    assert wasserstein(*counts, 0.25) == pytest.approx(stats.wasserstein_distance(0.25 * first, 0.25 * second))


def test_total_variation_has_no_half():
    assert total_variation(np.array([1, 0]), np.array([0, 7])) == 2.0
    assert total_variation(np.array([3, 1]), np.array([1, 1])) == 0.5
    assert np.isnan(total_variation(np.array([0, 0]), np.array([0, 7])))


def test_a_toy_set_by_hand():
    """Water and methane against water: every number can be written down."""
    pos = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    water = make("O H H", [(0, 1, 1), (0, 2, 1)], pos=pos)
    carbon = make("C H H H H", [(0, k, 1) for k in range(1, 5)], pos=methane().pos)
    mixed, alone = collect([water, carbon]), collect([water])
    assert mixed.bonds.tolist() == [7, 6, 0, 0, 0]
    assert mixed.sizes[3] == 1
    assert mixed.sizes[5] == 1
    found = compare(mixed, alone)
    # Atoms: (H 6, C 1, O 1) / 8 against (H 2, O 1) / 3.
    assert found["atom_tv"] == pytest.approx(abs(6 / 8 - 2 / 3) + 1 / 8 + abs(1 / 8 - 1 / 3))
    # Pairs: (none 7, single 6) / 13 against (none 1, single 2) / 3.
    assert found["bond_tv"] == pytest.approx(2 * abs(7 / 13 - 1 / 3))
    # Lengths: 2 of 1.00 and 4 of 1.09 A against 1.00 A; weight of single bonds 2 / 3.
    assert found["bond_length_w1_single"] == pytest.approx(4 / 6 * 0.09)
    assert found["bond_length_w1"] == pytest.approx(2 / 3 * 4 / 6 * 0.09)
    assert found["size_w1"] == pytest.approx(0.5 * 2)
    # The one angle at oxygen, 90 degrees, is in both sets; carbon is not in the reference.
    assert found["angle_w1"] == 0.0
    assert found["charge_w1"] == 0.0
    assert found["valency_w1"] == 0.0
    assert np.isnan(found["dihedral_w1"])


def test_angle_weights_follow_the_reference():
    """C and O centres, each shifted by a known angle: weights p(a) (1 - P(val 0) - P(val 1)), normalised."""

    def bent(symbol, degrees):
        x = np.radians(degrees)
        return make(
            f"{symbol} H H", [(0, 1, 1), (0, 2, 1)], pos=np.array([[0, 0, 0], [1, 0, 0], [np.cos(x), np.sin(x), 0]])
        )

    reference = collect([bent("O", 100.0), bent("C", 110.0), bent("C", 110.0)])
    generated = collect([bent("O", 103.0), bent("C", 120.0)])
    weights = np.array([1 / 9, 2 / 9])
    expected = (weights * [3.0, 10.0]).sum() / (weights.sum() + 1e-5)
    assert compare(generated, reference)["angle_w1"] == pytest.approx(expected, abs=1e-9)


def test_charges_and_valencies_are_conditional_on_the_element():
    neutral, charged = from_smiles("CN"), from_smiles("C[NH3+]")
    found = compare(collect([charged]), collect([neutral]))
    share = 1 / len(neutral)
    assert found["charge_w1"] == pytest.approx(share)
    assert found["valency_w1"] == pytest.approx(share)


def test_known_bug_2_aromatic_bonds_are_seen_and_nothing_is_mutated():
    """A reference with aromatic bonds differs from a kekulised set, before and after other metrics ran."""
    aromatic, kekulised = from_smiles("c1ccccc1", kekulized=False), from_smiles("c1ccccc1")
    before = copy.deepcopy(aromatic)
    first = compare(collect([kekulised]), collect([aromatic]))["bond_tv"]
    assert first == pytest.approx(2 * 6 / 66)
    assert compare(collect([kekulised]), collect([aromatic]))["bond_tv"] == first
    np.testing.assert_array_equal(aromatic.bonds, before.bonds)
    np.testing.assert_array_equal(aromatic.pos, before.pos)
    assert collect([aromatic]).valencies[6, 8] == 6


def test_statistics_add_up(records):
    whole, parts = collect(records), collect(records[:4]) + collect(records[4:])
    for name in ("atoms", "bonds", "charges", "valencies", "lengths", "angles", "dihedrals", "sizes"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert all(value == 0.0 for value in compare(whole, parts).values())


def test_geometry_against_rdkit(records):
    """Lengths, angles and dihedrals of each molecule equal RDKit's, found by a search with SMARTS."""
    pattern = Chem.MolFromSmarts("[!$(*#*)&!D1]~[!$(*#*)&!D1]")
    flat = (Chem.HybridizationType.SP2, Chem.HybridizationType.SP3)
    for record in records:
        mol = assemble(record)
        Chem.SanitizeMol(mol)
        conformer = mol.GetConformer()
        atoms = mol.GetAtoms()
        around = [[n.GetIdx() for n in atom.GetNeighbors()] for atom in atoms]
        angles = [
            rdMolTransforms.GetAngleDeg(conformer, a, c, b)
            for c in range(len(around))
            for a in around[c]
            for b in around[c]
            if a < b
        ]
        dihedrals = []
        for j, k in mol.GetSubstructMatches(pattern):
            if all(mol.GetAtomWithIdx(i).GetHybridization() in flat for i in (j, k)):
                for i in set(around[j]) - {k}:
                    for end in set(around[k]) - {j, i}:
                        if min(mol.GetAtomWithIdx(x).GetAtomicNum() for x in (i, end)) > 1:
                            dihedrals.append(abs(rdMolTransforms.GetDihedralDeg(conformer, i, j, k, end)))
        found = measure(pad_records([record]))
        lengths = [
            rdMolTransforms.GetBondLength(conformer, b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()
        ]
        np.testing.assert_allclose(np.sort(found.length), np.sort(lengths), atol=1e-9)
        np.testing.assert_allclose(np.sort(found.angle), np.sort(angles), atol=1e-5)
        np.testing.assert_allclose(np.sort(found.dihedral), np.sort(dihedrals), atol=1e-5)


def test_geometry_does_not_depend_on_frame_padding_or_hydrogens(records):
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = [make_like(record, record.pos @ rotation.T + rng.normal(size=3)) for record in records]
    first, second = collect(records), collect(moved)
    # A value on the edge of a bin may change sides: distances are bounded by one bin, not zero.
    assert all(value <= 0.1 for value in compare(first, second).values())
    np.testing.assert_array_equal(
        first.dihedrals, collect([record.without_hydrogens() for record in records]).dihedrals
    )


def make_like(record, pos):
    return type(record)(record.numbers, record.formal_charge, record.bonds, pos, record.explicit_h)


def test_broken_coordinates_are_left_out():
    broken = methane()
    broken.pos[1] = np.nan
    assert collect([broken]).lengths.sum() == 3
    assert collect([broken]).angles.sum() == 3
    assert collect([from_smiles("CCO", embed=False)]).lengths.sum() == 0


def test_types_are_read_from_either_end():
    forward, backward = from_smiles("CCN=O"), from_smiles("O=NCC")
    first, second = (internal_coordinates([record])["dihedral"] for record in (forward, backward))
    assert set(first) == set(second) == {(6, 1, 6, 1, 7, 2, 8)}


def test_mmd_against_a_double_loop():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=8), rng.normal(loc=1.0, size=11)
    pooled = np.concatenate([x, y])
    base = np.mean([(a - b) ** 2 for i, a in enumerate(pooled) for j, b in enumerate(pooled) if i != j]) / 4

    def kernel(a, b):
        return np.mean([sum(np.exp(-((p - q) ** 2) / (base * 2**i)) for i in range(5)) for p in a for q in b])

    assert gaussian_mmd(x, y) == pytest.approx(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    assert gaussian_mmd(x, x.copy()) == pytest.approx(0.0, abs=1e-12)


def test_geometry_mmd_sees_stretched_bonds(records):
    """Longer bonds at the same angles change the lengths' discrepancy only."""
    values = internal_coordinates(records)
    scaled = internal_coordinates([make_like(record, 1.1 * record.pos) for record in records])
    found = geometry_mmd(scaled, values)
    assert geometry_mmd(values, values) == pytest.approx(
        {"mmd_length": 0, "mmd_angle": 0, "mmd_dihedral": 0}, abs=1e-12
    )
    assert found["mmd_length"] > 0.5
    assert found["mmd_angle"] == pytest.approx(0.0, abs=1e-9)
    assert found["mmd_dihedral"] == pytest.approx(0.0, abs=1e-9)


def test_descriptors_of_known_molecules():
    aspirin = judge(from_smiles("CC(=O)Oc1ccccc1C(=O)O")).mol
    means = descriptor_means(descriptor_table([aspirin]))
    # Values of RDKit's documentation and of the QED paper's implementation.
    assert means["mol_weight"] == pytest.approx(180.159, abs=1e-3)
    assert means["logp"] == pytest.approx(1.3101, abs=1e-4)
    assert means["tpsa"] == pytest.approx(63.6, abs=1e-2)
    assert means["lipinski"] == 5
    assert means["aromatic_rings"] == 1
    assert means["rings"] == 1
    assert 0.5 < means["qed"] < 0.6
    assert 0.9 < means["sa"] <= 1.0
    assert ring_sizes([aspirin, judge(methane()).mol]) == {"6": 0.5}


def test_frechet_distance_against_the_matrix_root():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(200, 9)) @ rng.normal(size=(9, 9)), rng.normal(size=(300, 9)) + 1.0
    a, b = (x - y.mean(0)) / y.std(0), (y - y.mean(0)) / y.std(0)
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_descriptor_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_descriptor_distance(y, y) == pytest.approx(0.0, abs=1e-6)


def test_strain_of_a_relaxed_and_of_a_stretched_molecule():
    relaxed = from_smiles("CCO")
    stretched = make_like(relaxed, 1.1 * relaxed.pos)
    low, high = mmff_strain(judge(relaxed).mol), mmff_strain(judge(stretched).mol)
    assert low.strain == pytest.approx(0.0, abs=0.05)
    assert high.strain > 20.0
    assert high.relaxed_energy == pytest.approx(low.relaxed_energy, abs=0.05)
    summary = strain_summary([judge(relaxed).mol, None, judge(from_smiles("OB(O)O")).mol])
    assert summary["energy_validity"] == 0.5
    assert mmff_strain(None) is None


def test_strain_leaves_the_molecule_alone():
    mol = judge(from_smiles("CCO")).mol
    before = mol.GetConformer().GetPositions().copy()
    mmff_strain(mol)
    np.testing.assert_array_equal(mol.GetConformer().GetPositions(), before)


@pytest.mark.parametrize(
    ("smiles", "change", "test"),
    [
        ("CCO", lambda pos: 1.6 * pos, "bond_lengths"),
        ("c1ccccc1", lambda pos: pos + np.eye(len(pos))[0][:, None] * [0, 0, 0.9], "flat_aromatic"),
        ("C1CCCCC1", lambda pos: pos - pos * [0, 0, 1], "non_flat_rings"),
        ("CC=CC", lambda pos: pos + np.eye(len(pos))[0][:, None] * [0, 0, 1.4], "flat_double_bonds"),
    ],
)
def test_every_geometry_check_can_fail(smiles, change, test):
    record = from_smiles(smiles)
    centred = record.pos - record.pos.mean(axis=0)
    flat = centred @ np.linalg.svd(centred)[2].T
    record = make_like(record, flat)
    good = judge(record).mol
    assert all(pb_lite(good).values())
    assert not pb_lite(judge(make_like(record, change(flat))).mol)[test]
    assert pb_lite_summary([good, None])["pb_valid"] == 0.5


def test_clashes_are_found():
    """Hexane folded so that its ends meet, the bonds unchanged."""
    record = from_smiles("CCCCCC", explicit_h=False)
    ring = np.array(
        [[1.53 * np.cos(x), 1.53 * np.sin(x), 0.1 * k] for k, x in enumerate(np.radians(60 * np.arange(6)))]
    )
    folded = judge(make_like(record, ring)).mol
    assert not pb_lite(folded)["clashes"]
    assert pb_lite(folded)["bond_lengths"]


def test_harmonize_changes_only_what_differs(records):
    same = harmonize(records, records)
    assert same[2] == []
    assert same[0] is records
    aromatic = [from_smiles("c1ccccc1O", kekulized=False)]
    generated, reference, notes = harmonize(aromatic, records)
    assert len(notes) == 1
    assert (generated[0].bonds.max(), reference[0] is records[0]) == (2, True)
    assert (aromatic[0].bonds == 4).any()
    generated, reference, notes = harmonize([records[0].without_hydrogens()], records)
    assert len(notes) == 1
    assert not any(record.explicit_h for record in [*generated, *reference])
    broken = make("C C C C C", [(k, (k + 1) % 5, 4) for k in range(5)])
    assert kekulize(broken) is broken


def test_drug_like_set_has_the_recorded_bonds():
    """Shares of the surrogate set: none .95420, single .03190, double .00227, triple 4.9e-5, aromatic .01159."""
    counts = collect(drug_like()).bonds
    np.testing.assert_allclose(counts / counts.sum(), [0.95420, 0.03190, 0.00227, 4.9e-5, 0.01159], atol=6e-6)
