"""`evaluate_file` on every kind of file, with the same molecules behind all of them."""

import json

import numpy as np
import pytest

from molecules.data.dataset import MoleculeDataset
from molecules.evaluate import evaluate_file, read_molecules
from molecules.io import write_sdf, write_smiles, write_xyz
from tests.molecules.toys import data_file, from_smiles, make, methane, packaged, two_methanes

pytestmark = pytest.mark.filterwarnings("ignore:.*wide intervals")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The first 60 packaged molecules as SDF, SMILES, XYZ, prepared and plain NPZ."""
    root, records = tmp_path_factory.mktemp("files"), packaged(60)
    write_sdf(root / "a.sdf", records)
    write_sdf(root / "a.sdf.gz", records)
    write_xyz(root / "a.xyz", records)
    dataset = MoleculeDataset.from_records(records, split=np.repeat([0, 2], 30))
    dataset.save(root / "prepared.npz")
    np.savez(
        root / "plain.npz",
        num_atoms=np.array([len(r) for r in records]),
        charges=np.concatenate([r.numbers for r in records]),
        positions=np.concatenate([r.pos for r in records]),
    )
    from molecules.chemistry import judge

    write_smiles(root / "a.smi", [judge(record).smiles for record in records])
    return root


@pytest.mark.parametrize("name", ["a.sdf", "a.sdf.gz", "a.xyz", "prepared.npz", "plain.npz"])
def test_the_edm_protocol_gives_the_same_for_every_file_with_coordinates(folder, name):
    report = evaluate_file(folder / name, protocols="edm")
    expected = evaluate_file(folder / "a.sdf", protocols="edm")
    for key in ("atom_stability", "molecule_stability", "valid", "unique"):
        assert report[key] == expected[key]
    assert report.num_molecules == 60


@pytest.mark.parametrize("name", ["a.sdf", "a.sdf.gz", "a.smi", "prepared.npz"])
def test_files_with_bonds_are_strictly_valid(folder, name):
    report = evaluate_file(folder / name, protocols="corrected,legacy-midi")
    for key in ("corrected/valid", "molecule_stability", "unique", "connected", "legacy-midi/valid_strict"):
        assert report[key] == 1.0
    assert report["qed"] == pytest.approx(evaluate_file(folder / "a.sdf")["qed"])
    assert ("valid_3d" in report.sections["corrected"]) == (name != "a.smi")


@pytest.mark.parametrize("reference", ["a.sdf", "a.smi"])
@pytest.mark.parametrize("name", ["a.sdf", "a.smi"])
def test_notation_is_no_distance(folder, name, reference):
    """The same molecules in two formats have zero distance, whatever their hydrogens and aromatic bonds look like."""
    report = evaluate_file(folder / name, reference=folder / reference, descriptors=False)
    for key in ("atom_tv", "bond_tv", "charge_w1", "valency_w1", "size_w1"):
        assert report[key] == pytest.approx(0.0, abs=1e-12)
    assert report["novel"] == 0.0
    assert report.num_training == 60


def test_a_prepared_reference_serves_its_parts(folder):
    """Distributions against the test part (30), novelty against the training part (the other 30)."""
    report = evaluate_file(folder / "a.sdf", reference=folder / "prepared.npz", descriptors=False)
    assert report.num_reference == 30
    assert report.num_training == 30
    assert report["novel"] == 0.5
    report = evaluate_file(folder / "a.sdf", reference=folder / "prepared.npz", training=folder / "a.smi")
    assert report["novel"] == 0.0
    with pytest.raises(ValueError, match="valid part"):
        evaluate_file(folder / "a.sdf", reference=folder / "prepared.npz", split="valid")


def test_clouds_compare_atoms_and_sizes_only(folder):
    report = evaluate_file(folder / "a.xyz", reference=folder / "a.sdf", protocols="edm,corrected")
    assert report["atom_tv"] == report["size_w1"] == 0.0
    assert "bond_tv" not in report.sections["distributions"]
    assert set(report.sections) == {"edm", "distributions"}
    assert "corrected cannot be computed" in report.table()
    assert report.sections["edm"]["molecule_stability"].reference == report["molecule_stability"]


def test_failures_of_a_file_are_counted(tmp_path):
    methyl = make("C H H H", [(0, 1, 1), (0, 2, 1), (0, 3, 1)])
    write_sdf(tmp_path / "x.sdf", [methane(), methyl, two_methanes(), make("C", [])])
    report = evaluate_file(tmp_path / "x.sdf")
    assert report["valid"] == 0.25
    assert report.reasons == {"valence:C0=3": 1, "fragments:2": 1, "valence:C0=0": 1}


def test_unreadable_entries_are_counted(tmp_path):
    write_smiles(tmp_path / "x.smi", ["CCO", "C(", "c1cccc1", "[CH3]", "*C", "C.C"])
    report = evaluate_file(tmp_path / "x.smi")
    assert report.num_molecules == 6
    assert report["valid"] == pytest.approx(1 / 6)
    assert report.reasons == {"parse": 3, "valence:C0=3": 1, "fragments:2": 1}


def test_hydrogens_can_be_stated(tmp_path):
    """A file of heavy atoms alone reads as implicit; stated explicit, its carbons lack hydrogens."""
    write_sdf(tmp_path / "x.sdf", [from_smiles("CCO", explicit_h=False)])
    assert evaluate_file(tmp_path / "x.sdf")["valid"] == 1.0
    assert evaluate_file(tmp_path / "x.sdf", hydrogens="explicit")["valid"] == 0.0


def test_the_json_names_its_files(folder, tmp_path):
    evaluate_file(folder / "a.sdf", reference=folder / "a.smi", out=tmp_path / "m.json", descriptors=False)
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["files"]["reference"].endswith("a.smi")
    assert found["metrics"]["corrected"]["valid"]["value"] == 1.0


def test_a_large_reference_is_sampled(folder):
    found = read_molecules(folder / "a.smi", limit=10, seed=1)
    assert len(found.records) == 10
    assert evaluate_file(folder / "a.sdf", reference=folder / "a.sdf", max_reference=20).num_reference == 20


def test_bad_input_is_one_clear_sentence(folder, tmp_path):
    (tmp_path / "x.pdb").write_text("x")
    (tmp_path / "x.smi").write_text("hello there\n")
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    np.savez(tmp_path / "y.npz", num_atoms=np.array([3]), charges=np.array([1]), positions=np.zeros((1, 3)))
    for name, match in (
        ("x.pdb", r"x\.pdb has the unknown ending"),
        ("x.smi", "no SMILES that RDKit can read"),
        ("x.npz", r"x\.npz has the keys a: expected"),
        ("y.npz", "3 atoms counted, 1 listed"),
    ):
        with pytest.raises(ValueError, match=match):
            evaluate_file(tmp_path / name)
    with pytest.raises(ValueError, match="Use the edm protocol"):
        evaluate_file(folder / "a.xyz")
    with pytest.raises(ValueError, match="has no coordinates"):
        evaluate_file(folder / "a.smi", protocols="edm")
    with pytest.raises(ValueError, match="protocols must be among"):
        evaluate_file(folder / "a.sdf", protocols="corrected,midi")
    for files in ({"path": tmp_path / "no.sdf"}, {"path": folder / "a.sdf", "reference": tmp_path / "no.smi"}):
        with pytest.raises(FileNotFoundError, match="no file"):
            evaluate_file(**files)


def test_output_is_checked_before_any_work(tmp_path):
    with pytest.raises(IsADirectoryError):
        evaluate_file(tmp_path / "not-there.sdf", out=tmp_path)


@pytest.mark.slow
def test_gschnet_samples_from_end_to_end():
    """Recorded with this code: 96.91 % of atoms, 69.33 % of molecules, 86.93 % valid, 81.26 % valid and unique."""
    report = evaluate_file(data_file("gschnet_samples/gschnet_samples.npz"), protocols="edm")
    found = [100 * report[name] for name in ("atom_stability", "molecule_stability", "valid", "valid_unique")]
    assert found == pytest.approx([96.909, 69.333, 86.928, 81.263], abs=5e-4)
