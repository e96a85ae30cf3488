import json

import networkx as nx
import numpy as np
import pytest
import torch
from torch.utils.data import random_split
from torch_geometric.data import Batch, Data

from graphs.data import GraphDataModule, GraphSet, GraphSpec, as_graph_set, dense_batch, from_networkx, to_pyg
from graphs.data.generators import community_skeleton, community_small, erdos_renyi, lobster, planar, sbm, tree
from graphs.data.molecules import from_smiles
from graphs.data.sources import SOURCES, load_named, split_codes
from scidiff.assets import data_folder

needs_data = pytest.mark.skipif(data_folder() is None, reason="needs the data folder")

# specification of the benchmarks: graphs, smallest, largest, mean nodes, smallest, largest, mean edges, max degree
CONTENTS = {
    "community_small": (100, 12, 20, 15.28, 21, 60, 35.15, 9),
    "ego_small": (200, 4, 17, 6.41, 3, 66, 8.70, 16),
    "enzymes": (587, 10, 125, 33.0, 16, 149, 63.3, 9),
    "grid": (100, 110, 361, 216.4, 199, 684, 403.3, 4),
    "community_spectre": (100, 12, 20, 15.7, 21, 61, 37.0, 9),
    "planar": (200, 64, 64, 64.0, 173, 183, 178.3, 11),
    "sbm": (200, 42, 176, 107.8, 117, 992, 523.9, 23),
}


def attributed(num_graphs=6):
    """Graphs with words, integers, numbers and vectors on nodes and edges, labels, and isolated nodes."""
    graphs = []
    for k in range(num_graphs):
        graph = nx.gnp_random_graph(5 + k, 0.4, seed=k)
        graph.add_node(5 + k)
        for i in graph:
            graph.nodes[i].update(symbol="CNO"[i % 3], charge=i % 2, mass=0.5 + i, pos=(0.1 * i, -1.0, float(k)))
        for a, b in graph.edges:
            graph.edges[a, b].update(kind=("weak", "strong")[(a + b) % 2], weight=0.25 * (a + 1))
        graph.graph["label"] = "ab"[k % 2]
        graphs.append(graph)
    return graphs


def same(first, second):
    return nx.utils.graphs_equal(first, second) and first.graph == second.graph


def test_networkx_round_trip_keeps_every_attribute():
    originals = attributed()
    graphs = from_networkx(originals)
    assert all(same(a, b) for a, b in zip(originals, graphs))
    assert [len(g) - g.number_of_edges() for g in graphs] == [len(g) - g.number_of_edges() for g in originals]
    named = nx.relabel_nodes(originals[0], {i: f"node {i}" for i in originals[0]})
    assert same(from_networkx([named])[0], originals[0])


def test_npz_round_trip_is_exact(tmp_path):
    graphs = from_networkx(attributed()).with_split(np.array([0, 0, 1, 2, 2, 0]))
    graphs.to_npz(tmp_path / "a.npz")
    again = GraphSet.from_npz(tmp_path / "a.npz")
    assert again.attributes == graphs.attributes
    assert np.array_equal(again.split, graphs.split)
    assert all(same(a, b) for a, b in zip(graphs, again))
    assert [len(g) for g in again.part("test")] == [9, 10]


