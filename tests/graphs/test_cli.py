import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from PIL import Image

from graphs.data import GraphSet
from graphs.data.generators import community_fresh, planar
from graphs.io import read_graphs, write_graphs
from tests.commands import check_help, check_refusal, runner, table


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Run ``scidiff graphs WORDS`` in an empty folder."""
    return runner("graphs", capfd, tmp_path, monkeypatch)


@pytest.fixture
def inputs(tmp_path):
    """Good and bad files, by the names that the table below uses."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").write_text("precious")
    for name in ("old.npz", "old.json", "old.png"):
        (tmp_path / name).write_text("precious")
    write_graphs(planar(3, num_nodes=12), tmp_path / "good.npz")
    nx.write_graphml_xml(nx.DiGraph([(0, 1)]), tmp_path / "directed.graphml")
    (tmp_path / "bad.g6").write_text("~~~~\n")
    np.savez(tmp_path / "empty.npz", num_nodes=[], num_edges=[], edges=np.zeros((0, 2)))
    return tmp_path


def test_help_of_every_verb_needs_no_torch():
    options = ("--graph-nodes", "--label", "--fixed", "--reference", "--drop-isolated", "--charges", "--columns")
    check_help("graphs", ["prepare", "generate", "evaluate", "plot"], options)


BAD = {
    "prepare forest --out old.npz": "no data set 'forest'",
    "prepare planar --out old.json": "must end in .npz",
    "prepare planar --charges --out old.npz": "charges belong to molecules",
    "prepare qm9_2d --source nowhere --out old.npz": "is no folder",
    "prepare qm9_2d --source folder --out old.npz": "qm9_smiles_by_gdb_id.smi.gz, which is not in 'folder'",
    "evaluate good.npz --out old.json": "--reference",
    "evaluate absent.npz --reference tree --out old.json": "no file absent.npz",
    "evaluate old.npz --reference tree --out old.json": "no npz archive",
    "evaluate empty.npz --reference tree --out old.json": "expected generated and reference graphs, got 0",
    "evaluate bad.g6 --reference tree --out old.json": "line 1 is no graph in graph6 format",
    "evaluate directed.graphml --reference tree --out old.json": "is directed",
    "evaluate good.npz --reference tre --out old.json": "no data set and no file 'tre'",
    "evaluate good.npz --reference good.npz:test --out old.json": "have no split",
    "evaluate good.npz --reference tree --kernel gauss --out old.json": "invalid choice: 'gauss'",
    "evaluate good.npz --reference tree --family forest --out old.json": "family must be one of planar",
    "evaluate good.npz --reference tree --protocol published --out old.json": "at least as many generated graphs",
    "evaluate good.npz --reference tree --out report.txt": "must end in .json",
    "evaluate good.npz --reference tree --plot good.npz --out old.json": "named twice",
    "plot good.npz --out old.txt": "must end in .png",
    "plot good.npz": "--out",
    "plot empty.npz --out old.png": "at least one graph to draw",
    "plot good.npz --out good.npz": "named twice",
    "generate": "--out",
    "generate --out old.png": "must end in .npz, .g6",
    "generate --out folder": "is no folder of GraphML files",
    "generate --out old.npz --checkpoint nothing": "no checkpoint 'nothing'",
    "generate --out old.npz --graph-nodes 0": "at least 1, got '0'",
    "generate --out old.npz --plot old.npz": "named twice",
    "generate --out new.npz --gif film.png": "must end in .gif",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_sentence_before_any_work(run, inputs, words):
    check_refusal(run, words, BAD[words], inputs)


def test_prepare_writes_the_split(run):
    result = run("prepare", "planar")
    assert result.status == 0, result.err
    printed = table(result.out)
    assert (printed["train"], printed["valid"], printed["test"]) == ("128", "32", "40")
    assert printed["connected"] == "100.0%"
    graphs = GraphSet.from_npz("data/planar.npz")
    assert np.bincount(graphs.split).tolist() == [128, 32, 40]


def test_evaluate_and_plot(run, tmp_path):
    write_graphs(community_fresh(25, seed=9), tmp_path / "new.npz")
    write_graphs(community_fresh(20, seed=8), tmp_path / "real.npz")
    words = "new.npz --reference real.npz --training real.npz --family community --resamples 20 --out a.json"
    result = run("evaluate", *words.split(), "--plot", "a.png")
    assert result.status == 0, result.err
    report = json.loads(Path("a.json").read_text())
    assert report["distances"]["degree"]["floor"] == pytest.approx(0.0, abs=1e-12)
    assert report["shares"]["connected"]["value"] == 1.0
    assert f"{report['distances']['degree']['value']:.4f}" in result.out
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert run("plot", "new.npz", "--num-graphs", "4", "--columns", "2", "--out", "b.png").status == 0
    assert run("plot", "new.npz", "--reference", "real.npz", "--out", "c.png").status == 0
    assert Path("b.png").read_bytes().startswith(b"\x89PNG")
    assert read_graphs("new.npz").sizes.tolist() == community_fresh(25, seed=9).sizes.tolist()


def test_generate_draws_the_way_to_its_first_graphs(run):
    result = run("generate", "-n", "3", "--steps", "4", "--out", "a.npz", "--gif", "a.gif", "--device", "cpu")
    assert result.status == 0, result.err
    with Image.open("a.gif") as film:
        assert film.n_frames == 5  # four estimates and the sample
