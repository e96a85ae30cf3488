"""Every packaged configuration trains, and what it writes can be used."""

from pathlib import Path

import numpy as np
import pytest

import molecules
from molecules import MoleculeGenerator
from molecules.data import packaged_qm9
from molecules.properties import property_table
from scidiff.cli import main

CONFIGS = sorted((Path(molecules.__file__).parent / "configs").glob("*.yaml"))
SHORT = (
    "--trainer.max_steps 2 --trainer.max_time null --trainer.accelerator cpu --trainer.logger false "
    "--trainer.precision 32-true --trainer.limit_val_batches 1 --trainer.check_val_every_n_epoch null "
    "--trainer.val_check_interval 2 --trainer.enable_progress_bar false "
    "--data.init_args.batch_pairs 800"
)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The smaller molecules of the packaged test and validation parts, and as many for training; with properties."""
    data = packaged_qm9()
    small = np.flatnonzero(data.sizes <= 17)
    chosen = np.concatenate([small[data.split[small] == code][:60] for code in range(3)])
    path = tmp_path_factory.mktemp("data") / "few.npz"
    part = data.subset(chosen)
    part.with_properties(property_table(part.smiles, ["logp", "tpsa", "qed"])).save(path)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_of_every_configuration(path, few, tmp_path, monkeypatch, capfd):
    """Train, load in Python, generate in the shell; then data of another vocabulary cannot resume."""
    monkeypatch.chdir(tmp_path)
    name = "source" if "source:" in path.read_text() else "root"
    short = [*SHORT.split(), f"--data.init_args.{name}", str(few)]
    assert main(["molecules", "fit", "-c", path.stem, *short, "--out", "m.safetensors"]) == 0
    shown = capfd.readouterr().out
    assert "m.safetensors" in shown
    assert "val_loss" in shown
    generator = MoleculeGenerator.from_pretrained(tmp_path / "m.safetensors")
    provenance, metrics = generator.metadata["provenance"], generator.metadata["metrics"]
    assert provenance["steps"] == 2
    assert 0 < metrics["val_loss"] < float("inf")  # an untrained preconditioned error has no useful bound
    assert len(generator.sample(2, steps=1)) == 2
    words = "generate --checkpoint m.safetensors -n 2 --steps 1 --out a.sdf"
    assert main(["molecules", *words.split()]) == 0
    assert (tmp_path / "a.sdf").read_text().count("$$$$") == 2
    capfd.readouterr()
    (ckpt,) = tmp_path.rglob("last.ckpt")
    other = "explicit" if generator.spec.explicit_h is False else "implicit"
    resume = ["--data.init_args.hydrogens", other, "--ckpt_path", str(ckpt), "--out", "n.safetensors"]
    assert main(["molecules", "fit", "-c", path.stem, *short, *resume]) == 2
    assert "must be the same" in capfd.readouterr().err
    assert not (tmp_path / "n.safetensors").exists()
