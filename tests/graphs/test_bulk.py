import json
from argparse import Namespace

import networkx as nx
import numpy as np
import pytest

from graphs.bulk import sample_in_chunks
from graphs.commands import demo
from graphs.data import GraphDataModule
from graphs.io import read_graphs, write_graphs
from scidiff.chunks import Chunks
from scidiff.cli import main
from tests.graphs.test_data import attributed, same

GraphDiffusion = pytest.importorskip("graphs.diffusion").GraphDiffusion
GraphGenerator = pytest.importorskip("graphs.generator").GraphGenerator
EdgeTransformer = pytest.importorskip("graphs.networks").EdgeTransformer


@pytest.fixture(scope="module")
def generator():
    """Untrained, for graphs with attributes and labels."""
    network = EdgeTransformer(width=16, edge_width=8, num_layers=1, num_heads=2)
    return GraphGenerator(GraphDiffusion(network, spec=GraphDataModule(attributed(12)).spec))


@pytest.fixture
def run(capfd, tmp_path, monkeypatch, generator):
    """Run ``scidiff graphs WORDS`` in a folder with the checkpoint ``small.safetensors``."""
    monkeypatch.chdir(tmp_path)
    generator.save("small.safetensors")

    def call(words):
        status = main(["graphs", *words.split()])
        out, err = capfd.readouterr()
        return Namespace(status=status, out=out, err=err)

    return call


GENERATE = "generate --checkpoint small.safetensors --device cpu"


def test_command_writes_what_the_generator_draws(run, generator):
    """Chunks of 3 in a file equal one call; the working folder is gone."""
    result = run(f"{GENERATE} -n 7 --batch-size 3 --steps 2 --label b --seed 4 --out a.npz --plot a.png")
    assert result.status == 0, result.err
    new = generator.sample(7, steps=2, label="b", seed=4)
    again = read_graphs("a.npz")
    assert again.sizes.tolist() == new.graph_set.sizes.tolist()
    for one, other in zip(new, again):
        assert one.adj.keys() == other.adj.keys()
        assert set(map(frozenset, one.edges)) == set(map(frozenset, other.edges))
        assert [d["symbol"] for _, d in one.nodes(data=True)] == [d["symbol"] for _, d in other.nodes(data=True)]
        assert other.graph == {"label": "b"}
    assert f"nfe             {new.nfe}" in result.out


def test_interrupted_runs_go_on(tmp_path, generator):
    """Damaged and finished chunks: the result is that of an undisturbed run."""
    options = {"origin": "x", "steps": 2, "batch_size": 2, "accelerator": "cpu", "devices": 1, "num_nodes": 1}
    whole, chunks = sample_in_chunks(generator, 5, tmp_path / "a", **options)
    first = sorted((tmp_path / "a").glob("chunk_*.npz"))[0]
    first.unlink()
    again, _ = sample_in_chunks(generator, 5, tmp_path / "a", **options)
    assert all(same(a, b) for a, b in zip(whole, again))
    assert isinstance(chunks, Chunks)
    chunks.remove()


def test_known_part_and_sizes(run):
    part = nx.path_graph(3)
    for i in part:
        part.nodes[i].update(symbol="C", charge=0, mass=0.5, pos=(0.0, -1.0, 0.0))
    for edge in part.edges.values():
        edge.update(kind="weak", weight=0.25)
    write_graphs(part, "part.npz")
    result = run(f"{GENERATE} -n 2 --steps 2 --graph-nodes 6 --fixed part.npz --out a.npz")
    assert result.status == 0, result.err
    for graph in read_graphs("a.npz"):
        assert len(graph) == 6
        assert set(graph.subgraph(range(3)).edges) == {(0, 1), (1, 2)}
        assert [graph.nodes[i]["symbol"] for i in range(3)] == ["C"] * 3


def test_demo_writes_graphs_pictures_and_a_report(tmp_path, monkeypatch):
    network = EdgeTransformer(width=16, edge_width=8, num_layers=1, num_heads=2)
    module = GraphDiffusion(network, spec=GraphDataModule("community_spectre").spec)
    small = GraphGenerator(module, sampling={"steps": 2})
    monkeypatch.setattr(GraphGenerator, "from_pretrained", classmethod(lambda cls, name: small))
    paths = demo(tmp_path)
    assert [path.name for path in paths] == ["graphs.npz", "graphs.png", "statistics.png", "report.json"]
    assert len(read_graphs(paths[0])) == 20
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[1:3])
    report = json.loads(paths[3].read_text())
    assert report["settings"]["graphs"] == report["settings"]["reference graphs"] == 20
    assert report["shares"]["valid"]["reference"] == 1.0


BAD = {
    "--out a.smi": "is for molecules, which this model does not draw",
    "--out a.npz --label q": "label must be one of the labels of the data (a, b)",
    "--out a.npz --solver eulr": "euler",
    "--out a.npz --fixed two.npz": "must hold one graph, got 2",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_requests_are_one_sentence(run, tmp_path, words):
    write_graphs(attributed(2), "two.npz")
    result = run(f"{GENERATE} -n 2 {words}")
    assert result.status == 2
    assert result.err.startswith("scidiff: error: ")
    assert BAD[words] in result.err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("a.")]
    assert np.load("two.npz").files
