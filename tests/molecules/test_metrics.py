"""`evaluate` and `Report`: hand-made sets, intervals against scipy, the packaged molecules, and the speed."""

import copy
import json
import math
import time

import numpy as np
import pytest
from scipy import stats

from molecules import metrics
from molecules.metrics import PROTOCOLS, Figure, Report, evaluate, wilson_interval
from tests.molecules.toys import aromatic_water, from_smiles, make, methane, packaged, two_methanes

pytestmark = pytest.mark.filterwarnings("ignore:.*wide intervals")


@pytest.fixture(scope="module")
def toy():
    """Frozen set of 8: ethanol twice, benzene (aromatic), methane; CH3, bare C, H:O:H, CH4 + CH4."""
    good = [from_smiles("CCO"), from_smiles("OCC"), from_smiles("c1ccccc1", kekulized=False), methane()]
    methyl = make("C H H H", [(0, 1, 1), (0, 2, 1), (0, 3, 1)])
    return [*good, methyl, make("C", []), aromatic_water(), two_methanes()]


def test_toy_set_under_the_corrected_protocol(toy):
    """By hand: atoms 9+9+12+5+4+1+3+10 = 53, unstable: C of CH3, bare C, two H of water."""
    report = evaluate(toy, training_smiles=["c1ccccc1", "N"], descriptors=False)
    assert report["atom_stability"] == pytest.approx(49 / 53)
    assert report["molecule_stability"] == 5 / 8
    assert report["valid"] == 4 / 8
    assert report["valid_3d"] == 4 / 8
    assert report["connected"] == 7 / 8
    assert report["unique"] == 3 / 4
    assert report["valid_unique"] == 3 / 8
    assert report["novel"] == 2 / 3
    assert report["valid_unique_novel"] == 2 / 8
    assert report["largest_fragment"] == pytest.approx((7 + 0.5) / 8)
    assert report.reasons["fragments:2"] == 1
    assert sum(report.reasons.values()) == 4


def test_toy_set_under_the_legacy_protocol(toy):
    """By hand: CH3 and H:O:H pass the table, only the bare carbon fails; everything 'is valid' except H:O:H."""
    report = evaluate(toy, protocols=["legacy-midi"], descriptors=False)
    assert report["legacy-midi/molecule_stability"] == 7 / 8
    assert report["atom_stability"] == pytest.approx(52 / 53)
    assert report["valid"] == 7 / 8
    assert report["valid_whole"] == 7 / 8
    assert report["valid_connected"] == 6 / 8
    assert report["valid_strict"] == 4 / 8


def test_the_three_protocols_disagree_as_documented(toy):
    report = evaluate(toy, protocols=PROTOCOLS, descriptors=False)
    assert report["corrected/valid"] < report["legacy-midi/valid"]
    assert set(report.sections) == set(PROTOCOLS)


def test_known_bug_10_the_number_of_molecules_is_part_of_the_report(toy):
    with pytest.warns(UserWarning, match="8 molecules give wide intervals"):
        report = evaluate(toy, descriptors=False)
    assert report.num_molecules == 8
    assert report.to_dict()["num_molecules"] == 8
    assert report.table().startswith("8 molecules")
    assert "1,000" in report.table()


def test_wilson_against_scipy():
    for part, whole in ((0, 10), (3, 10), (10, 10), (9_521, 10_000)):
        expected = stats.binomtest(part, whole).proportion_ci(method="wilson")
        assert wilson_interval(part, whole) == pytest.approx((expected.low, expected.high), abs=1e-7)
    assert all(math.isnan(value) for value in wilson_interval(0, 0))


def test_spread_is_the_standard_deviation_of_disjoint_parts():
    """20 valid and 20 invalid molecules in 2 parts: both parts' shares average to 1/2, the spread follows from one."""
    report = evaluate([methane()] * 20 + [make("C", [])] * 20, num_parts=2, descriptors=False)
    figure = report.sections["corrected"]["valid"]
    assert figure.value == 0.5
    # Shares k / 20 and (20 - k) / 20: standard deviation sqrt(2) |k / 20 - 1/2|, a multiple of sqrt(2) / 20.
    assert (figure.spread * 20 / math.sqrt(2)) % 1 == pytest.approx(0.0, abs=1e-9)
    again = evaluate([methane()] * 20 + [make("C", [])] * 20, num_parts=2, descriptors=False)
    assert again.sections["corrected"]["valid"] == figure


