"""Every packaged configuration trains, and what it writes can be used."""

from pathlib import Path

import pytest

import molecules
from molecules import MoleculeGenerator
from scidiff.cli import main

CONFIGS = sorted((Path(molecules.__file__).parent / "configs").glob("*.yaml"))
SHORT = (
    "--trainer.max_steps 2 --trainer.max_time null --trainer.accelerator cpu --trainer.logger false "
    "--trainer.precision 32-true --trainer.limit_val_batches 1 --trainer.check_val_every_n_epoch null "
    "--trainer.val_check_interval 2 --trainer.enable_progress_bar false "
    "--data.init_args.root 2k --data.init_args.batch_pairs 2000"
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_of_every_configuration(path, tmp_path, monkeypatch, capfd):
    """Train, load in Python, generate in the shell; then data of another vocabulary cannot resume."""
    monkeypatch.chdir(tmp_path)
    assert main(["molecules", "fit", "-c", path.stem, *SHORT.split(), "--out", "m.safetensors"]) == 0
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
    assert main(["molecules", "fit", "-c", path.stem, *SHORT.split(), *resume]) == 2
    assert "must be the same" in capfd.readouterr().err
    assert not (tmp_path / "n.safetensors").exists()
