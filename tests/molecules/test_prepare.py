import gzip
import io
import tarfile

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molecules.chemistry import SYMBOLS, MoleculeRecord, assemble, record_of
from molecules.data import (
    CleaningRules,
    MoleculeDataset,
    clean,
    edm_split,
    packaged_qm9,
    prepare_file,
    prepare_qm9,
    random_split,
)
from molecules.data.raw import RawMolecule, read_xyz
from molecules.records import AROMATIC
from tests.molecules.toys import data_file

# SMILES by GDB id 1, 2, ...; the last one will get another geometry and be dropped.
SMILES = ["C", "N", "O", "C#C", "C#N", "CC(=O)N", "c1cc[nH]c1", "C[NH2+]CC([O-])=O", "FC", "OCC1CC1"]


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=5) == 0  # pyright: ignore[reportAttributeAccessIssue]
    AllChem.MMFFOptimizeMolecule(mol)  # pyright: ignore[reportAttributeAccessIssue]
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return record_of(mol)


@pytest.fixture(scope="module")
def toy_records():
    records = [embedded(smiles) for smiles in SMILES[:-1]]
    return [*records, embedded("OCC1OC1")]


@pytest.fixture
def packed(tmp_path, toy_records):
    """The toy as a packed QM9 folder."""
    folder = tmp_path / "qm9"
    folder.mkdir()
    np.savez(
        folder / "qm9_geometries.npz",
        gdb_id=np.arange(1, len(SMILES) + 1, dtype=np.int32),
        num_atoms=np.array([len(r) for r in toy_records], dtype=np.uint8),
        charges=np.concatenate([r.numbers for r in toy_records]).astype(np.uint8),
        positions=np.concatenate([r.pos for r in toy_records]).astype(np.float32),
        split=np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 0], dtype=np.uint8),
    )
    with gzip.open(folder / "qm9_smiles_by_gdb_id.smi.gz", "wt") as file:
        file.write("\n".join(SMILES) + "\n")
    return folder


def gdb9_text(gdb_id, record, smiles):
    """The original layout, small numbers with Mathematica's exponent."""

    def decimal(value):
        return f"{value:.10e}".replace("e", "*^") if abs(value) < 0.1 else f"{value:.10f}"

    atoms = [
        "\t".join([SYMBOLS[z], *map(decimal, xyz), "-0.1*^-3"])
        for z, xyz in zip(record.numbers, record.pos.astype(np.float32))
    ]
    head = [str(len(record)), f"gdb {gdb_id}\t157.7\t157.7\t1.2*^-4"]
    return "\n".join([*head, *atoms, "1341.307\t1341.3284", f"{smiles}\tCC", "InChI=1S/X\tInChI=1S/X"]) + "\n"


@pytest.fixture
def archive(tmp_path, toy_records):
    """The toy as the original archive, in random order, with an uncharacterised molecule."""
    path = tmp_path / "original" / "dsgdb9nsd.xyz.tar.bz2"
    path.parent.mkdir()
    with tarfile.open(path, "w:bz2") as tar:
        for k in np.random.default_rng(0).permutation(len(SMILES)):
            data = gdb9_text(k + 1, toy_records[k], SMILES[k]).encode()
            info = tarfile.TarInfo(f"dsgdb9nsd_{k + 1:06d}.xyz")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (path.parent / "uncharacterized.txt").write_text("list of ids\n====\n   2   N   0.1\n")
    return path


