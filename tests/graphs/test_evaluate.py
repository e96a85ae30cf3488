import json

import networkx as nx
import numpy as np
import pytest

from graphs.data import GraphDataModule, from_networkx
from graphs.data.generators import community_fresh, erdos_renyi, planar
from graphs.data.molecules import from_smiles
from graphs.evaluate import evaluate, evaluate_file, load_reference
from graphs.graph_list import GraphList
from graphs.io import write_graphs
from graphs.metrics import VERSION, attribute_distances, descriptor_distances, ratio, size_distance, wilson
from scidiff.assets import data_folder

needs_data = pytest.mark.skipif(data_folder() is None, reason="needs the data folder")
CHEAP = ("degree", "clustering")


@needs_data
@pytest.mark.parametrize(
    ("name", "draws", "random"),
    [
        ("community_small", (0.0204, 0.0283, 0.0048, 0.070), (0.119, 0.797, 0.234, 0.195)),
        ("ego_small", (0.0212, 0.0423, 0.0067, 0.042), (0.145, 0.095, 0.039, 0.077)),
    ],
)
def test_context_equals_the_recorded_figures(name, draws, random):
    """As many random training graphs as test graphs, and Erdos-Renyi graphs; the recorded ones are means of 100 and 3
    draws, so both agree within their errors."""
    data = GraphDataModule(name, split="gdss", val_fraction=0.0)
    drawn = data.train.subset(np.arange(len(data.test)))
    names = ("degree", "clustering", "orbit", "spectral")
    found = descriptor_distances(drawn, data.test, data.train, names=names, resamples=10)
    for label, mean, baseline in zip(names, draws, random):
        own = found[label]
        assert own.draw_mean == pytest.approx(mean, abs=4 * own.draw_std * (2 / 100) ** 0.5 + 6e-4)
        values = [
            descriptor_distances(erdos_renyi(data.train, len(data.test), seed=k), data.test, names=[label], resamples=2)
            for k in range(8)
        ]
        spread = [value[label].value for value in values]
        assert np.mean(spread) == pytest.approx(baseline, abs=4 * np.std(spread) * (1 / 8 + 1 / 3) ** 0.5 + 5e-4)


