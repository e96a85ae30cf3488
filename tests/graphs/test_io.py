import networkx as nx
import numpy as np
import pytest
import torch

from graphs.data import GraphDataModule, as_graph_set, from_networkx
from graphs.data.molecules import from_smiles
from graphs.data.sources import load_named
from graphs.graph_list import GraphList
from graphs.io import read_graphs, write_graphs
from tests.graphs.test_data import attributed, same


def test_npz_and_graphml_keep_everything(tmp_path):
    originals = attributed()
    for name in ("a.npz", "folder"):
        write_graphs(originals, tmp_path / name)
        again = read_graphs(tmp_path / name)
        assert all(same(a, b) for a, b in zip(originals, again))
        assert len(again) == 6
    write_graphs(originals[2], tmp_path / "one.graphml")
    assert same(read_graphs(tmp_path / "one.graphml")[0], originals[2])
    with pytest.raises(ValueError, match="can hold one graph, got 6"):
        write_graphs(originals, tmp_path / "one.graphml")


def test_graph6_keeps_structure_and_says_what_it_drops(tmp_path):
    with pytest.warns(UserWarning, match="attributes are left out"):
        write_graphs(attributed(), tmp_path / "a.g6")
    again = read_graphs(tmp_path / "a.g6")
    assert all(set(map(frozenset, a.edges)) == set(map(frozenset, b.edges)) for a, b in zip(attributed(), again))
    assert again.sizes.tolist() == [len(g) for g in attributed()]


def test_pyg_file_needs_no_pickle(tmp_path):
    bare = [nx.gnp_random_graph(n, 0.4, seed=n) for n in (4, 7, 5)]
    for k, graph in enumerate(bare):
        graph.graph["label"] = k % 2
    write_graphs(bare, tmp_path / "a.pt")
    again = read_graphs(tmp_path / "a.pt")
    assert all(a.adj == b.adj for a, b in zip(bare, again))
    assert again.graph_label.tolist() == [0, 1, 0]
    torch.save([object()], tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="without running code"):
        read_graphs(tmp_path / "bad.pt")


def test_molecules(tmp_path):
    graphs = from_smiles(["CCO", "c1ccccc1C(=O)N", "C#N"])
    for name in ("a.smi", "a.sdf"):
        write_graphs(graphs, tmp_path / name)
        again = GraphList(read_graphs(tmp_path / name))
        assert again.smiles() == GraphList(graphs).smiles() == ["CCO", "NC(=O)c1ccccc1", "C#N"]
    assert [mol.GetNumAtoms() for mol in GraphList(graphs).rdkit] == [3, 9, 2]
    with pytest.raises(ValueError, match="no molecules"):
        write_graphs(load_named("community_spectre"), tmp_path / "b.smi")
    assert not (tmp_path / "b.smi").exists()


def test_isolated_nodes_survive_files_and_padding(tmp_path):
    """The two isolated nodes of the SBM set are still there after file, batch and back."""
    graphs = load_named("sbm")
    write_graphs(graphs, tmp_path / "sbm.npz")
    data = GraphDataModule(tmp_path / "sbm.npz", val_fraction=0.0, test_fraction=0.0)
    arrays = data.spec.pad(data.graphs)
    again = data.spec.unpad(arrays["adj"], arrays["num_nodes"])
    assert int((again.degrees == 0).sum()) == 2
    assert int((as_graph_set(GraphList(again)).degrees == 0).sum()) == 2
    assert np.array_equal(again.without_isolated().num_edges, graphs.num_edges)
    assert int((again.without_isolated().sizes - graphs.sizes).sum()) == -2


def test_list_of_generated_graphs(tmp_path):
    new = GraphList(from_networkx(attributed()), [(0, k) for k in range(6)], nfe=33)
    assert isinstance(new, list)
    assert all(same(a, b) for a, b in zip(new, attributed()))
    new.save(tmp_path / "a.npz")
    assert same(read_graphs(tmp_path / "a.npz")[5], new[5])
    assert [data.num_nodes for data in new.to_pyg()] == [len(g) for g in new]
    assert new.to_dense()["adj"].shape == (6, 11, 11)
    assert new._repr_png_().startswith(b"\x89PNG")


BAD = {
    "absent.npz": "no file",
    "bad.npz": "no npz archive",
    "empty.g6": "empty list",
    "bad.g6": "line 1 is no graph",
    "bad.graphml": "no GraphML",
    "directed.graphml": "is directed; pass symmetrize=True",
    "bad.pt": "without running code",
    "bad.smi": "line 2 is no molecule",
    "picture.png": "ending in .npz",
    "nothing": "holds no .graphml",
    "other.npz": "lacks edges, num_edges, num_nodes",
    "loop.npz": r"edge \(1, 1\) of graph 0 is a self-loop",
    "outside.npz": r"edge \(0, 5\) of graph 0 names a node",
    "double.npz": "occurs more than once",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_sentence(tmp_path, name):
    (tmp_path / "nothing").mkdir()
    for bad in ("bad.npz", "bad.graphml", "bad.pt", "picture.png"):
        (tmp_path / bad).write_text("nothing useful")
    (tmp_path / "empty.g6").write_text("")
    (tmp_path / "bad.g6").write_text("~~~~\n")
    (tmp_path / "bad.smi").write_text("C\nC1\n")
    nx.write_graphml_xml(nx.DiGraph([(0, 1)]), tmp_path / "directed.graphml")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    for file, edges in (("loop", [[1, 1]]), ("outside", [[0, 5]]), ("double", [[0, 1], [1, 0]])):
        np.savez(tmp_path / f"{file}.npz", num_nodes=[2], num_edges=[len(edges)], edges=edges)
    with pytest.raises((ValueError, FileNotFoundError), match=BAD[name]) as error:
        read_graphs(tmp_path / name)
    assert "\n" not in str(error.value)