@pytest.mark.filterwarnings("ignore:.*is not the known file")
def test_packed_qm9(packed, tmp_path, toy_records):
    report = prepare_qm9(packed, tmp_path / "out.npz")
    assert (report.total, report.kept) == (10, 9)
    assert report.methods == {"order": 9}
    assert report.reasons == {"element_order": 1}
    assert report.dropped[0][0] == 10
    assert report.splits == {"train": 5, "valid": 2, "test": 2}
    dataset = MoleculeDataset.from_npz(tmp_path / "out.npz")
    assert dataset.ids.tolist() == list(range(1, 10))
    assert dataset.smiles == [Chem.MolToSmiles(Chem.MolFromSmiles(smiles)) for smiles in SMILES[:-1]]
    for k in range(9):
        assert np.array_equal(dataset.record(k).bonds, toy_records[k].bonds)
        assert np.array_equal(dataset.record(k).formal_charge, toy_records[k].formal_charge)
    assert dataset.meta["report"]["reasons"] == {"element_order": 1}
    assert set(dataset.meta["sha256"]) == {"qm9_geometries.npz", "qm9_smiles_by_gdb_id.smi.gz"}
    lines = report.table().splitlines()
    assert lines[0].split() == ["molecules", "10"]
    assert ["element_order", "1"] in [line.split() for line in lines]


@pytest.mark.filterwarnings("ignore:.*is not the known file")
def test_original_archive_and_folder_give_the_same(packed, archive, tmp_path):
    prepare_qm9(packed, tmp_path / "packed.npz")
    report = prepare_qm9(archive, tmp_path / "archive.npz")
    assert report.total == 9  # id 2 is not characterised
    with tarfile.open(archive) as tar:
        tar.extractall(archive.parent, filter="data")
    prepare_qm9(archive.parent, tmp_path / "folder.npz")
    reference = MoleculeDataset.from_npz(tmp_path / "packed.npz").subset([0, *range(2, 9)])
    for name in ("archive", "folder"):
        found = MoleculeDataset.from_npz(tmp_path / f"{name}.npz")
        assert found.ids.tolist() == reference.ids.tolist()
        assert np.array_equal(found.bonds, reference.bonds)
        assert found.positions == pytest.approx(reference.positions, abs=1e-6)
        assert found.smiles == reference.smiles
        assert found.split.tolist() == edm_split(np.arange(9))[:8].tolist()  # id 10 is the ninth and dropped


def test_missing_list_of_uncharacterised_molecules_is_said(archive, tmp_path):
    (archive.parent / "uncharacterized.txt").unlink()
    with pytest.warns(UserWarning, match="not be the standard"):
        assert prepare_qm9(archive, tmp_path / "out.npz").total == 10


def test_edm_split_is_the_published_one():
    """Recorded from the published list of 130,831 ids, which equals the test file of EGNN."""
    split = edm_split(np.arange(130_831))
    assert np.bincount(split).tolist() == [100_000, 17_748, 13_083]
    test = np.flatnonzero(split == 2)
    assert test[:5].tolist() == [10, 13, 21, 30, 43]
    assert test.sum() == 855_937_277
    with np.load(data_file("qm9/qm9_split_edm.npz")) as data:
        assert np.array_equal(split, data["split"])


def test_random_split():
    split = random_split(1_000, (0.7, 0.2, 0.1), seed=3)
    assert np.bincount(split).tolist() == [700, 200, 100]
    assert np.array_equal(split, random_split(1_000, (0.7, 0.2, 0.1), seed=3))
    assert not np.array_equal(split, random_split(1_000, (0.7, 0.2, 0.1), seed=4))
    with pytest.raises(ValueError, match="sum 1"):
        random_split(10, (0.5, 0.5, 0.5))


