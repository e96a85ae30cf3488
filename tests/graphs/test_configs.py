"""Every packaged configuration trains, and what it writes can be used."""

from pathlib import Path

import pytest
import yaml

import graphs
from graphs import GraphGenerator
from graphs.data.molecules import ORGANIC, from_smiles
from scidiff.assets import data_folder
from scidiff.cli import main

CONFIGS = sorted((Path(graphs.__file__).parent / "configs").glob("*.yaml"))
NEEDS_FILES = {"community_small", "ego_small", "enzymes", "grid"}
SHORT = (
    "--trainer.max_steps 2 --trainer.max_time null --trainer.accelerator cpu --trainer.logger false "
    "--trainer.precision 32-true --trainer.limit_val_batches 0 --trainer.check_val_every_n_epoch null "
    "--trainer.val_check_interval 2 --trainer.enable_progress_bar false --data.init_args.batch_size 2 "
    "--trainer.callbacks null"
)
SMALL = {  # of the graphs, where two steps of the full size take long
    "planar": "--model.init_args.network.init_args.width 32 --model.init_args.network.init_args.num_layers 2",
    "gdss_grid": "--model.init_args.network.init_args.num_layers 2",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with prepared molecules."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    smiles = ["CCO", "C#N", "FC=O", "CC(=O)N", "C1CC1O", "OC=CF", "NCC#C", "CNC"]
    for name, elements in (("qm9_2d", ORGANIC[:4]), ("zinc_29k", ORGANIC)):
        molecules = from_smiles(smiles, elements=elements).with_split([0, 0, 0, 0, 0, 1, 1, 2])
        molecules.to_npz(tmp_path / "data" / f"{name}.npz")
    return tmp_path


@pytest.mark.filterwarnings("ignore:component")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_of_every_configuration(path, here):
    """Train, load in Python, sample with the settings that the configuration asks for."""
    content = yaml.safe_load(path.read_text())
    if content["data"]["init_args"]["source"] in NEEDS_FILES and data_folder() is None:
        pytest.skip("needs the data folder")
    words = [*SHORT.split(), *SMALL.get(path.stem, "").split()]
    assert main(["graphs", "fit", "-c", path.stem, *words, "--out", "g.safetensors"]) == 0
    generator = GraphGenerator.from_pretrained(here / "g.safetensors")
    assert generator.metadata["provenance"]["steps"] == 2
    wanted = content["model"]["init_args"].get("sampling", {})
    assert {**generator.sampling, **wanted} == generator.sampling
    assert generator.is_gdss == path.stem.startswith("gdss")
    found = generator.sample(2, steps=1, num_nodes=[3, 4])
    assert [len(graph) for graph in found] == [3, 4] or generator.spec.attributes.is_molecular
