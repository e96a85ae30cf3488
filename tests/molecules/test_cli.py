import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from molecules import MoleculeDataModule, MoleculeDiffusion, MoleculeGenerator
from molecules.data import MoleculeDataset, packaged_qm9
from molecules.fragments import read_part
from molecules.io import read_sdf, read_xyz, write_sdf, write_xyz
from molecules.networks import PairFormer
from tests.commands import ROOT, check_help, check_refusal, runner, table
from tests.molecules.models import SMALL, small_generator
from tests.molecules.test_fragments import embedded
from tests.molecules.toys import from_smiles, packaged

SMILES = ("CCO", "C#N", "CC(=O)N", "[NH3+]CC(=O)[O-]", "c1cc[nH]c1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small_generator(steps=2).save(tmp_path_factory.mktemp("checkpoint") / "small.safetensors")


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Run ``scidiff molecules WORDS`` in an empty folder."""
    monkeypatch.delenv("SCIDIFF_DATA", raising=False)
    return runner("molecules", capfd, tmp_path, monkeypatch)


def test_help_of_every_verb_needs_no_torch():
    options = ("--elements", "--n-atoms", "--grid-3d", "--valid-only", "--protocol", "--reference", "--report")
    check_help("molecules", ["prepare", "generate", "evaluate"], options)


@pytest.fixture
def inputs(tmp_path, checkpoint):
    """Good and bad files, by the names that the table below uses."""
    content = (ROOT / "molecules" / "assets" / "qm9_2k.npz").read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "old.sdf").write_text("precious")
    (tmp_path / "old.npz").write_text("precious")
    (tmp_path / "old.json").write_text("precious")
    (tmp_path / "no.sdf").write_text("this is no molecule\n")
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "good.safetensors").write_bytes(checkpoint.read_bytes())
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:-100])
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    write_xyz(tmp_path / "water.xyz", [from_smiles("O")])
    (tmp_path / "cut.xyz").write_text("3\n\nO 0 0 0\nH 0 0 1\n")
    return tmp_path


GENERATE = "generate --checkpoint good.safetensors --out old.sdf"
PREPARE = "prepare water.xyz --out old.npz"
FIT = "fit -c qm9_implicit --trainer.accelerator cpu --trainer.logger false --data.init_args.root"
BAD = {
    "generate": "--out",
    "generate --out old.sdf --checkpoint nothing": "no checkpoint 'nothing'",
    "generate --out old.sdf --checkpoint cut.safetensors": "cannot be read as a safetensors file",
    "generate --out old.sdf --checkpoint text.safetensors": "cannot be read as a safetensors file",
    "generate --out old.sdf --checkpoint folder": "is a folder",
    f"{GENERATE} -n 0": "at least 1, got '0'",
    f"{GENERATE} -n -5": "at least 1, got '-5'",
    f"{GENERATE} --steps 0": "at least 1, got '0'",
    f"{GENERATE} --n-atoms -1": "at least 1, got '-1'",
    f"{GENERATE} --seed -1": "at least 0, got '-1'",
    f"{GENERATE} --solver eulr": "Did you mean 'euler'",
    f"{GENERATE} --solver euler_maruyama": "singular",
    f"{GENERATE} --device gpu": "is not a device",
    f"{GENERATE} --device meta": "not supported",
    f"{GENERATE} --smiles old.sdf": "named twice",
    f"{GENERATE} --xyz folder": "is a folder",
    f"{GENERATE} --grid picture.jpg": "must end in .png",
    f"{GENERATE} --report report.txt": "must end in .json",
    "generate --checkpoint good.safetensors --out old.txt": "must end in .sdf",
    "generate --checkpoint good.safetensors --out old.json/new.sdf": "lies below something that is a file",
    "evaluate no.sdf --out old.json": "no readable molecule",
    "evaluate absent.sdf --out old.json": "no file absent.sdf",
    "evaluate cut.npz --out old.json": "no npz archive",
    "evaluate text.npz --out old.json": "no npz archive",
    "evaluate cut.xyz --out old.json": "the number of atoms of a frame",
    "evaluate water.xyz --out old.json": "has no bonds",
    "evaluate water.xyz --protocol ed --out old.json": "among corrected, legacy-midi, edm, got ed",
    "evaluate water.xyz --protocol edm --reference cut.npz --out old.json": "no npz archive",
    "evaluate water.xyz --max-reference -1 --out old.json": "at least 0",
    "evaluate water.xyz --protocol edm --out folder": "must end in .json",
    "prepare no.sdf --out old.npz": "no molecule of 1 is left after cleaning (parse 1)",
    "prepare absent.xyz --out old.npz": "absent.xyz does not exist",
    "prepare cut.xyz --out old.npz": "complete atom lines instead of 3",
    "prepare cut.npz --out old.npz": "no npz archive",
    "prepare old.npz --out old.npz": "named twice",
    "prepare qm9 --out old.npz": "set SCIDIFF_DATA",
    "prepare qm9 --out old.npz --hydrogens implicit --max-atoms 5": "--hydrogens, --max-atoms cannot be used",
    f"{PREPARE} --elements C,Xx": "'Xx', which is not an element symbol",
    f"{PREPARE} --elements C": "no molecule of 1 is left after cleaning (element 1)",
    f"{PREPARE} --max-atoms -1": "at least 1, got '-1'",
    f"{PREPARE} --source folder": "--source belongs to 'prepare qm9'",
    "prepare water.xyz --out folder": "must end in .npz",
    f"{FIT} cut.npz": "no npz archive",
    f"{FIT} absent.npz": "absent.npz does not exist",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_sentence_before_any_work(run, inputs, words):
    check_refusal(run, words, BAD[words], inputs)


def test_no_valid_molecule_leaves_the_output_alone(run, inputs):
    result = run(*f"{GENERATE} -n 2 --n-atoms 12 --valid-only".split())
    assert result.status == 2
    assert "drop --valid-only" in result.err
    assert (inputs / "old.sdf").read_text() == "precious"


@pytest.mark.parametrize("suffix", [".sdf", ".xyz"])
def test_prepare_own_molecules(run, tmp_path, suffix):
    """Five molecules with their bonds, charges and a report, from a file with bonds and from coordinates alone."""
    records = [from_smiles(smiles) for smiles in SMILES]
    (write_sdf if suffix == ".sdf" else write_xyz)(tmp_path / f"mine{suffix}", records)
    result = run("prepare", f"mine{suffix}", "--report", "report.json", "--max-atoms", "10")
    assert result.status == 0, result.err
    data, report = MoleculeDataset.from_npz(Path("data/mine.npz")), json.loads(Path("report.json").read_text())
    assert len(data) == report["kept"] == int(table(result.out)["kept"]) == 5
    assert report["methods"] == {"file" if suffix == ".sdf" else "factor 1.30": 5}
    assert sum(report["splits"].values()) == 5
    for k, record in enumerate(records):
        assert np.array_equal(data.record(k).numbers, record.numbers)
        assert data.record(k).bonds.sum() == record.bonds.sum()
        assert np.array_equal(data.record(k).formal_charge, record.formal_charge)
    few = run("prepare", f"mine{suffix}", "--elements", "C,H,N", "--hydrogens", "implicit", "--out", "few.npz")
    assert few.status == 0, few.err
    assert table(few.out)["element"] == "3"
    assert not MoleculeDataset.from_npz(Path("few.npz")).explicit_h


def test_files_of_a_run_agree(run, checkpoint):
    """SDF, SMILES, XYZ, pictures and report of one run, and `evaluate` on its SDF."""
    options = "-n 30 --n-atoms 2 --steps 2 --solver heun --out a.sdf --smiles a.smi --xyz a.xyz --report a.json"
    result = run("generate", "--checkpoint", checkpoint, *options.split(), "--grid", "a.png", "--grid-3d", "b.png")
    assert result.status == 0, result.err
    printed, entries = table(result.out), read_sdf("a.sdf")
    valid = [entry for entry in entries if entry.properties["valid"] == "True"]
    assert len(entries) == len(read_xyz("a.xyz")) == int(printed["molecules"]) == 30
    assert 0 < len(valid) < 30
    assert printed["valid and connected"] == f"{len(valid) / 30:.1%}"
    assert (printed["steps"], printed["nfe"]) == ("2", "4")  # two, one for the last step (to t = 0), and the final one
    with open("a.smi", encoding="utf-8") as file:
        rows = [tuple(row) for row in csv.reader(file, delimiter=" ")]
    assert rows == [(entry.properties["smiles"], entry.title) for entry in valid]
    assert {entry.properties["seed"] for entry in entries} == {f"0/{k}" for k in range(30)}
    report = json.loads(Path("a.json").read_text())
    assert report["num_molecules"] == 30
    assert sum(report["reasons"].values()) == 30 - len(valid)
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png"))
    for entry, frame in zip(entries, read_xyz("a.xyz")):
        assert np.array_equal(entry.record.numbers, frame.record.numbers)
        assert np.abs(entry.record.pos - frame.record.pos).max() <= 0.5e-4 + 0.5e-6 + 1e-9
    judged = run("evaluate", "a.sdf", "--protocol", "corrected,edm", "--out", "again.json", "--seed", "1")
    assert judged.status == 0, judged.err
    again = json.loads(Path("again.json").read_text())
    assert again["num_molecules"] == 30
    assert again["reasons"] == report["reasons"]
    assert again["metrics"]["corrected"]["valid"]["value"] == pytest.approx(len(valid) / 30)
    assert "edm" in again["metrics"]


def test_evaluate_says_what_real_molecules_are(run, tmp_path):
    write_sdf(tmp_path / "real.sdf", packaged(20))
    result = run("evaluate", "real.sdf", "--reference", ROOT / "molecules" / "assets" / "qm9_2k.npz")
    assert result.status == 0, result.err
    assert result.err == ""
    assert "valid" in result.out
    assert "edm" not in result.out


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """An untrained model that knows logP and fixed parts."""
    data = MoleculeDataModule.from_dataset(packaged_qm9().without_hydrogens(), properties=["logp"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MoleculeDiffusion(PairFormer(**SMALL), spec=data.spec, fixed_share=0.5)
    return MoleculeGenerator(model).save(tmp_path_factory.mktemp("controlled") / "m.safetensors")


def test_wishes_and_parts_from_the_shell(run, controlled):
    """The part lies where the file has it; path and film end in molecule 0; the same molecules as in Python."""
    mol = embedded("C1CC1")
    with Chem.SDWriter("part.sdf") as writer:
        writer.write(mol)
    words = "-n 3 --steps 2 --seed 4 --condition logp=1.5 --guidance-scale 2 --fixed part.sdf --keep scaffold"
    files = "--out a.sdf --trajectory a.xyz --film a.gif"
    result = run("generate", "--checkpoint", controlled, *words.split(), *files.split())
    assert result.status == 0, result.err
    assert table(result.out)["nfe"] == "6"
    entries, frames = read_sdf("a.sdf"), read_xyz("a.xyz")
    wanted = mol.GetConformer().GetPositions()[:3]
    for entry in entries:
        np.testing.assert_allclose(entry.record.pos[:3], wanted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(frames[-1].record.pos, entries[0].record.pos, rtol=0, atol=2e-4)
    assert Path("a.gif").read_bytes()[:4] == b"GIF8"
    generator = MoleculeGenerator.from_pretrained(controlled)
    options = {"condition": {"logp": 1.5}, "guidance_scale": 2.0, "fixed": read_part("part.sdf", "scaffold")}
    for entry, record in zip(entries, generator.sample(3, steps=2, seed=4, **options)):
        assert np.array_equal(entry.record.numbers, record.numbers)


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        ("--condition logp", "expects NAME=NUMBER"),
        ("--condition qed=1", "cannot be conditioned on 'qed'; it knows logp"),
        ("--fixed nothing.sdf", "Expected an SDF with the part"),
        ("--film a.mp4", "must end in .gif"),
    ],
)
def test_impossible_wishes_end_with_one_sentence(run, controlled, words, telling):
    result = run("generate", "--checkpoint", controlled, "-n", "2", "--steps", "1", "--out", "a.sdf", *words.split())
    assert result.status == 2
    assert telling in result.err
    assert not Path("a.sdf").exists()