def test_report_of_the_training_graphs_themselves():
    """Distance, floor and ratio are those of the training set; everything is a copy and valid."""
    train, test = community_fresh(40, seed=1), community_fresh(30, seed=2)
    report = evaluate(train, test, train, family="community", resamples=50)
    assert all(d.value == pytest.approx(d.floor, abs=1e-12) for d in report.distances.values())
    assert report.figures["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert report.shares["copies of training graphs"].value == 1.0
    assert report.shares["novel"].value == report.shares["valid, unique, novel"].value == 0.0
    assert report.shares["connected"].value == 1.0
    assert all(d.low <= d.value <= d.high for d in report.distances.values())
    assert all(d.random > d.value for name, d in report.distances.items() if name in CHEAP)
    again = evaluate(train, test, train, family="community", resamples=50)
    assert again.to_dict() == report.to_dict()
    same = evaluate(test, test, descriptors=CHEAP, resamples=10)
    assert all(d.value == pytest.approx(0.0, abs=1e-12) for d in same.distances.values())
    assert same.distances["degree"].floor is None
    assert "novel" not in same.shares
    assert ratio(same.distances) is None


def test_published_protocol_cuts_groups():
    test, new = community_fresh(10, seed=2), community_fresh(35, seed=3)
    report = evaluate(new, test, protocol="published", descriptors=CHEAP, resamples=10)
    for name in CHEAP:
        values = [
            evaluate(new[k : k + 10], test, descriptors=[name], resamples=2).distances[name].value for k in (0, 10, 20)
        ]
        assert report.groups[name] == pytest.approx(values, abs=1e-12)
    with pytest.raises(ValueError, match="at least as many generated graphs"):
        evaluate(test[:5], test, protocol="published")


def test_isolated_nodes_are_counted_and_dropped_on_request():
    graphs = [nx.gnp_random_graph(8, 0.6, seed=k) for k in range(6)]
    for graph in graphs[:2]:
        graph.add_node(8)
    kept = evaluate(graphs, graphs[2:], descriptors=CHEAP, resamples=5)
    dropped = evaluate(graphs, graphs[2:], descriptors=CHEAP, resamples=5, drop_isolated=True)
    assert kept.figures["isolated nodes"] == dropped.figures["isolated nodes"] == 2
    assert kept.figures["nodes per graph"] == pytest.approx(8 + 1 / 3)
    assert dropped.figures["nodes per graph"] == 8.0
    assert dropped.settings["isolated nodes dropped"] == 2


def test_small_distances():
    a = from_networkx([nx.path_graph(2), nx.path_graph(2), nx.path_graph(3), nx.path_graph(4)])
    b = from_networkx([nx.path_graph(2), nx.path_graph(5)])
    assert size_distance(a, b) == 0.5
    assert size_distance(a, a) == 0.0
    first, second = from_smiles(["CCO"]), from_smiles(["CO", "CN"])
    found = attribute_distances(first, second)
    assert found == pytest.approx({"node symbol": 0.25, "edge bond": 0.0})  # C 2/3, O 1/3 against C 1/2, O 1/4, N 1/4
    assert wilson(0, 20)[1:] == pytest.approx((0.0, 0.16113), abs=1e-5)  # 3.8416 / 23.8416
    assert all(np.isnan(wilson(0, 0)))


def test_molecules_have_their_figures():
    ours = from_smiles(["CCO", "CCN", "CCO"])
    theirs = from_smiles(["CCO", "CCCl", "CC#N"])
    report = GraphList(ours).report(theirs, train=theirs, resamples=5)
    assert report.figures["molecules valid"] == 1.0
    assert report.figures["molecules unique"] == pytest.approx(2 / 3)
    assert report.figures["molecules novel"] == 0.5
    assert report.figures["NSPDK MMD^2 (training floor)"] == pytest.approx(0.0, abs=1e-12)
    assert report.figures["NSPDK MMD^2 (valid molecules)"] > 0.01


def test_files_names_and_parts(tmp_path):
    write_graphs(planar(3, seed=5, num_nodes=20), tmp_path / "new.npz")
    report = evaluate_file(tmp_path / "new.npz", "tree:valid", out=tmp_path / "a.json", descriptors=CHEAP, resamples=5)
    saved = json.loads((tmp_path / "a.json").read_text())
    assert saved["version"] == VERSION
    assert saved["settings"]["kernel"] == "tv"
    assert saved["settings"]["reference graphs"] == 32
    assert saved["settings"]["training graphs"] == 128
    assert saved["shares"]["valid"] == {
        "value": 0.0,
        "low": 0.0,
        "high": pytest.approx(0.5615, abs=1e-4),
        "reference": 1.0,
    }
    assert "train floor" in report.table()
    assert len(load_reference("tree", "test")) == 40
    assert len(load_reference(str(tmp_path / "new.npz"), "test")) == 3
    with pytest.raises(FileNotFoundError, match="no data set and no file 'nothing'"):
        load_reference("nothing", "test")
    with pytest.raises(ValueError, match="have no split"):
        load_reference(f"{tmp_path / 'new.npz'}:test", "test")
    graphs = planar(2, num_nodes=8)
    wrong = {"kernel": "gauss", "family": "forest", "protocol": "my"}
    for (option, value), known in zip(wrong.items(), ("emd, tv, rbf", "planar, tree", "large, published")):
        with pytest.raises(ValueError, match=f"{option} must be one of {known}"):
            evaluate(graphs, graphs, **{option: value})
    with pytest.raises(ValueError, match=r"descriptors are degree, .* got size"):
        evaluate(graphs, graphs, descriptors=["size"])
