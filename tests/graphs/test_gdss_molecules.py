"""GDSS on molecules: known molecules in, the same out; correction after sampling; every verb from data to figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from graphs import GDSSDiffusion, GraphGenerator
from graphs.chemistry import judge
from graphs.data import GraphSet, GraphSpec
from graphs.data.molecules import ORGANIC, from_smiles
from graphs.networks import GDSSNetwork
from graphs.processes import encode_gdss
from scidiff.cli import main
from scidiff.schedules import VESDE

SMILES = ["CC(=O)NC", "Cc1ccoc1", "C#CC(N)=O", "FC1CCC1O", "N#CC1CO1"]
SETTINGS = {"solver": "pc", "solver_options": {"predictor": "reverse_diffusion", "snr": 0.2, "scale_eps": 0.7}}


def known(smiles):
    return from_smiles(smiles, elements=ORGANIC[:4])


def sampled(target, monkeypatch, steps=60):
    """Graphs drawn by the published sampler with the exact score of one point, sigma(t) = 0.1 * 10^t."""
    spec = GraphSpec.from_graphs(known(SMILES))
    with pytest.warns(UserWarning, match="signal-to-noise"):
        module = GDSSDiffusion(
            GDSSNetwork(depth=1, num_layers=1, width=4, attention_width=4),
            spec=spec,
            schedule_x=VESDE(0.1, 1.0),
            schedule_adj=VESDE(0.1, 1.0),
            sampling={**SETTINGS, "steps": steps},
        )
    generator = GraphGenerator(module)
    batch = {name: torch.as_tensor(value).long() for name, value in spec.pad(target).items()}
    mask = torch.arange(batch["x"].shape[1]) < batch["num_nodes"][:, None]
    clean = encode_gdss({**batch, "node_mask": mask}, 4)

    def score(state, t, cond):
        variance = (0.1 * 10 ** t[:, None, None]) ** 2
        return {name: (clean[name][:, : len(cond["node_mask"][0])] - value) / variance for name, value in state.items()}

    monkeypatch.setattr(generator.denoiser.network, "forward", score)
    return generator.sample(6, num_nodes=int(target.sizes[0]), seed=1)


@pytest.mark.filterwarnings("ignore:component")
@pytest.mark.parametrize("smiles", SMILES)
def test_a_point_gives_its_molecule(smiles, monkeypatch):
    """Noise of 0.1 around atoms and bond orders is far inside the thresholds of 0.5."""
    found = sampled(known([smiles]), monkeypatch)
    expected = judge(known([smiles]))[0].raw_smiles
    assert found.smiles() == [expected] * 6
    assert [verdict.corrected_smiles for verdict in judge(found.graph_set)] == [expected] * 6
    assert found.rdkit[0].GetNumAtoms() == known([smiles]).sizes[0]


@pytest.mark.filterwarnings("ignore:component")
def test_a_point_that_is_no_molecule_is_corrected(monkeypatch):
    """A carbon with five bonds loses one order of its triple bond."""
    attributes = known(SMILES).attributes
    bonds = np.array([[0, 1], [0, 2], [0, 3]])
    target = GraphSet([4], [3], bonds, node_label=[0] * 4, edge_label=[3, 1, 1], attributes=attributes)
    verdicts = judge(sampled(target, monkeypatch).graph_set)
    assert [(v.valid, v.corrected_smiles) for v in verdicts] == [(False, "C=C(C)C")] * 6


@pytest.mark.filterwarnings("ignore:component")
def test_from_data_to_figures(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    known(SMILES * 4).with_split([0] * 15 + [2] * 5).to_npz("data/qm9_2d.npz")
    words = (
        "--trainer.max_epochs 2 --trainer.accelerator cpu --trainer.logger false --trainer.enable_progress_bar false"
    )
    assert main(["graphs", "fit", "-c", "gdss_qm9", *words.split(), "--out", "g.safetensors"]) == 0
    words = "-n 12 --steps 5 --device cpu --checkpoint g.safetensors --out"
    assert main(["graphs", "generate", *words.split(), "new.npz"]) == 0
    assert main(["graphs", "generate", *words.split(), "new.smi"]) == 0
    capfd.readouterr()
    words = "new.npz --reference qm9_2d --resamples 5 --out report.json"
    assert main(["graphs", "evaluate", *words.split()]) == 0
    figures = json.loads(Path("report.json").read_text())["figures"]
    drawn = judge(GraphSet.from_npz("new.npz"))
    assert figures["molecules valid"] == sum(verdict.valid for verdict in drawn) / 12
    assert figures["molecules readable_after_correction"] == 1.0
    assert 0.0 <= figures["molecules novel_corrected"] <= 1.0
    assert "molecules valid" in capfd.readouterr().out