def test_pad_and_unpad_are_inverse():
    """Isolated nodes, classes, features in their own units; padding is zero and symmetric."""
    graphs = from_networkx(attributed())
    spec = GraphSpec.from_config(json.loads(json.dumps(GraphSpec.from_graphs(graphs).to_config())))
    batch = dense_batch(spec.pad(graphs, 14))
    assert batch["adj"].shape == (6, 14, 14)
    assert torch.equal(batch["adj"], batch["adj"].transpose(1, 2))
    assert not batch["adj"].diagonal(dim1=1, dim2=2).any()
    outside = ~(batch["node_mask"][:, :, None] & batch["node_mask"][:, None, :])
    assert not batch["adj"][outside].any()
    assert not batch["features"][~batch["node_mask"]].any()
    real = batch["features"][batch["node_mask"]]
    assert real.mean(0).abs().max() < 1e-6
    moved = [name for name in real.std(0, correction=0).tolist() if abs(name - 1) > 1e-6]
    assert moved == [0.0]  # the coordinate that never changes
    arrays = {name: value.numpy() for name, value in batch.items() if name != "node_mask"}
    again = spec.unpad(arrays.pop("adj"), arrays.pop("num_nodes"), **arrays)
    for a, b in zip(graphs, again):
        assert a.nodes.keys() == b.nodes.keys()
        assert a.edges.keys() == b.edges.keys()
        for i in a:
            assert (a.nodes[i]["symbol"], a.nodes[i]["charge"]) == (b.nodes[i]["symbol"], b.nodes[i]["charge"])
            assert b.nodes[i]["pos"] == pytest.approx(a.nodes[i]["pos"], abs=1e-6)
        assert all(a.edges[e]["kind"] == b.edges[e]["kind"] for e in a.edges)
    assert sum(spec.edge_marginal) == pytest.approx(1.0)
    pairs = sum(len(g) * (len(g) - 1) // 2 for g in graphs)
    assert spec.edge_marginal[0] == pytest.approx(1 - sum(g.number_of_edges() for g in graphs) / pairs)


def test_pyg_round_trip():
    """One-hot x, integer edge_attr and y come back as they were; a Batch is a list of graphs."""
    generator = torch.Generator().manual_seed(0)
    data = []
    for k in range(5):
        pairs = torch.tensor([[0, 1, 2], [1, 2, 3]])
        x = torch.eye(3)[torch.randint(3, (5,), generator=generator)]
        kind = torch.randint(4, (3, 2), generator=generator)
        index = torch.cat([pairs, pairs.flip(0)], dim=1)
        data.append(Data(x=x, edge_index=index, edge_attr=torch.cat([kind, kind]), y=torch.tensor([k % 2])))
    for source in (data, Batch.from_data_list(data)):
        graphs = as_graph_set(source)
        assert graphs.sizes.tolist() == [5] * 5
        assert graphs.attributes.num_node_classes <= 3
        assert graphs.attributes.node_features == ()
        for old, new in zip(data, to_pyg(graphs)):
            assert torch.equal(old.x, new.x)
            assert torch.equal(old.edge_attr, new.edge_attr)
            assert torch.equal(old.edge_index, new.edge_index)
            assert torch.equal(old.y, new.y)
    real = [Data(x=torch.randn(4, 2, generator=generator), edge_index=torch.tensor([[0, 1], [1, 0]])) for _ in range(3)]
    graphs = as_graph_set(real)
    assert all(torch.allclose(a.x, b.x) for a, b in zip(real, to_pyg(graphs)))
    for k, graph in enumerate(real):  # classes beside real features; targets of link prediction are no classes
        graph.edge_attr = torch.randn(1, generator=generator).expand(2)
        graph.node_label, graph.edge_label = torch.tensor([3, 5, 5, 3 + k]), torch.tensor([k, k])
    for old, new in zip(real, to_pyg(as_graph_set(real))):
        assert torch.equal(old.node_label, new.node_label)
        assert torch.equal(old.edge_label, new.edge_label)
        assert torch.allclose(old.edge_attr, new.edge_attr)
    real[1].edge_label = torch.zeros(7)
    assert as_graph_set(real).attributes.edge_names == ()


def with_node(graph, **attributes):
    graph.nodes[0].update(attributes)
    return graph


LOOP = nx.Graph([(0, 1), (1, 1)])
REFUSED = {
    "directed": (nx.DiGraph([(0, 1)]), "symmetrize=True"),
    "multigraph": (nx.MultiGraph([(0, 1), (0, 1)]), "is a multigraph"),
    "loop": (LOOP, "remove_self_loops=True"),
    "empty": (nx.Graph(), "has no nodes"),
    "partial": (with_node(nx.path_graph(3), kind="a"), "missing on one node of graph 0"),
    "nan": (nx.Graph([(0, 1, {"weight": float("nan")}), (1, 2, {"weight": 1.0})]), "must be finite, got nan"),
    "negative": (nx.Graph([(0, 1, {"weight": -1.0}), (1, 2, {"weight": 1.0})]), "must not be negative, got -1.0"),
    "object": (with_node(nx.path_graph(1), kind=object()), "values of one kind"),
    "mixed": (nx.Graph([(0, 1, {"kind": "a"}), (1, 2, {"kind": 1})]), "values of one kind"),
    "names": (nx.Graph([(i, i + 1, {"id": i}) for i in range(300)]), "300 different values"),
    "pyg directed": (Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2), "symmetrize=True"),
    "pyg loop": (Data(edge_index=torch.tensor([[0], [0]]), num_nodes=2), "remove_self_loops=True"),
    "pyg double": (Data(edge_index=torch.tensor([[0, 0, 1], [1, 1, 0]]), num_nodes=2), "is a multigraph"),
    "pyg range": (Data(edge_index=torch.tensor([[0, 5], [5, 0]]), num_nodes=2), r"in \[0, 2\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_represented_is_refused(name):
    graph, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        as_graph_set([graph])


def test_options_accept_what_they_name():
    assert as_graph_set(nx.DiGraph([(0, 1), (1, 0), (1, 2)]), symmetrize=True).num_edges.tolist() == [2]
    assert as_graph_set(LOOP, remove_self_loops=True).num_edges.tolist() == [1]
    bare = as_graph_set(attributed(), node_attributes=["symbol"], edge_attributes=[])
    assert bare.attributes.node_names == ("symbol",)
    assert bare.attributes.edge_names == bare.attributes.edge_features == ()
    with pytest.raises(ValueError, match="more than max_nodes=8"):
        GraphDataModule(attributed(), max_nodes=8)
    with pytest.raises(TypeError, match="got a list of int"):
        as_graph_set([1, 2])
    with pytest.raises(ValueError, match="empty list"):
        as_graph_set([])


@needs_data
@pytest.mark.parametrize("name", CONTENTS)
def test_named_sets_have_the_published_contents(name):
    graphs = load_named(name)
    count, low, high, mean, few, many, edges, degree = CONTENTS[name]
    assert (len(graphs), graphs.sizes.min(), graphs.sizes.max()) == (count, low, high)
    assert (graphs.num_edges.min(), graphs.num_edges.max(), graphs.degrees.max()) == (few, many, degree)
    assert graphs.sizes.mean() == pytest.approx(mean, abs=0.05)
    assert graphs.num_edges.mean() == pytest.approx(edges, abs=0.05)


@needs_data
@pytest.mark.parametrize("name", ["planar_64_200", "sbm_200"])
def test_procedural_sets_equal_their_files(name):
    """The files that the acceptance numbers were computed on."""
    file = GraphSet.from_npz(data_folder() / "graphs" / "spectre" / f"{name}_regenerated.npz")
    ours = load_named(name.split("_")[0])
    assert np.array_equal(file.sizes, ours.sizes)
    assert all(nx.utils.graphs_equal(a, b) for a, b in zip(file, ours))
    assert int((ours.degrees == 0).sum()) == (2 if name.startswith("sbm") else 0)


@needs_data
def test_community_small_is_regenerated():
    """All 100 published graphs consist of our skeletons and 1, 2 or 3 bridges (89, 9 and 2 graphs)."""
    bridges = []
    for graph in load_named("community_small"):
        half = len(graph) // 2
        inside = {e for e in map(tuple, map(sorted, graph.edges)) if (e[0] < half) == (e[1] < half)}
        assert inside == {tuple(sorted(e)) for e in community_skeleton(len(graph)).edges}
        bridges.append(graph.number_of_edges() - len(inside))
    assert np.bincount(bridges).tolist() == [0, 89, 9, 2]


def test_generators_obey_their_rules():
    fresh = load_named("community_fresh")
    assert np.bincount(fresh.split).tolist() == [1024, 128, 512]
    graph = fresh[0]
    half = len(graph) // 2
    assert nx.is_connected(graph.subgraph(range(half)))
    assert nx.is_connected(graph.subgraph(range(half, 2 * half)))
    for graph in tree(3):
        assert nx.is_tree(graph)
        assert len(graph) == 64
    for graph in lobster(5):
        assert nx.is_tree(graph)
        for _ in range(2):
            graph.remove_nodes_from([i for i, d in graph.degree if d <= 1])
        assert all(d <= 2 for _, d in graph.degree)
    assert all(nx.check_planarity(graph)[0] for graph in planar(3))
    assert len({graph.number_of_edges() for graph in community_small(50)}) > 5
    like = sbm(40, seed=2)
    density = np.mean([2 * m / (n * (n - 1)) for n, m in zip(like.sizes, like.num_edges)])
    random = erdos_renyi(like, 400, seed=0)
    found = [2 * m / (n * (n - 1)) for n, m in zip(random.sizes, random.num_edges)]
    assert np.mean(found) == pytest.approx(density, abs=4 * np.std(found) / 20)


def test_splits_are_the_published_ones():
    graphs = community_small(100)
    gdss = split_codes(graphs, "gdss", 0.0)
    assert np.flatnonzero(gdss == 2).tolist() == list(range(20))
    assert not (gdss == 1).any()
    parts = random_split(range(100), [64, 16, 20], generator=torch.Generator().manual_seed(1234))
    spectre = split_codes(graphs, "spectre")
    for code, part in enumerate(parts):
        assert np.flatnonzero(spectre == code).tolist() == sorted(part)
    assert np.array_equal(split_codes(graphs, "random", seed=3), split_codes(graphs, "random", seed=3))
    assert np.bincount(split_codes(graphs, "random")).tolist() == [72, 8, 20]
    with pytest.raises(ValueError, match="split must be"):
        split_codes(graphs, "half")


@needs_data
def test_random_split_of_enzymes_ignores_the_class_order():
    """The first fifth of the file is two enzyme classes only; a random test part is spread over the whole file."""
    data = GraphDataModule("enzymes")
    test = np.flatnonzero(data.graphs.split == 2)
    assert abs(test.mean() - 293) < 4 * 587 / (12 * 117) ** 0.5
    assert np.bincount(data.graphs.node_label).tolist() == [9336, 9599, 454]


@pytest.mark.parametrize("bucket", [True, False])
def test_every_graph_is_in_one_batch_of_an_epoch(bucket):
    data = GraphDataModule(attributed(40), batch_size=4, bucket=bucket)
    first = list(data.train_dataloader())
    sizes = np.concatenate([batch["num_nodes"] for batch in first])
    assert sorted(sizes.tolist()) == sorted(data.train.sizes.tolist())
    widths = {batch["adj"].shape[1] for batch in first}
    assert (len(widths) > 1) == bucket
    again = list(data.train_dataloader())
    assert all(torch.equal(a["adj"], b["adj"]) for a, b in zip(first, again))
    assert all(torch.equal(batch["node_mask"].sum(1), batch["num_nodes"]) for batch in first)


def test_data_module_describes_itself():
    data = GraphDataModule(attributed(10))
    assert data.to_config()["init_args"]["source"] == "graphs in memory"
    with pytest.raises(ValueError, match="pass them again"):
        GraphDataModule.from_config(data.to_config()).setup()
    with pytest.raises(FileNotFoundError, match="scidiff graphs prepare qm9_2d"):
        load_named("qm9_2d")
    with pytest.raises(ValueError, match="did you mean 'community_small'"):
        load_named("comunity_small")
    assert all(source.help for source in SOURCES.values())


def test_smiles_become_kekulised_graphs():
    graphs = from_smiles(["c1ccccc1", "C[N+](C)(C)C", "N#CF", "[H]C([H])([H])Cl", "F[C@H](Cl)Br"])
    benzene = graphs[0]
    assert sorted(d["bond"] for _, _, d in benzene.edges(data=True)) == [1, 1, 1, 2, 2, 2]
    assert [d["symbol"] for _, d in graphs[3].nodes(data=True)] in (["C", "Cl"], ["Cl", "C"])
    assert graphs.attributes.node_classes == (("C",), ("N",), ("F",), ("Cl",), ("Br",))
    charged = from_smiles(["C[N+](C)(C)C", "CN"], charges=True)
    assert charged.attributes.node_classes == (("C", 0), ("N", 0), ("N", 1))
    assert charged.attributes.is_molecular
    with pytest.raises(ValueError, match="line 2 is no molecule"):
        from_smiles(["C", "C1"])
    assert from_smiles(["C", "C1", "O"], skip=True).meta == {"skipped": 1, "kept": [0, 2]}
    with pytest.raises(ValueError, match="elements Si, outside C"):
        from_smiles(["C[SiH3]"], elements=("C",))
