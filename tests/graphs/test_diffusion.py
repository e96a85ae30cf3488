"""Training of graphs: state and loss against direct sums, labels, what is refused, overfitting a few graphs."""

import math
from itertools import pairwise

import networkx as nx
import pytest
import torch
import torch.nn.functional as F

from graphs import GraphDataModule, GraphDiffusion, GraphGenerator
from graphs.networks import EdgeTransformer
from graphs.processes import decode_state, encode_state, graph_process
from scidiff.schedules import VPSDE, Cosine, Linear

SMALL = {"width": 32, "edge_width": 16, "num_layers": 2, "num_heads": 4, "triangle_width": 4, "walk_length": 4}


def path(n):
    return nx.path_graph(n)


def typed_graphs():
    """Rings of two kinds of nodes and edges, with a real feature and a label."""
    found = []
    for k in range(12):
        graph = nx.cycle_graph(4 + k % 3)
        nx.set_node_attributes(graph, {v: "ab"[v % 2] for v in graph}, "kind")
        nx.set_node_attributes(graph, {v: 0.5 * v + 0.25 * k for v in graph}, "charge")
        nx.set_edge_attributes(graph, {edge: 1 + i % 2 for i, edge in enumerate(graph.edges)}, "bond")
        nx.set_edge_attributes(graph, {edge: 0.1 + i for i, edge in enumerate(graph.edges)}, "length")
        graph.graph["label"] = ["even", "odd"][k % 2]
        found.append(graph)
    return found


@pytest.fixture
def typed():
    return GraphDataModule(typed_graphs(), batch_size=6, val_fraction=0.0, test_fraction=0.0, split="random")


@pytest.mark.parametrize("formulation", ["discrete", "continuous"])
def test_state_and_loss(typed, formulation):
    """The loss is cross entropy or squared error, each pair once, over real entries only."""
    module = GraphDiffusion(EdgeTransformer(**SMALL), spec=typed.spec, formulation=formulation, self_conditioning=0)
    batch = next(iter(typed.train_dataloader()))
    assert set(module.denoiser.process.components) == {"adj", "x", "features", "edge_features"}
    generator = torch.Generator().manual_seed(0)
    module.eval()
    result = module.training_loss(batch, generator)
    generator.manual_seed(0)
    state, _, cond = module.prepare(batch)
    t = module.sample_time(len(batch["adj"]), generator)
    x_t, _ = module.denoiser.process.perturb(state, t, generator=generator, cond=cond)
    u = torch.rand(len(t), generator=generator)
    cond["label"] = torch.where(u < 0.1, -1, cond["label"])
    out = module.denoiser.network(x_t, t, cond)
    mask = batch["node_mask"]
    for g in range(len(t)):
        n = int(mask[g].sum())
        i, j = torch.triu_indices(n, n, 1)
        inside = {"adj": (g, i, j), "edge_features": (g, i, j), "x": (g, slice(n)), "features": (g, slice(n))}
        for name, where in inside.items():
            if formulation == "discrete" and name in ("adj", "x"):
                expected = F.cross_entropy(out[name][where], batch[name][where])
            else:
                expected = (out[name][where] - state[name][where]).square().mean()
            assert result.parts[name][g].item() == pytest.approx(expected.item(), rel=1e-5)
    total = sum(module.loss.weights[name] * part for name, part in result.parts.items())
    torch.testing.assert_close(result.loss, total)


@pytest.mark.parametrize("formulation", ["discrete", "continuous"])
def test_states_are_read_back(typed, formulation):
    batch = next(iter(typed.train_dataloader()))
    process = graph_process(typed.spec, formulation)
    state = encode_state(batch, typed.spec, process)
    if formulation == "continuous":
        assert state["adj"].shape[-1] == typed.spec.num_edge_classes
        assert not state["adj"].diagonal(dim1=1, dim2=2).any()
    decoded = decode_state(state)
    for name in process.components:
        live = batch["node_mask"]
        live = live[:, :, None] & live[:, None, :] if "adj" in name or "edge" in name else live
        live = live & ~torch.eye(live.shape[1], dtype=torch.bool) if live.ndim == 3 else live
        assert torch.equal(decoded[name][live], batch[name][live])


