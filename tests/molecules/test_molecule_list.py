"""`MoleculeList`: nothing is lost, verdicts add up and are computed once."""

import pickle
from collections import Counter

import pytest

from molecules import molecule_list
from molecules.io import read_sdf, read_smiles, read_xyz
from molecules.molecule_list import MoleculeList
from tests.molecules.toys import aromatic_water, from_smiles, make, methane, two_methanes


@pytest.fixture
def mols():
    methyl = make("C H H H", [(0, 1, 1), (0, 2, 1), (0, 3, 1)])
    return MoleculeList([from_smiles("CCO"), methyl, methane(), two_methanes(), aromatic_water()], seeds=range(5))


def test_verdicts_and_reasons(mols):
    assert mols.valid_fraction == 0.4
    assert mols.failures()["fragments:2"] == 1
    assert mols.failures()["valence:C0=3"] == 1
    assert sum(mols.failures().values()) == len(mols) - 2
    assert [mol is None for mol in mols.rdkit] == [False, True, False, True, True]
    assert mols.rdkit[0].GetNumConformers() == 1
    assert mols.smiles == ["CCO", None, "C", None, None]
    assert mols.verdicts[1].atoms == (0,)
    assert mols.verdicts[1].detail


def test_verdicts_are_computed_once(mols, monkeypatch):
    calls = Counter()
    original = molecule_list.judge
    monkeypatch.setattr(molecule_list, "judge", lambda *a, **k: calls.update(n=1) or original(*a, **k))
    assert repr(mols) == "MoleculeList(5 molecules)"
    assert not calls
    assert (mols.valid_fraction, mols.failures().total(), len(mols[1:3].verdicts)) == (0.4, 3, 2)
    assert calls["n"] == 5
    assert repr(mols) == "MoleculeList(5 molecules, 2 valid)"


def test_slices_keep_names_and_seeds(mols):
    part = mols[1::2]
    assert part.names == ["molecule_1", "molecule_3"]
    assert part.seeds == [1, 3]
    assert part[0] is mols[1]
    assert list(part) == [mols[1], mols[3]]
    assert mols.valid().names == ["molecule_0", "molecule_2"]
    assert mols.invalid().names == ["molecule_1", "molecule_3", "molecule_4"]


def test_keep_valid_counts_what_it_drops(mols):
    kept = MoleculeList(mols.records, seeds=mols.seeds, keep="valid")
    assert kept.names == ["molecule_0", "molecule_2"]
    assert kept.seeds == [0, 2]
    assert kept.valid_fraction == 1.0
    assert kept.discarded == mols.failures()
    assert not kept.failures()


def test_files(mols, tmp_path):
    mols.to_sdf(tmp_path / "a.sdf")
    mols.to_xyz(tmp_path / "a.xyz")
    mols.to_smiles(tmp_path / "a.smi")
    entries = read_sdf(tmp_path / "a.sdf")
    assert [entry.properties["valid"] for entry in entries] == ["True", "False", "True", "False", "False"]
    assert entries[1].properties["reason"] == "valence:C0=3"
    assert entries[0].properties["smiles"] == "CCO"
    assert len(read_xyz(tmp_path / "a.xyz")) == 5
    assert read_smiles(tmp_path / "a.smi") == ["CCO", "C"]
    assert (tmp_path / "a.smi").read_text() == "CCO molecule_0\nC molecule_2\n"
    again = MoleculeList.from_sdf(tmp_path / "a.sdf")
    assert again.failures() == mols.failures()
    assert again.smiles == mols.smiles
    assert again.seeds == list("01234")
    assert again.names == mols.names


def test_vocabulary_and_largest_fragment_are_honoured(mols):
    class Carbons:
        elements, charges = ("C", "H"), (0,)

    assert MoleculeList(mols.records, vocabulary=Carbons()).failures()["vocabulary"] == 2
    assert MoleculeList(mols.records, largest_fragment=True).smiles[3] == "C"


def test_it_can_be_sent_to_another_process(mols):
    assert pickle.loads(pickle.dumps(mols)).failures() == mols.failures()


def test_bad_arguments(mols):
    with pytest.raises(ValueError, match="keep"):
        MoleculeList(mols.records, keep="some")
    with pytest.raises(ValueError, match="seeds"):
        MoleculeList(mols.records, seeds=[1])
    assert MoleculeList([]).failures() == Counter()


@pytest.mark.filterwarnings("ignore:.*wide intervals")
def test_report_and_pictures(mols, tmp_path):
    report = mols.report(reference=[methane(), from_smiles("CCO")], training_smiles=["C"])
    assert report["valid"] == mols.valid_fraction
    assert report.reasons == mols.failures()
    assert report["novel"] == 0.5
    mols.grid(tmp_path / "g.png", cell=80)
    mols.grid_3d(tmp_path / "h.png", cell=0.8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.png", "h.png"]
