"""Round trips of SDF, XYZ and SMILES files, RDKit as an independent reader, and sentences for broken input."""

import gzip

import numpy as np
import pytest
from rdkit import Chem

from molecules.io import (
    read_sdf,
    read_smiles,
    read_xyz,
    write_sdf,
    write_smiles,
    write_trajectory_xyz,
    write_xyz,
)
from tests.molecules.toys import drug_like, from_smiles, make, methane, two_methanes


def same(a, b, tolerance):
    np.testing.assert_array_equal(a.numbers, b.numbers)
    np.testing.assert_array_equal(a.formal_charge, b.formal_charge)
    np.testing.assert_array_equal(a.bonds, b.bonds)
    np.testing.assert_allclose(a.pos, b.pos, atol=tolerance)
    assert a.explicit_h == b.explicit_h


RECORDS = [
    from_smiles("C[N+](=O)[O-]"),
    from_smiles("c1ccncc1", kekulized=False),
    from_smiles("CC#N", explicit_h=False),
    make("C", []),
    make("C H H H", [(0, 1, 1), (0, 2, 1), (0, 3, 1)]),
    make("N H H H H", [(0, k, 1) for k in range(1, 5)]),
    two_methanes(),
    make("S O O O O O O O O O", [(0, k, 3) for k in range(1, 10)], charges=[-2, 3, 1, 1, 1, 1, 1, 1, 1, 1]),
]


@pytest.mark.parametrize("suffix", ["sdf", "sdf.gz"])
def test_sdf_round_trip_loses_nothing(tmp_path, suffix):
    path = tmp_path / f"all.{suffix}"
    fields = [{"valid": i % 2 == 0, "reason": None if i % 2 == 0 else "valence:C0=3", "seed": i} for i in range(8)]
    write_sdf(path, RECORDS, properties=fields)
    entries = read_sdf(path)
    assert [entry.title for entry in entries] == [f"molecule_{i}" for i in range(8)]
    for record, entry, field in zip(RECORDS, entries, fields):
        same(record, entry.record, 5.1e-5)
        assert entry.properties["valid"] == str(field["valid"])
        assert entry.properties["seed"] == str(field["seed"])
        assert entry.properties.get("reason") == field["reason"]


def test_sdf_of_another_reader_gets_no_extra_hydrogens(tmp_path):
    """RDKit itself would complete CH3 and a bare carbon to methane; the valence column forbids it."""
    write_sdf(tmp_path / "all.sdf", RECORDS[3:5])
    for mol, record in zip(Chem.SDMolSupplier(str(tmp_path / "all.sdf"), removeHs=False), RECORDS[3:5]):
        assert Chem.AddHs(mol).GetNumAtoms() == len(record)
    write_sdf(tmp_path / "good.sdf", RECORDS[:2])
    smiles = [Chem.MolToSmiles(mol) for mol in Chem.SDMolSupplier(str(tmp_path / "good.sdf"))]
    assert smiles == ["C[N+](=O)[O-]", "c1ccncc1"]


def test_sdf_round_trip_of_real_molecules(tmp_path):
    records = drug_like(limit=50)
    write_sdf(tmp_path / "drugs.sdf", records)
    for record, entry in zip(records, read_sdf(tmp_path / "drugs.sdf"), strict=True):
        same(record, entry.record, 5.1e-5)


def test_sdf_keeps_diverged_molecules_with_a_note(tmp_path):
    broken = methane()
    broken.pos[2] = [np.nan, np.inf, 1e9]
    write_sdf(tmp_path / "x.sdf", [broken, methane()])
    entries = read_sdf(tmp_path / "x.sdf")
    assert "do not fit" in entries[0].properties["note"]
    assert "note" not in entries[1].properties
    np.testing.assert_array_equal(entries[0].record.bonds, broken.bonds)


def test_foreign_sdf_explicit_hydrogens_are_seen_in_the_whole_file(tmp_path):
    def block(smiles, explicit):
        return Chem.MolToMolBlock(Chem.AddHs(Chem.MolFromSmiles(smiles)) if explicit else Chem.MolFromSmiles(smiles))

    path = tmp_path / "foreign.sdf"
    path.write_text("$$$$\n".join([block("O=C=O", True), block("C", True), ""]))
    assert [entry.record.explicit_h for entry in read_sdf(path)] == [True, True]
    path.write_text("$$$$\n".join([block("O=C=O", False), block("CC", False), ""]))
    assert [entry.record.explicit_h for entry in read_sdf(path)] == [False, False]


