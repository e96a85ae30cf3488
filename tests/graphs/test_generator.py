"""The generator: sizes, seeds, labels, known parts, files, and refusals."""

import networkx as nx
import numpy as np
import pytest
import torch

from graphs import GraphDataModule, GraphDiffusion, GraphGenerator
from graphs.data.convert import from_networkx
from graphs.known import known_part
from graphs.networks import EdgeTransformer
from graphs.postprocess import keep_largest_component
from tests.graphs.test_diffusion import SMALL, typed_graphs

FORMULATIONS = ("discrete", "continuous")


def generator_of(graphs, **options):
    """An untrained model whose predictions differ from constants."""
    data = GraphDataModule(graphs, val_fraction=0.0, test_fraction=0.0, split="random")
    torch.manual_seed(0)
    module = GraphDiffusion(EdgeTransformer(**SMALL), spec=data.spec, **options)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    head = module.denoiser.network.pair_head[-1]
    head.weight.data *= 0.2
    head.bias.data.zero_()  # probabilities near one half, so that pairs differ
    return GraphGenerator(module, sampling={"steps": 6})


@pytest.fixture(scope="module")
def plain():
    return generator_of([nx.gnp_random_graph(n, 0.4, seed=n) for n in (4, 5, 5, 8)] * 2)


@pytest.fixture(scope="module", params=FORMULATIONS)
def typed(request):
    return generator_of(typed_graphs(), formulation=request.param)


def same(first, second, tolerance=0.0):
    """Same structure and classes; real features within a tolerance."""
    a, b = first.graph_set, second.graph_set
    exact = ("sizes", "num_edges", "edges", "node_label", "edge_label", "graph_label")
    for name in exact:
        assert (getattr(a, name) is None) == (getattr(b, name) is None)
        assert getattr(a, name) is None or np.array_equal(getattr(a, name), getattr(b, name))
    for name in ("x", "edge_x"):
        if getattr(a, name) is not None:
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=tolerance)
    return True


def test_sizes_are_those_of_the_data_or_those_asked_for(plain):
    found = plain.sample(400, steps=1, seed=0)
    sizes, counts = np.unique([len(graph) for graph in found], return_counts=True)
    assert sizes.tolist() == [4, 5, 8]
    np.testing.assert_allclose(counts / 400, [0.25, 0.5, 0.25], atol=4 * (0.25 / 400) ** 0.5)
    assert [len(graph) for graph in plain.sample(3, num_nodes=[7, 3, 12])] == [7, 3, 12]
    assert [len(graph) for graph in plain.sample(2, num_nodes=1)] == [1, 1]


def test_a_graph_depends_on_its_own_seed_only(typed):
    whole = typed.sample(7, seed=3)
    assert same(whole, typed.sample(7, seed=3, batch_size=2), 1e-4)
    alone = typed.sample(1, seed=[(3, 5)])
    assert nx.utils.graphs_equal(nx.Graph(alone[0].edges), nx.Graph(whole[5].edges))
    assert len(alone[0]) == len(whole[5])
    other = typed.sample(7, seed=4)
    assert any(len(a) != len(b) or dict(a.nodes(data=True)) != dict(b.nodes(data=True)) for a, b in zip(whole, other))


def test_evaluations_are_counted_with_the_last_one(plain):
    assert plain.sample(2).nfe == 7
    assert plain.sample(2, steps=4).nfe == 5
    ticks = []
    plain.sample(5, steps=4, batch_size=2, progress=lambda: ticks.append(1))
    assert len(ticks) == 3 * 4


def test_samples_carry_all_attributes(typed):
    found = typed.sample(4, seed=0)
    for graph in found:
        for _, data in graph.nodes(data=True):
            assert data["kind"] in ("a", "b")
            assert isinstance(data["charge"], float)
        for _, _, data in graph.edges(data=True):
            assert data["bond"] in (1, 2)
            assert isinstance(data["length"], float)
        assert "label" not in graph.graph
    assert found.to_pyg()[0].num_nodes == len(found[0])