def test_plain_graphs_have_one_number_a_pair():
    data = GraphDataModule([path(n) for n in (3, 4, 5)] * 3)
    process = graph_process(data.spec, "continuous")
    batch = next(iter(data.train_dataloader()))
    state = encode_state(batch, data.spec, process)
    assert set(state) == {"adj"}
    assert state["adj"].ndim == 3
    assert set(state["adj"].unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert torch.equal(decode_state(state)["adj"], batch["adj"])


def test_prior_of_classes_is_their_share_among_pairs():
    data = GraphDataModule([path(4), nx.complete_graph(4)] * 4, val_fraction=0, test_fraction=0, split="random")
    component = graph_process(data.spec).discrete["adj"]
    assert component.probabilities.tolist() == pytest.approx([3 / 12, 9 / 12])
    assert isinstance(component.keep, Linear)
    assert isinstance(graph_process(data.spec, "continuous").continuous["adj"].schedule, Cosine)


def test_labels_are_dropped_at_the_given_rate(typed, monkeypatch):
    module = GraphDiffusion(EdgeTransformer(**SMALL), spec=typed.spec, label_dropout=0.3, self_conditioning=0)
    batch = next(iter(typed.train_dataloader()))
    seen = []
    forward = module.denoiser.network.forward
    monkeypatch.setattr(
        module.denoiser.network, "forward", lambda s, t, c: seen.append(c["label"].clone()) or forward(s, t, c)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(100):
            module.training_loss(batch, generator)
    labels = torch.stack(seen)
    dropped = labels < 0
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / labels.numel()))
    assert torch.equal(labels[~dropped], batch["label"].expand_as(labels)[~dropped])


def test_a_schedule_that_misses_its_prior_is_named():
    spec = GraphDataModule([path(4)] * 8).spec
    with pytest.warns(UserWarning, match="'adj' keeps a signal-to-noise ratio of 1.36"):
        GraphDiffusion(EdgeTransformer(**SMALL), spec=spec, formulation="continuous", schedule=VPSDE(0.1, 1.0))


@pytest.mark.filterwarnings("error:component")
def test_the_defaults_reach_their_prior():
    spec = GraphDataModule([path(4)] * 8).spec
    for formulation in ("discrete", "continuous"):
        GraphDiffusion(EdgeTransformer(**SMALL), spec=spec, formulation=formulation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"self_conditioning": 1.5}, "probabilities"),
        ({"label_dropout": -0.1}, "probabilities"),
        ({"loss_weights": {"edges": 1.0}}, "loss_weights has the keys"),
        ({"formulation": "gaussian"}, "'discrete' or 'continuous'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GraphDiffusion(**options)


def test_a_module_without_data_says_so():
    with pytest.raises(ValueError, match="has not seen any data"):
        GraphGenerator(GraphDiffusion())


def test_other_attributes_are_refused(typed):
    module = GraphDiffusion(EdgeTransformer(**SMALL), spec=typed.spec)
    with pytest.raises(ValueError, match="must be the same"):
        module._check(GraphDataModule([path(4)] * 8).spec)


def train(module, data, steps):
    """Plain AdamW on one batch that holds all graphs."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    batch = next(iter(data.train_dataloader()))
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 20) * (1 - step / steps)
        loss = module.training_loss(batch, generator).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_four_graphs_are_learnt_by_heart():
    """Labelled graphs of one size: samples are isomorphic to them, and the label says to which."""
    torch.manual_seed(0)
    shapes = [
        nx.cycle_graph(6),
        nx.star_graph(5),
        nx.path_graph(6),
        nx.Graph([(a, b) for a in (0, 1) for b in (2, 3, 4, 5)]),
    ]
    for k, graph in enumerate(shapes):
        graph.graph["label"] = k
    data = GraphDataModule(shapes * 8, batch_size=32, val_fraction=0.0, test_fraction=0.0, split="random")
    module = GraphDiffusion(EdgeTransformer(**SMALL), spec=data.spec)
    losses = train(module, data, 400)
    assert sum(losses[-20:]) < 0.75 * sum(losses[:20])
    module.eval()
    generator = GraphGenerator(module.denoiser, module.spec)
    wanted = [0, 1, 2, 3] * 8
    found = generator.sample(32, label=wanted, steps=20, seed=1)
    hits = [nx.is_isomorphic(graph, shapes[k]) for graph, k in zip(found, wanted)]
    assert sum(hits) >= 24  # a graph of 15 pairs is not hit by chance
    free = generator.sample(32, steps=20, seed=1)
    kinds = [next((k for k, shape in enumerate(shapes) if nx.is_isomorphic(graph, shape)), -1) for graph in free]
    assert sum(kind >= 0 for kind in kinds) >= 20
    assert len(set(kinds) - {-1}) == 4
    known = nx.cycle_graph(6).subgraph([0, 1, 2, 3]).copy()
    completed = generator.sample(8, fixed=known, steps=20, resample=2, seed=2)
    assert all(nx.utils.edges_equal(graph.subgraph([0, 1, 2, 3]).edges, known.edges) for graph in completed)


def test_random_sequence_of_steps_is_reproducible(typed):
    """The loss depends on the generator only."""
    torch.manual_seed(0)
    module = GraphDiffusion(EdgeTransformer(**SMALL), spec=typed.spec)
    batch = next(iter(typed.train_dataloader()))
    values = [module.training_loss(batch, torch.Generator().manual_seed(s)).loss.mean().item() for s in (0, 0, 1)]
    assert values[0] == values[1]
    assert all(a != b for a, b in pairwise(values[1:]))
