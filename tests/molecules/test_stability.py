"""Stability protocols against hand-made molecules, the published tables and recorded numbers on real data.

"Known bug" numbers are those of the list of evaluation errors found in published code.
"""

import copy
import math

import numpy as np
import pytest
import torch

from molecules import stability_tables as tables
from molecules.batches import pad_records, padded_batches
from molecules.chemistry import number_of, symbol_of
from molecules.stability import (
    CORRECTED_TABLES,
    corrected_stability,
    edm_bond_orders,
    edm_stability,
    legacy_stability,
    set_stability,
)
from tests.molecules.toys import (
    aromatic_water,
    data_file,
    drug_like,
    from_smiles,
    make,
    methane,
    point_clouds,
    two_methanes,
)


def stable(record, **options):
    return bool(set_stability([record], **options)[1][0])


def test_edm_orders_follow_the_table_at_the_margins():
    """Each listed length plus its margin is the first distance (pm) that no longer has that order."""
    levels = ((tables.EDM_SINGLE, 1), (tables.EDM_DOUBLE, 2), (tables.EDM_TRIPLE, 3))
    for (table, order), margin in zip(levels, (10, 5, 3)):
        for first, row in table.items():
            for second, length in row.items():
                numbers = np.array([number_of(first), number_of(second)])
                below, above = [
                    edm_bond_orders(numbers, np.array([[0.0, 0, 0], [0, (length + margin + shift) / 100, 0]]))[0, 1]
                    for shift in (-1e-3, 1e-3)
                ]
                assert below >= order
                assert above < order


def test_edm_tables_have_the_published_sizes():
    assert sum(map(len, tables.EDM_SINGLE.values())) == 64
    assert sum(map(len, tables.EDM_DOUBLE.values())) == 9
    assert sum(map(len, tables.EDM_TRIPLE.values())) == 4


def test_edm_orders_match_a_plain_loop():
    rng = np.random.default_rng(0)
    numbers = rng.choice([1, 6, 7, 8, 9, 16, 35], size=12)
    pos = rng.uniform(0, 3.0, size=(12, 3))

    def order(a, b, distance):
        pair = (symbol_of(a), symbol_of(b))

        def find(table):
            for x, y in (pair, pair[::-1]):
                if y in table.get(x, {}):
                    return table[x][y]
            return None

        one, two, three = find(tables.EDM_SINGLE), find(tables.EDM_DOUBLE), find(tables.EDM_TRIPLE)
        if one is None or distance >= one + 10:
            return 0
        if two is None or distance >= two + 5:
            return 1
        return 3 if three is not None and distance < three + 3 else 2

    expected = [
        [0 if i == j else order(numbers[i], numbers[j], 100 * math.dist(pos[i], pos[j])) for j in range(12)]
        for i in range(12)
    ]
    np.testing.assert_array_equal(edm_bond_orders(numbers, pos), expected)


def test_edm_stability_of_methane_and_of_a_stretched_one():
    good, bad = methane(), methane()
    bad.pos[1] *= 1.5
    atoms, molecules = set_stability([good, bad], "edm")
    assert atoms.tolist() == [5, 3]
    assert molecules.tolist() == [True, False]


def test_padding_does_not_change_the_verdicts():
    records = [from_smiles(smiles) for smiles in ("C", "CCO", "c1ccccc1", "C#N", "CC(=O)[O-]")]
    together = pad_records(records)
    for name in ("edm", "legacy-midi", "corrected"):
        alone = [set_stability([record], name)[0][0] for record in records]
        assert set_stability(records, name)[0].tolist() == alone
    result = corrected_stability(together.numbers, together.formal_charge, together.bonds)
    assert not result.atom_stable[~together.mask].any()
    assert result.atom_share == 1.0
    assert result.molecule_share == 1.0


def test_batches_cover_every_record_once():
    records = [methane(), from_smiles("CCO"), methane(), from_smiles("c1ccccc1")]
    index = np.concatenate([batch.index for batch in padded_batches(records, max_pairs=60)])
    assert sorted(index.tolist()) == [0, 1, 2, 3]
    assert len(list(padded_batches(records, max_pairs=60))) == 3


def test_tensors_are_accepted():
    batch = pad_records([methane()])
    result = edm_stability(torch.tensor(batch.numbers), torch.tensor(batch.pos))
    assert result.molecule_stable.tolist() == [True]


@pytest.mark.parametrize("code", [4, 1.5])
def test_known_bug_1_aromatic_bonds_are_not_single(code):
    """H:O:H passes as water where 1.5 is stored into integers; benzene must pass in both notations."""
    for record, expected in ((aromatic_water(), False), (from_smiles("c1ccccc1", kekulized=False), True)):
        batch = pad_records([record])
        bonds = np.where(batch.bonds == 4, code, batch.bonds)
        assert corrected_stability(batch.numbers, batch.formal_charge, bonds).molecule_stable[0] == expected
        aromatic = corrected_stability(batch.numbers, batch.formal_charge, bonds, table="aromatic")
        assert aromatic.molecule_stable[0] == expected
        assert legacy_stability(batch.numbers, batch.formal_charge, bonds).molecule_stable[0]