def test_bad_sources_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.delenv("SCIDIFF_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="SCIDIFF_DATA"):
        prepare_qm9(None, tmp_path / "out.npz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        prepare_qm9(tmp_path / "nowhere", tmp_path / "out.npz")
    (tmp_path / "text.txt").write_text("C 0 0 0\n")
    with pytest.raises(ValueError, match="tar archive"):
        prepare_qm9(tmp_path / "text.txt", tmp_path / "out.npz")
    with pytest.raises(ValueError, match=r"\.npz"):
        prepare_qm9(tmp_path, tmp_path / "out.csv")
    with pytest.raises(ValueError, match="cannot read"):
        prepare_file(tmp_path / "text.txt", tmp_path / "out.npz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        prepare_file(tmp_path / "absent.sdf", tmp_path / "out.npz")
    with pytest.raises(ValueError, match="hydrogens"):
        prepare_file(tmp_path / "text.txt", tmp_path / "out.npz", hydrogens="some")
    with pytest.raises(ValueError, match="sum 1"):
        prepare_file(tmp_path / "absent.sdf", tmp_path / "out.npz", fractions=(1.0, 1.0, 1.0))
    assert not (tmp_path / "out.npz").exists()


def test_failed_run_leaves_the_old_file(tmp_path):
    out = packaged_qm9().subset([0]).save(tmp_path / "out.npz")
    before = out.read_bytes()
    (tmp_path / "bad.xyz").write_text("3\n\nC 0 0 0\nH 0 0\n")
    with pytest.raises(ValueError, match="frame 0 at line 1"):
        prepare_file(tmp_path / "bad.xyz", out)
    (tmp_path / "empty.xyz").write_text("2\n\nHe 0 0 0\nHe 0 0 1\n")
    with pytest.raises(ValueError, match="no molecule of 1 is left"):
        prepare_file(tmp_path / "empty.xyz", out)
    assert out.read_bytes() == before


def test_sdf_xyz_and_npz_give_the_same_molecules(tmp_path):
    """40 packaged molecules through three formats: bonds from the file, from coordinates, from arrays."""
    source = packaged_qm9().subset(np.arange(40))
    with Chem.SDWriter(str(tmp_path / "a.sdf")) as writer:
        for k in range(40):
            writer.write(assemble(source.record(k)))
    frames = []
    for k in range(40):
        record = source.record(k)
        atoms = [f"{SYMBOLS[z]} {x:.6f} {y:.6f} {w:.6f}" for z, (x, y, w) in zip(record.numbers, record.pos)]
        frames.append("\n".join([str(len(record)), f'name="{k}" charge=0', *atoms]))
    (tmp_path / "a.xyz").write_text("\n".join(frames) + "\n")
    source.save(tmp_path / "a.npz")
    for suffix, methods in (("sdf", {"file": 40}), ("npz", {"file": 40}), ("xyz", None)):
        report = prepare_file(tmp_path / f"a.{suffix}", tmp_path / f"{suffix}.npz")
        assert report.kept == 40
        assert methods is None or report.methods == methods
        found = MoleculeDataset.from_npz(tmp_path / f"{suffix}.npz")
        assert found.smiles == source.smiles
        assert np.bincount(found.split).tolist() == [32, 4, 4]
        if methods is not None:
            assert np.array_equal(found.bonds, source.bonds)
    implicit = prepare_file(tmp_path / "a.sdf", tmp_path / "implicit.npz", hydrogens="implicit", max_atoms=None)
    assert implicit.kept == 40
    heavy = MoleculeDataset.from_npz(tmp_path / "implicit.npz")
    assert np.array_equal(heavy.bonds, source.without_hydrogens().bonds)
    assert not heavy.explicit_h


def test_xyz_comment_gives_the_charge(tmp_path):
    ammonium = embedded("[NH4+]")
    atoms = [f"{SYMBOLS[z]} {x} {y} {w}" for z, (x, y, w) in zip(ammonium.numbers, ammonium.pos)]
    (tmp_path / "a.xyz").write_text("\n".join(["5", "total_charge=+1", *atoms, "5", "", *atoms]))
    assert [raw.charge for raw in read_xyz(tmp_path / "a.xyz")] == [1, 0]
    report = prepare_file(tmp_path / "a.xyz", tmp_path / "out.npz", fractions=(1.0, 0.0, 0.0))
    assert (report.kept, report.reasons) == (1, {"perception": 1})


def test_aromatic_bonds_on_request_and_kekulised_by_default(tmp_path):
    pyridine = record_of(Chem.AddHs(Chem.MolFromSmiles("c1ccncc1")))
    kekulised = embedded("c1ccncc1")
    aromatic = MoleculeRecord(pyridine.numbers, pyridine.formal_charge, pyridine.bonds, kekulised.pos)
    assert np.bincount(aromatic.bonds[np.triu_indices(11, 1)]).tolist() == [44, 5, 0, 0, 6]
    MoleculeDataset.from_records([aromatic]).save(tmp_path / "a.npz")
    for flag, expected in ((True, [0, 5, 0, 0, 6]), (False, [0, 8, 3])):
        prepare_file(tmp_path / "a.npz", tmp_path / "out.npz", aromatic=flag, fractions=(1.0, 0.0, 0.0))
        dataset = MoleculeDataset.from_npz(tmp_path / "out.npz")
        assert np.bincount(dataset.bonds[:, 2]).tolist() == expected
        assert dataset.smiles == ["c1ccncc1"]


def raw_of(record, **kwargs):
    return RawMolecule(0, record.numbers, record.pos, record=record, **kwargs)


def faulty():
    """One raw molecule for each reason, with the rules that catch it."""
    ethane, bare = embedded("CC"), embedded("CC").take([0, 1])
    two = MoleculeRecord(
        np.tile(embedded("C").numbers, 2),
        np.zeros(10),
        np.kron(np.eye(2, dtype=int), embedded("C").bonds),
        np.concatenate([embedded("C").pos, embedded("C").pos + 9]),
    )
    stretched = MoleculeRecord(ethane.numbers, ethane.formal_charge, ethane.bonds, ethane.pos * 1.5)
    water = np.array([[0, 4, 4], [4, 0, 0], [4, 0, 0]])
    aromatic_water = MoleculeRecord(np.array([8, 1, 1]), np.zeros(3), water, np.eye(3))
    open_shell = MoleculeRecord(bare.numbers, bare.formal_charge, bare.bonds, bare.pos, explicit_h=False)
    nothing = RawMolecule(0, np.zeros(0, dtype=int), np.zeros((0, 3)))
    smiles = {"numbers": ethane.numbers, "pos": ethane.pos}
    loose = ethane.pos.copy()
    loose[-1] += 5
    return [
        ("parse", nothing, CleaningRules()),
        ("element", raw_of(embedded("CF")), CleaningRules(elements=("H", "C", "N", "O"))),
        ("element", RawMolecule(0, np.array([0]), np.zeros((1, 3))), CleaningRules()),
        ("too_large", raw_of(ethane), CleaningRules(max_atoms=7)),
        ("element_order", RawMolecule(0, **smiles, smiles="CO"), CleaningRules()),
        ("bond_length", RawMolecule(0, ethane.numbers, ethane.pos * 1.4, smiles="CC"), CleaningRules()),
        ("loose_hydrogen", RawMolecule(0, ethane.numbers, loose, smiles="CC"), CleaningRules()),
        ("hydrogen_count", RawMolecule(0, **smiles, smiles="C=C"), CleaningRules()),
        ("perception", RawMolecule(0, **smiles, charge=3), CleaningRules()),
        ("implicit_h", raw_of(open_shell), CleaningRules()),
        ("valence", raw_of(bare), CleaningRules()),
        ("fragments", raw_of(two), CleaningRules()),
        ("sanitize", raw_of(aromatic_water), CleaningRules()),
        ("geometry", raw_of(stretched), CleaningRules(band=0.40)),
    ]


def test_every_reason_is_reached_and_counted():
    good = raw_of(embedded("CO"))
    for reason, raw, rules in faulty():
        dataset, report = clean([good, raw], rules)
        assert report.reasons == {reason: 1}, reason
        assert (report.total, report.kept, len(dataset)) == (2, 1, 1)
        assert report.dropped[0][1] == reason
        assert report.dropped[0][2]


@pytest.mark.parametrize("smiles", ["c1cc[nH]c1", "c1ccc2[nH]cnc2c1", "Cn1cnc2[nH]cnc2c1=O"])
def test_aromatic_files_without_hydrogens_keep_their_molecules(smiles):
    """Which nitrogen of an aromatic ring had a hydrogen is read before it is left out."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0  # pyright: ignore[reportAttributeAccessIssue]
    record = record_of(mol)
    assert (record.bonds == AROMATIC).any()
    for aromatic in (False, True):
        dataset, report = clean([raw_of(record)], CleaningRules("implicit", aromatic=aromatic))
        assert not report.reasons
        assert dataset.smiles == [Chem.CanonSmiles(smiles)]
        assert (dataset.record(0).bonds == AROMATIC).any() == aromatic


def test_largest_molecule_counts_the_atoms_that_are_kept():
    ethane = raw_of(embedded("CC"))
    assert clean([ethane], CleaningRules("implicit", max_atoms=2))[1].kept == 1
    for rules in (CleaningRules("implicit", max_atoms=1), CleaningRules(max_atoms=7)):
        with pytest.raises(ValueError, match="too_large 1"):
            clean([ethane], rules)


def test_processes_give_the_same_as_one(monkeypatch):
    monkeypatch.setattr("molecules.data.cleaning._CHUNK", 50)
    monkeypatch.setattr("molecules.data.cleaning._SMALL", 100)
    source = packaged_qm9().subset(np.arange(240))
    raw = [raw_of(source.record(k), split=k % 3) for k in range(240)]
    raw[17] = RawMolecule(17, np.zeros(0, dtype=int), np.zeros((0, 3)), split=0)
    alone, first = clean(raw, CleaningRules(), workers=1)
    together, second = clean(raw, CleaningRules(), workers=2)
    assert first == second
    assert first.reasons == {"parse": 1}
    for name in ("sizes", "numbers", "formal_charge", "positions", "bonds", "ids", "split"):
        assert np.array_equal(getattr(alone, name), getattr(together, name))
    assert alone.smiles == together.smiles
    assert together.split.tolist() == [k % 3 for k in range(240) if k != 17]


def test_packaged_subset_is_reproduced_from_its_source(tmp_path):
    report = prepare_qm9(data_file("qm9/qm9_train_2k.npz"), tmp_path / "out.npz")
    assert report.methods == {"order": 2_000}
    found, packaged = MoleculeDataset.from_npz(tmp_path / "out.npz"), packaged_qm9()
    for name in ("ids", "sizes", "numbers", "formal_charge", "positions", "bonds", "split"):
        assert np.array_equal(getattr(found, name), getattr(packaged, name))
    assert (found.smiles, found.meta) == (packaged.smiles, packaged.meta)


def test_smiles_get_hydrogens_and_a_geometry(tmp_path):
    """Graphs come back exactly, geometries are those of MMFF94; text, salts and impossible molecules have a reason."""
    texts = ["CCO", "c1ccccc1C(=O)O", "C[N+](=O)[O-]", "no smiles", "[Na+].[Cl-]", "C[C@H](N)C(=O)O", "[CH3]"]
    (tmp_path / "own.smi").write_text("smiles name\n" + "\n".join(f"{text} m{k}" for k, text in enumerate(texts)))
    report = prepare_file(tmp_path / "own.smi", tmp_path / "own.npz", properties=["logp"])
    dataset = MoleculeDataset.from_npz(tmp_path / "own.npz")
    assert dataset.ids.tolist() == [0, 1, 2, 5]
    assert report.reasons["parse"] == 1
    assert sum(report.reasons.values()) == 3
    wanted = [Chem.MolToSmiles(Chem.MolFromSmiles(texts[k]), isomericSmiles=False) for k in dataset.ids]
    assert dataset.smiles == wanted
    assert dataset.meta["name"] == "own-mmff"
    assert dataset.properties["logp"][0] == pytest.approx(-0.0014, abs=1e-4)
    carbon, oxygen = dataset.record(0).pos[1], dataset.record(0).pos[2]
    assert float(np.linalg.norm(carbon - oxygen)) == pytest.approx(1.42, abs=0.01)  # C-O of ethanol in MMFF94
    again = prepare_file(tmp_path / "own.smi", tmp_path / "two.npz")
    assert again.kept == 4
    np.testing.assert_array_equal(MoleculeDataset.from_npz(tmp_path / "two.npz").positions, dataset.positions)