def test_drawings_have_no_coordinates(tmp_path):
    path = tmp_path / "flat.sdf"
    path.write_text(Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")) + "$$$$\n")
    assert read_sdf(path)[0].record.pos is None


def test_an_unreadable_entry_stays_as_an_error(tmp_path):
    path = tmp_path / "x.sdf"
    write_sdf(path, [methane(), methane(), methane()])
    text = path.read_text()
    path.write_text(text.replace("  5  4  0", "  x  y  0", 1))
    entries = read_sdf(path)
    assert entries[0].record is None
    assert entries[0].error
    assert sum(entry.record is not None for entry in entries) == 2


@pytest.mark.parametrize("text", ["", "hello\nworld\n", "\n\n\n  0  0  0\n"])
def test_sdf_without_molecules_is_an_error(tmp_path, text):
    (tmp_path / "no.sdf").write_text(text)
    with pytest.raises(ValueError, match=r"no\.sdf holds no readable molecule: expected an SDF"):
        read_sdf(tmp_path / "no.sdf")


def test_sdf_refuses_what_v2000_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="at most 999"):
        write_sdf(tmp_path / "big.sdf", [make("C " * 1000, [])])
    assert list(tmp_path.iterdir()) == []


def test_xyz_round_trip(tmp_path):
    write_xyz(tmp_path / "all.xyz", RECORDS, properties=[{"valid": True, "reason": "a b", "smiles": None}] * 8)
    for i, (record, entry) in enumerate(zip(RECORDS, read_xyz(tmp_path / "all.xyz"), strict=True)):
        np.testing.assert_array_equal(entry.record.numbers, record.numbers)
        np.testing.assert_array_equal(entry.record.formal_charge, record.formal_charge)
        np.testing.assert_allclose(entry.record.pos, record.pos, atol=5.1e-7)
        assert entry.properties == {"title": f"molecule_{i}", "valid": "T", "reason": "a b"}


def test_xyz_of_others(tmp_path):
    path = tmp_path / "plain.xyz"
    path.write_text("2\ncomment\nC 0 0 0\nh 1.1*^0 0 0 0.5\n\n1\n\n8 0.0 0.0 1.0\n")
    first, second = read_xyz(path)
    assert first.record.numbers.tolist() == [6, 1]
    assert first.record.pos[1, 0] == 1.1
    assert second.record.numbers.tolist() == [8]
    shuffled = "1\nProperties=pos:R:3:species:S:1:forces:R:3 energy=-1.0\n0.0 1.0 2.0 N 0 0 0\n"
    path.write_text(shuffled)
    entry = read_xyz(path)[0]
    assert entry.record.numbers.tolist() == [7]
    assert entry.record.pos.tolist() == [[0, 1, 2]]
    assert entry.properties["energy"] == "-1.0"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("3\n\nC 0 0 0\n", "line 1"),
        ("1\n\nC 0 0 0\nx\n", "line 4"),
        ("1\n\nQq 0 0 0\n", "frame at line 1"),
        ("1\n\nC 0 0\n", "frame at line 1"),
        ("", "no frame"),
    ],
)
def test_broken_xyz_names_file_and_line(tmp_path, text, match):
    (tmp_path / "bad.xyz").write_text(text)
    with pytest.raises(ValueError, match=match) as error:
        read_xyz(tmp_path / "bad.xyz")
    assert "bad.xyz" in str(error.value)


def test_trajectory_has_one_frame_a_step(tmp_path):
    pos = np.random.default_rng(0).normal(size=(4, 5, 3))
    write_trajectory_xyz(tmp_path / "movie.xyz", methane().numbers, pos, times=np.linspace(1, 0, 4))
    frames = read_xyz(tmp_path / "movie.xyz")
    np.testing.assert_allclose([frame.record.pos for frame in frames], pos, atol=5.1e-7)
    assert [frame.properties["t"] for frame in frames] == ["1.000000", "0.666667", "0.333333", "0.000000"]
    with pytest.raises(ValueError, match=r"\(F, n, 3\)"):
        write_trajectory_xyz(tmp_path / "movie.xyz", methane().numbers, pos[:, :4])


def test_smiles_files(tmp_path):
    write_smiles(tmp_path / "a.smi", ["CCO", "C#N"], ["one", "two"])
    assert (tmp_path / "a.smi").read_text() == "CCO one\nC#N two\n"
    assert read_smiles(tmp_path / "a.smi") == ["CCO", "C#N"]
    with gzip.open(tmp_path / "b.smi.gz", "wt") as handle:
        handle.write("smiles\tname\nC\tx\n\nCC,y\n")
    assert read_smiles(tmp_path / "b.smi.gz") == ["C", "CC"]
    (tmp_path / "empty.smi").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.smi"):
        read_smiles(tmp_path / "empty.smi")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.xyz"
    path.write_text("old")
    with pytest.raises(ValueError, match="no coordinates"):
        write_xyz(path, [methane(), from_smiles("C", embed=False)])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.sdf"):
        read_sdf(tmp_path / "gone.sdf")
    write_smiles(tmp_path / "new" / "a.smi", ["C"])
    assert read_smiles(tmp_path / "new" / "a.smi") == ["C"]