def test_known_bug_2_input_is_never_written_to():
    record = from_smiles("c1ccccc1", kekulized=False)
    before = copy.deepcopy(record)
    batch = pad_records([record])
    batch.bonds.setflags(write=False)
    for array in (record.numbers, record.formal_charge, record.bonds, record.pos):
        array.setflags(write=False)
    legacy_stability(batch.numbers, batch.formal_charge, batch.bonds)
    for name in ("edm", "legacy-midi", "corrected"):
        set_stability([record], name)
    np.testing.assert_array_equal(record.bonds, before.bonds)
    assert (record.bonds == 4).sum() == 12


def test_known_bug_3_permissive_valences_and_charge_fallback():
    methyl = make("C H H H", [(0, 1, 1), (0, 2, 1), (0, 3, 1)])
    charged = make("C H H H H", [(0, k, 1) for k in range(1, 5)], charges=[5, 0, 0, 0, 0])
    imine = make("N H H", [(0, 1, 1), (0, 2, 1)])
    for record in (methyl, charged, imine):
        assert stable(record, protocol="legacy-midi")
        for table in CORRECTED_TABLES:
            assert not stable(record, table=table)
    assert not stable(charged, protocol="legacy-midi", unlisted_charge="unstable")
    assert stable(methyl, protocol="legacy-midi", unlisted_charge="unstable")


@pytest.mark.parametrize("table", CORRECTED_TABLES)
def test_textbook_molecules_are_stable(table):
    for smiles in ("C", "O", "C#N", "CC(=O)N", "[O-][N+](=O)C", "[C-]#[N+]C", "C=C", "FC(F)F"):
        assert stable(from_smiles(smiles), table=table), smiles


def test_chemist_table_differs_from_the_published_ones_where_it_says():
    sulfoxide, sulfur_three = from_smiles("CS(=O)C"), make("S H H H", [(0, k, 1) for k in (1, 2, 3)])
    assert [stable(sulfoxide, table=name) for name in ("chemist", "kekulised", "aromatic")] == [True, False, False]
    assert [stable(sulfur_three, table=name) for name in ("chemist", "kekulised", "aromatic")] == [False, True, True]
    assert not stable(sulfoxide, table="qm9")


def test_implicit_hydrogens_fill_open_valences():
    record = from_smiles("CC(=O)N", explicit_h=False)
    assert stable(record)
    too_much = make("O C C C", [(0, 1, 1), (0, 2, 1), (0, 3, 1)], explicit_h=False)
    assert not stable(too_much)
    atoms, molecules = set_stability([record, from_smiles("CCO"), too_much])
    assert atoms.tolist() == [4, 9, 3]
    assert molecules.tolist() == [True, True, False]


def test_fragments_do_not_matter_for_stability():
    assert stable(two_methanes())
    assert stable(two_methanes(), protocol="edm")


def test_empty_molecules_are_not_stable():
    result = corrected_stability(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 2, 2)))
    assert not result.molecule_stable[0]
    assert math.isnan(result.atom_share)


def test_bad_arguments_say_what_was_expected():
    batch = pad_records([methane()])
    with pytest.raises(ValueError, match="orders 0 to 3"):
        corrected_stability(batch.numbers, batch.formal_charge, batch.bonds * 7)
    with pytest.raises(ValueError, match="chemist"):
        corrected_stability(batch.numbers, batch.formal_charge, batch.bonds, table="midi")
    with pytest.raises(ValueError, match="legacy-midi"):
        set_stability([methane()], "midi")


def test_edm_stability_of_real_qm9_test_molecules():
    """Recorded: 99.344 % of atoms and 95.215 % of molecules of the 13,083 (EDM's paper rounds to 95.2 %)."""
    records = point_clouds(data_file("qm9/qm9_geometries.npz"), split=2)
    atoms, molecules = set_stability(records, "edm")
    assert len(records) == 13_083
    assert 100 * atoms.sum() / sum(map(len, records)) == pytest.approx(99.344, abs=5e-4)
    assert 100 * molecules.mean() == pytest.approx(95.215, abs=5e-4)


def test_published_tables_on_drug_like_molecules():
    """Recorded: the aromatic form misses the ten molecules with S(0) of valence 4, the chemist table none."""
    records = drug_like()
    assert set_stability(records, table="aromatic")[1].sum() == 2_990
    assert set_stability(records, table="chemist")[1].sum() == 3_000


@pytest.mark.slow
def test_edm_stability_of_gschnet_samples(record_property):
    """Recorded with this table on the published sample file of 9,815 molecules; EDM's table says 95.7 and 68.1 %.

    The 6,805 stable molecules are 68.05 % of 10,000: it seems to count molecules that the file lacks as failures.
    """
    records = point_clouds(data_file("gschnet_samples/gschnet_samples.npz"))
    atoms, molecules = set_stability(records, "edm")
    record_property("molecule_stability", float(molecules.mean()))
    assert 100 * atoms.sum() / sum(map(len, records)) == pytest.approx(96.909, abs=5e-4)
    assert (len(records), int(molecules.sum())) == (9_815, 6_805)