def test_labels_condition_and_guide(typed):
    by_label = [typed.sample(6, label=label, seed=1) for label in ("even", "odd")]
    assert [graph.graph["label"] for graph in by_label[0]] == ["even"] * 6
    pairs = zip(*by_label)
    assert any(set(a.edges) != set(b.edges) or a.nodes(data=True) != b.nodes(data=True) for a, b in pairs)
    mixed = typed.sample(4, label=["even", "odd", "even", "odd"], seed=1, batch_size=3)
    assert [graph.graph["label"] for graph in mixed] == ["even", "odd", "even", "odd"]
    guided = typed.sample(6, label="even", guidance_scale=4.0, seed=1)
    assert guided.nfe == 2 * by_label[0].nfe
    assert any(a.nodes(data=True) != b.nodes(data=True) for a, b in zip(guided, by_label[0]))


def test_known_parts_are_in_every_sample(typed):
    known = typed_graphs()[1].subgraph([0, 1, 2]).copy()
    for resample in (1, 3):
        for graph in typed.sample(5, fixed=known, resample=resample, seed=2):
            part = graph.subgraph([0, 1, 2])
            assert {frozenset(e) for e in part.edges} == {frozenset(e) for e in known.edges}
            for node, data in known.nodes(data=True):
                assert graph.nodes[node]["kind"] == data["kind"]
                assert graph.nodes[node]["charge"] == pytest.approx(data["charge"], abs=1e-5)
            for a, b, data in known.edges(data=True):
                assert graph.edges[a, b]["bond"] == data["bond"]
                assert graph.edges[a, b]["length"] == pytest.approx(data["length"], abs=1e-5)


def test_known_edges_leave_the_other_pairs_open(plain):
    known = nx.empty_graph(5)
    known.add_edge(0, 4)
    drawn = {"final_denoise": False}
    found = plain.sample(20, fixed=known, known="edges", num_nodes=6, seed=0, solver_options=drawn)
    assert all(graph.has_edge(0, 4) for graph in found)
    assert any(graph.subgraph(range(5)).number_of_edges() > 1 for graph in found)
    closed = plain.sample(20, fixed=known, num_nodes=6, seed=0)
    assert all(set(graph.subgraph(range(5)).edges) == {(0, 4)} for graph in closed)


def test_known_nodes_leave_all_pairs_open(typed):
    known = nx.Graph()
    known.add_nodes_from([(k, {"kind": "b", "charge": 1.5}) for k in range(4)])
    found = typed.sample(20, fixed=known, known="nodes", seed=0, solver_options={"final_denoise": False})
    assert all(graph.nodes[k]["kind"] == "b" for graph in found for k in range(4))
    assert any(graph.subgraph(range(4)).number_of_edges() for graph in found)


def test_values_and_masks_of_a_known_part(typed):
    graph = typed_graphs()[0].subgraph([0, 1]).copy()
    values, masks = known_part(graph, typed.spec, 4)
    assert masks["adj"][0].tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
    assert masks["x"].tolist() == [[True, True, False, False]]
    assert values["adj"][0, 0, 1] == 1 + typed.spec.attributes.edge_classes.index((1,))
    standard = (0.25 * 0 + 0.5 - typed.spec.feature_mean[0]) / typed.spec.feature_std[0]
    assert values["features"][0, 1, 0].item() == pytest.approx(standard)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.nodes[0].pop("kind"), "lacks the attribute 'kind'"),
        (lambda g: g.nodes[0].update(kind="z"), "does not know"),
        (lambda g: g.edges[0, 1].pop("length"), "lacks the attribute 'length'"),
        (lambda g: g.add_edge(0, 0), "self-loops"),
    ],
    ids=["missing", "unknown", "feature", "loop"],
)
def test_known_parts_of_another_vocabulary_are_refused(typed, change, message):
    graph = typed_graphs()[0].subgraph([0, 1]).copy()
    change(graph)
    with pytest.raises(ValueError, match=message):
        typed.sample(2, fixed=graph)


