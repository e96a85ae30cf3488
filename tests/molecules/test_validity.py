"""Set-level validity: the published variants, their known bugs, counters that add up."""

import copy

import numpy as np
import pytest
from rdkit import Chem

from molecules.validity import canonical_set, edm_validity, fragment_sizes, legacy_validity, set_validity
from tests.molecules.toys import aromatic_water, data_file, from_smiles, make, methane, point_clouds, two_methanes


@pytest.fixture(scope="module")
def mixed():
    """Ten records: ethanol 3x, benzene, methane, and five failures of four kinds."""
    good = [from_smiles("CCO"), from_smiles("OCC"), from_smiles("CCO"), from_smiles("c1ccccc1"), methane()]
    methyl = make("C H H H", [(0, 1, 1), (0, 2, 1), (0, 3, 1)])
    bare = make("C", [])
    return [*good, methyl, bare, two_methanes(), two_methanes(), aromatic_water()]


def test_shares_by_hand(mixed):
    found = set_validity(mixed)
    shares = found.shares(training_smiles=canonical_set(["CCO", "CC"]))
    assert shares["valid"] == 0.5
    assert shares["valid_3d"] == 0.5
    assert shares["unique"] == 3 / 5
    assert shares["valid_unique"] == 3 / 10
    assert shares["novel"] == 2 / 3
    assert shares["valid_unique_novel"] == 2 / 10
    assert shares["connected"] == 8 / 10
    assert shares["largest_fragment"] == pytest.approx((8 + 2 * 0.5) / 10)
    assert shares["good_bonds"] == 1.0


def test_reasons_sum_to_the_failures(mixed):
    reasons = set_validity(mixed).reasons
    assert reasons["fragments:2"] == 2
    assert reasons["valence:C0=3"] == 1
    assert reasons["valence:C0=0"] == 1
    assert sum(reasons.values()) == 5


def test_shares_of_a_part(mixed):
    assert set_validity(mixed).shares(index=np.arange(5))["valid"] == 1.0
    assert np.isnan(set_validity(mixed).shares(index=np.array([5, 6]))["unique"])


def test_known_bug_4_uniqueness_is_not_taken_after_removing_duplicates():
    assert set_validity([from_smiles("CCO")] * 4).shares()["unique"] == 0.25


def test_known_bug_5_largest_fragment_and_added_hydrogens():
    bare = make("C", [])
    for record in (bare, two_methanes()):
        assert legacy_validity(record).largest_sanitizes
        assert edm_validity([record]).shares()["valid"] == 1.0
        assert set_validity([record]).shares()["valid"] == 0.0
    assert not legacy_validity(bare).strict
    assert legacy_validity(bare).connected
    assert legacy_validity(two_methanes()) == (True, True, False, False, "C")


def test_known_bug_7_every_sanitising_error_is_caught():
    """Kekulisation errors and valence errors are different exceptions; neither may escape or count as valid."""
    five_ring = make("C C C C C", [(k, (k + 1) % 5, 4) for k in range(5)], explicit_h=False)
    five_bonds = make("C H H H H H", [(0, k, 1) for k in range(1, 6)])
    for record in (five_ring, five_bonds):
        assert not legacy_validity(record).sanitizes
        assert set_validity([record]).shares()["valid"] == 0.0
    assert set_validity([five_ring]).reasons == {"sanitize:KekulizeException": 1}


def test_known_bug_8_novelty_is_a_share_of_the_distinct_molecules():
    shares = set_validity([methane(), methane(), from_smiles("CC")]).shares(canonical_set(["C"]))
    assert shares["novel"] == 0.5
    assert shares["valid_unique_novel"] == pytest.approx(1 / 3)


def test_novelty_needs_one_rule_on_both_sides():
    assert canonical_set(["OCC", "[H]OC([H])([H])C", "C[C@H](N)O", "C[C@@H](N)O", "not a smiles"]) == {"CCO", "CC(N)O"}


def test_fragments_against_rdkit(mixed):
    from molecules.chemistry import assemble

    records = [*mixed, from_smiles("CCCCCCCCCCCCCCCCCC")]
    largest, number = fragment_sizes(records)
    parts = [Chem.GetMolFrags(assemble(record)) for record in records]
    assert number.tolist() == [len(part) for part in parts]
    np.testing.assert_allclose(largest, [max(map(len, part)) / len(rec) for part, rec in zip(parts, records)])


def test_valid_3d_needs_the_geometry():
    stretched = methane()
    stretched.pos[1] *= 1.4
    shares = set_validity([methane(), stretched]).shares()
    assert (shares["valid"], shares["valid_3d"], shares["good_bonds"]) == (1.0, 0.5, 0.5)


def test_records_are_not_changed(mixed):
    before = copy.deepcopy(mixed)
    set_validity(mixed)
    edm_validity(mixed)
    for old, new in zip(before, mixed):
        np.testing.assert_array_equal(old.bonds, new.bonds)
        np.testing.assert_array_equal(old.pos, new.pos)
        assert old.explicit_h == new.explicit_h


def test_edm_validity_ignores_given_bonds_and_charges():
    cloud = make("C H H H H", [], charges=[3, 0, 0, 0, 0], pos=methane().pos)
    assert edm_validity([cloud]).smiles == ["C"]


@pytest.mark.slow
def test_edm_validity_of_real_qm9_test_molecules():
    """Recorded: 12,787 of 13,083 = 97.738 % (EDM's paper rounds to 97.7 %)."""
    found = edm_validity(point_clouds(data_file("qm9/qm9_geometries.npz"), split=2))
    assert int(found.flags["valid"].sum()) == 12_787
    assert len(found.smiles) == 13_083


@pytest.mark.slow
def test_edm_validity_of_gschnet_samples():
    """Recorded on the 9,815 published samples: valid 86.93 %, valid and unique 81.26 %."""
    shares = edm_validity(point_clouds(data_file("gschnet_samples/gschnet_samples.npz"))).shares()
    assert 100 * shares["valid"] == pytest.approx(86.928, abs=5e-4)
    assert 100 * shares["valid_unique"] == pytest.approx(81.263, abs=5e-4)