def test_real_molecules_reach_every_ceiling():
    records = packaged(600)
    report = evaluate(records[:300], reference=records[300:], training_smiles=["C"], protocols=PROTOCOLS)
    for name in ("atom_stability", "molecule_stability", "valid", "valid_3d", "connected", "good_bonds", "unique"):
        figure = report.sections["corrected"][name]
        assert (figure.value, figure.reference) == (1.0, 1.0), name
    assert report["legacy-midi/valid_strict"] == 1.0
    assert 0.9 < report["edm/molecule_stability"] < 1.0
    distances = report.sections["distributions"]
    assert set(distances) >= {
        "atom_tv",
        "bond_tv",
        "valency_w1",
        "bond_length_w1",
        "angle_w1",
        "dihedral_w1",
        "mmd_angle",
    }
    # 300 against 300 real molecules of one population: the distance is that between halves within sampling error.
    assert distances["atom_tv"].value < 4 * distances["atom_tv"].reference + 0.02
    assert sum(row["generated"] for row in report.histograms["bonds"].values()) == pytest.approx(1.0)


def test_noise_on_coordinates_raises_the_geometry_distances_only():
    records, rng = packaged(400), np.random.default_rng(0)
    noisy = [
        type(r)(r.numbers, r.formal_charge, r.bonds, r.pos + 0.1 * rng.normal(size=r.pos.shape)) for r in records[:200]
    ]
    clean, moved = (evaluate(part, reference=records[200:], descriptors=False) for part in (records[:200], noisy))
    for name in ("bond_length_w1", "angle_w1", "mmd_length"):
        assert moved[name] > 2 * clean[name], name
    assert moved["dihedral_w1"] > clean["dihedral_w1"]
    for name in ("atom_tv", "bond_tv", "size_w1", "valid"):
        assert moved[name] == clean[name], name
    assert moved["valid_3d"] < 1.0 == clean["valid_3d"]


def test_records_and_verdicts_are_not_changed(toy):
    before = copy.deepcopy(toy)
    evaluate(toy, reference=toy, protocols=PROTOCOLS, energy=True, geometry_checks=True)
    for old, new in zip(before, toy):
        for name in ("numbers", "formal_charge", "bonds", "pos"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))


def test_an_unreadable_entry_counts_as_a_failure():
    nothing = type(methane())(np.zeros(0), np.zeros(0), np.zeros((0, 0)), np.zeros((0, 3)))
    report = evaluate([methane(), nothing], protocols=PROTOCOLS, reference=[methane(), methane()], descriptors=False)
    assert report["corrected/valid"] == report["edm/valid"] == report["legacy-midi/valid"] == 0.5
    assert report.reasons == {"parse": 1}
    assert "1 entries could not be read" in report.table()
    assert report["size_w1"] == 0.0


def test_mixed_representations_are_compared_as_one():
    records = packaged(40)
    report = evaluate([r.without_hydrogens() for r in records], reference=records, descriptors=False)
    assert report["atom_tv"] == report["bond_tv"] == report["size_w1"] == 0.0
    assert "heavy atoms" in report.table()


def test_the_report_is_json_and_one_can_ask_it(toy, tmp_path):
    report = evaluate(toy, reference=toy, protocols=PROTOCOLS, energy=True, geometry_checks=True)
    report.to_json(tmp_path / "m.json")
    text = (tmp_path / "m.json").read_text()
    assert json.loads(text) == report.to_dict()
    assert "NaN" not in text
    assert str(report) == report.table()
    assert max(map(len, report.table().splitlines()[:60])) <= 200
    with pytest.raises(ValueError, match="no figure 'stability'"):
        report["stability"]


def test_a_figure_that_is_not_defined_is_null_and_a_dash():
    report = Report(1, {"edm": {"novel": Figure(float("nan"), spread=None)}})
    assert report.to_dict()["metrics"]["edm"]["novel"]["value"] is None
    assert report.table().splitlines()[-1].split() == ["novel", "-"]


def test_bad_arguments():
    with pytest.raises(ValueError, match="no molecule"):
        evaluate([])
    with pytest.raises(ValueError, match="corrected, legacy-midi, edm"):
        evaluate([methane()], protocols=["midi"])
    with pytest.raises(ValueError, match="coordinates"):
        evaluate([from_smiles("C", embed=False)], protocols=["edm"])
    with pytest.raises(ValueError, match="reference"):
        evaluate([methane()], reference=[])


def test_public_names_exist():
    assert all(hasattr(metrics, name) for name in metrics.__all__)


@pytest.mark.slow
def test_ten_thousand_molecules_take_under_two_minutes():
    """The whole report of 10,000 molecules with all protocols, without force fields."""
    records = packaged(2_000) * 5
    start = time.process_time()
    evaluate(records, reference=packaged(2_000), training_smiles=["C"], protocols=PROTOCOLS)
    assert time.process_time() - start < 120.0