def test_largest_component_keeps_attributes():
    graph = nx.Graph([(0, 1, {"bond": 1}), (2, 3, {"bond": 2}), (3, 4, {"bond": 1})])
    nx.set_node_attributes(graph, {v: int(v) for v in graph}, "tag")
    alone = nx.Graph()
    alone.add_node(0, tag=3)
    pair = nx.Graph([(0, 1, {"bond": 2}), (2, 3, {"bond": 1})])
    nx.set_node_attributes(pair, {v: int(v) for v in pair}, "tag")
    first, second, third = keep_largest_component(from_networkx([graph, alone, pair]))
    assert sorted(data["tag"] for _, data in first.nodes(data=True)) == [2, 3, 4]
    assert sorted(data["bond"] for *_, data in first.edges(data=True)) == [1, 2]
    assert second.nodes[0]["tag"] == 3
    assert [data["tag"] for _, data in third.nodes(data=True)] == [0, 1]  # among equals that of the first node


def test_keep_in_sampling(plain):
    kept = plain.sample(20, keep="largest_component", seed=0)
    whole = plain.sample(20, seed=0)
    for small, large in zip(kept, whole):
        assert nx.is_connected(small)
        assert len(small) == max(len(part) for part in nx.connected_components(large))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "euler_maruyama", "ancestral"])
def test_every_step_is_a_graph(typed, solver):
    """Symmetric, zero on the diagonal and at padding, after each step of each component."""
    from scidiff.samplers import sample

    mask = torch.arange(6)[None] < torch.tensor([3, 6])[:, None]
    live = mask[:, :, None] & mask[:, None, :] & ~torch.eye(6, dtype=torch.bool)
    seen = []

    def look(info):
        for name in ("adj", "edge_features"):
            value = info.x[name]
            assert torch.equal(value, value.transpose(1, 2))
            assert not value[~live].any()
        assert not info.x["features"][~mask].any()
        seen.append(info.i)

    batch = {"adj": torch.zeros(2, 6, 6).long(), "x": torch.zeros(2, 6).long(), "node_mask": mask}
    batch |= {"features": torch.zeros(2, 6, 1), "edge_features": torch.zeros(2, 6, 6, 1)}
    shapes = {name: tuple(value.shape) for name, value in typed._encoded(batch).items()}
    sample(typed.denoiser, shapes, solver=solver, steps=5, cond={"node_mask": mask}, callback=look)
    assert seen == list(range(5))


def test_a_checkpoint_gives_the_same_graphs(typed, tmp_path):
    typed.save(tmp_path / "g.safetensors", metadata={"metrics": {"degree": 0.01}})
    again = GraphGenerator.from_pretrained(tmp_path / "g.safetensors")
    assert again.metadata["metrics"] == {"degree": 0.01}
    assert again.to_config() == typed.to_config()
    assert same(typed.sample(5, seed=9), again.sample(5, seed=9))


def test_fit_trains_from_a_list_of_graphs():
    graphs = [nx.cycle_graph(n) for n in (4, 5, 6)] * 8
    generator = GraphGenerator.fit(graphs, max_minutes=0.02, network=EdgeTransformer(**SMALL))
    found = generator.sample(3, steps=4)
    assert all(len(graph) in (4, 5, 6) for graph in found)
    assert generator.denoiser.self_conditioning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"n": 2, "steps": 0}, "steps must be"),
        ({"n": 2, "num_nodes": [3]}, "num_nodes must be"),
        ({"n": 2, "num_nodes": 0}, "num_nodes must be"),
        ({"n": 2, "label": "even"}, "it has none"),
        ({"n": 2, "guidance_scale": 2.0}, "pass label="),
        ({"n": 2, "keep": "some"}, "keep must be"),
        ({"n": 2, "solver": "dmpp_2m"}, "Did you mean"),
        ({"n": 2, "grid": "linaer"}, "unknown grid"),
        ({"n": 2, "fixed": nx.path_graph(9)}, "the known part has 9 nodes"),
        ({"n": 2, "fixed": nx.path_graph(3), "known": "all"}, "a known part is one of"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_wrong_requests_are_refused(plain, options, message):
    with pytest.raises(ValueError, match=message):
        plain.sample(**options)


def test_denoiser_and_spec_must_belong_together(plain, typed):
    with pytest.raises(ValueError, match="Was the spec made from other data"):
        GraphGenerator(plain.denoiser, typed.spec)
    with pytest.raises(ValueError, match="needs the GraphSpec"):
        GraphGenerator(plain.denoiser)
    with pytest.raises(ValueError, match="sampling has the keys"):
        GraphGenerator(plain.denoiser, plain.spec, {"solvers": "ddim"})
