"""The edge transformer: symmetry, padding, states of all kinds, structural features against brute force."""

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graphs.networks import EdgeTransformer
from graphs.networks.pairs import Pairs
from graphs.networks.structure import count_cycles, describe_structure, find_reachable, num_features

PAIRWISE = ("adj", "edge_features")
NUM_NODES = 7
PADDING = 3


def network(**options):
    """A small network in float64 whose weights are all away from their initial zeros."""
    sizes = {"width": 16, "edge_width": 8, "num_layers": 2, "num_heads": 4, "triangle_width": 3, "walk_length": 4}
    net = EdgeTransformer(**{**sizes, **options}).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return net


def random_state(net, num_graphs, n, generator, probabilities=False):
    """A noisy state, or an earlier prediction of the same form as the denoiser's x0."""
    state = {}
    for name, size in net.sizes.items():
        if not size:
            continue
        shape = (num_graphs, n, n) if name in PAIRWISE else (num_graphs, n)
        if name in ("adj", "x") and not net.continuous and not probabilities:
            value = torch.randint(0, size, shape, generator=generator)
            if name == "adj":
                value = value.triu(1) + value.triu(1).mT
        else:
            is_scalar = name == "adj" and net.continuous and size == 2
            value = torch.randn(*shape, *(() if is_scalar else (size,)), generator=generator, dtype=torch.float64)
            if name in PAIRWISE:
                value = value + value.transpose(1, 2)
            value = value.softmax(-1) if probabilities and name in ("adj", "x") and not is_scalar else value
        state[name] = value
    return state


def permuted(parts, order):
    return {k: v[:, order][:, :, order] if k in PAIRWISE else v[:, order] for k, v in parts.items()}


def padded(parts, noise):
    """The same state inside a larger one whose other entries are ``noise``."""
    result = {}
    for name, value in noise.items():
        n = parts[name].shape[1]
        value = value.clone()
        value[(slice(None), slice(n), slice(n)) if name in PAIRWISE else (slice(None), slice(n))] = parts[name]
        result[name] = value
    return result


KINDS = {
    "plain": {},
    "typed": {"node_classes": 4, "edge_classes": 3, "num_labels": 2},
    "with values": {"node_classes": 3, "node_values": 2, "edge_values": 1},
    "spectral": {"node_classes": 3, "num_eigenvalues": 3},
    "continuous": {"continuous": True},
    "continuous and typed": {"continuous": True, "node_classes": 4, "edge_classes": 3, "node_values": 1},
}


@pytest.fixture(params=KINDS)
def case(request):
    """Network, state, times and context of three graphs."""
    net = network(**KINDS[request.param])
    generator = torch.Generator().manual_seed(0)
    state = random_state(net, 3, NUM_NODES, generator)
    cond = {
        "node_mask": torch.ones(3, NUM_NODES, dtype=torch.bool),
        "self_cond": random_state(net, 3, NUM_NODES, generator, probabilities=True),
    }
    if net.label is not None:
        cond["label"] = torch.tensor([0, 1, -1])
    return net, state, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), cond


def test_nodes_permute_and_pairs_are_symmetric(case):
    net, state, t, cond = case
    order = torch.randperm(NUM_NODES, generator=torch.Generator().manual_seed(1))
    out = net(state, t, cond)
    again = net(permuted(state, order), t, {**cond, "self_cond": permuted(cond["self_cond"], order)})
    for name, value in permuted(out, order).items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=1e-9)
    for name in set(PAIRWISE) & set(out):
        assert torch.equal(out[name], out[name].transpose(1, 2))
        assert not out[name].diagonal(dim1=1, dim2=2).any()
        assert out[name].abs().amax() > 1e-3


def test_padding_changes_nothing_and_stays_zero(case):
    net, state, t, cond = case
    generator = torch.Generator().manual_seed(2)
    n = NUM_NODES + PADDING
    mask = torch.arange(n)[None].expand(3, -1) < NUM_NODES
    wide = padded(state, random_state(net, 3, n, generator))
    previous = padded(cond["self_cond"], random_state(net, 3, n, generator, probabilities=True))
    out = net(state, t, cond)
    again = net(wide, t, {**cond, "node_mask": mask, "self_cond": previous})
    for name, value in out.items():
        inner = (slice(None), slice(NUM_NODES), slice(NUM_NODES if name in PAIRWISE else None))
        torch.testing.assert_close(again[name][inner], value, rtol=0, atol=1e-9)
        assert not again[name][:, NUM_NODES:].any()


def test_every_input_is_used(case):
    net, state, t, cond = case
    out = net(state, t, cond)["adj"]
    changes = [(state, t + 0.05, cond)]
    changes += [({**state, name: value.roll(1, 0)}, t, cond) for name, value in state.items()]
    changes += [
        (state, t, {**cond, "self_cond": {**cond["self_cond"], name: value.roll(1, 0)}})
        for name, value in cond["self_cond"].items()
    ]
    if net.label is not None:
        changes.append((state, t, {**cond, "label": cond["label"].roll(1)}))
    for changed in changes:
        assert (net(*changed)["adj"] - out).abs().amax() > 1e-6


def test_no_label_is_the_null_condition():
    net = network(num_labels=2)
    state = random_state(net, 2, 5, torch.Generator().manual_seed(0))
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    absent = net(state, t, {})["adj"]
    assert torch.equal(net(state, t, {"label": torch.tensor([-1, -1])})["adj"], absent)
    assert not torch.allclose(net(state, t, {"label": torch.tensor([0, 1])})["adj"], absent)


def test_continuous_outputs_are_means_of_classes():
    binary = network(continuous=True)
    typed = network(continuous=True, node_classes=3, edge_classes=4)
    for net in (binary, typed):
        state = random_state(net, 2, 5, torch.Generator().manual_seed(0))
        out = net(state, torch.tensor([0.3, 0.6], dtype=torch.float64), {})
        assert all(value.abs().amax() <= 1 for value in out.values())
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(((out["adj"] + 1) / 2).sum(-1)[:, off_diagonal], torch.ones(2, 20).double())
    torch.testing.assert_close(((out["x"] + 1) / 2).sum(-1), torch.ones(2, 5).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 30, "num_heads": 4}, "multiple of num_heads"),
        ({"edge_classes": 1}, "at least 2"),
        ({"num_eigenvalues": -1}, "at least 0"),
    ],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EdgeTransformer(**options)


def random_graphs(n=7, count=6):
    graphs = [nx.gnp_random_graph(n, 0.45, seed=k) for k in range(count)]
    return graphs, torch.tensor(np.stack([nx.to_numpy_array(g) for g in graphs]))


def test_cycles_equal_brute_force():
    graphs, adj = random_graphs()
    expected = torch.zeros(len(graphs), 7, 3, dtype=torch.float64)
    for k, graph in enumerate(graphs):
        for length in (3, 4, 5):
            for nodes in itertools.combinations(range(7), length):
                first, *rest = nodes
                orders = [(first, *order) for order in itertools.permutations(rest) if order[0] < order[-1]]
                found = sum(all(graph.has_edge(a, b) for a, b in zip(o, (*o[1:], o[0]))) for o in orders)
                expected[k, list(nodes), length - 3] += found
    assert torch.equal(count_cycles(adj), expected)


def test_reachability_is_that_of_networkx():
    graphs, adj = random_graphs(n=12)
    reach = find_reachable(adj > 0)
    for graph, table in zip(graphs, reach):
        for a, b in itertools.product(graph, graph):
            assert bool(table[a, b]) == nx.has_path(graph, a, b)


def test_walks_are_powers_of_the_normalised_matrix():
    _, adj = random_graphs(count=1)
    adj[:, 0] = adj[:, :, 0] = 0  # an isolated node
    mask = torch.ones(1, 7, dtype=torch.bool)
    result = describe_structure(adj, mask, 4)
    counts = num_features(4)
    assert [part.shape[-1] for part in result] == list(counts)
    degree = adj[0].sum(1).numpy()
    scale = np.diag(np.divide(1, np.sqrt(degree), out=np.zeros(7), where=degree > 0))
    step = scale @ adj[0].numpy() @ scale
    for power in range(1, 5):
        walk = np.linalg.matrix_power(step, power)
        np.testing.assert_allclose(result.pair[0, :, :, 2 + power], np.sqrt(7) * walk, atol=1e-12)
        if power > 1:
            np.testing.assert_allclose(result.node[0, :, 1 + power], np.diag(walk), atol=1e-12)
    components = nx.number_connected_components(nx.from_numpy_array(adj[0].numpy()))
    assert result.graph[0, 2].item() == pytest.approx(np.log(components))


SPECTRA = {
    "random": nx.gnp_random_graph(7, 0.4, seed=1),
    "ring": nx.cycle_graph(6),
    "complete": nx.complete_graph(5),
    "star": nx.star_graph(5),
    "two rings": nx.disjoint_union(nx.cycle_graph(4), nx.cycle_graph(3)),
    "equal parts": nx.disjoint_union(nx.path_graph(3), nx.path_graph(3)),
    "no edge": nx.empty_graph(4),
    "one node": nx.empty_graph(1),
}


def spectral_part(graph, size, num_eigenvalues=4):
    """Features of the spectrum alone, padded with random numbers outside the mask."""
    n = len(graph)
    adj = torch.zeros(1, size, size, dtype=torch.float64)
    adj[0, :n, :n] = torch.tensor(nx.to_numpy_array(graph, nodelist=range(n)))
    mask = torch.arange(size)[None] < n
    found, plain = (describe_structure(adj, mask, 2, k) for k in (num_eigenvalues, 0))
    return [whole[..., own.shape[-1] :][0].numpy() for whole, own in zip(found, plain)]


@pytest.mark.parametrize("name", SPECTRA)
def test_spectrum_equals_a_sum_over_modes(name):
    """Against numpy's decomposition, mode by mode, with a threshold for zero."""
    graph = SPECTRA[name]
    n = len(graph)
    values, vectors = np.linalg.eigh(nx.laplacian_matrix(graph, nodelist=range(n)).toarray().astype(float))
    modes = [(value, vector) for value, vector in zip(values, vectors.T) if value > 1e-8]
    slow = np.zeros((n, n))
    for value, vector in modes:
        slow += n * np.exp(1 - value / modes[0][0]) * np.outer(vector, vector)
    pair, node, whole = spectral_part(graph, n)
    np.testing.assert_allclose(pair[..., 0], slow, atol=1e-10)
    np.testing.assert_allclose(node[:, 0], np.diag(slow), atol=1e-10)
    largest = max(len(part) for part in nx.connected_components(graph))
    aside = [len(nx.node_connected_component(graph, v)) < largest for v in range(n)]
    assert node[:, 1].tolist() == aside
    expected = [value / n for value, _ in modes[:4]]
    np.testing.assert_allclose(whole, expected + [2.0] * (4 - len(expected)), atol=1e-10)


@pytest.mark.parametrize("name", SPECTRA)
def test_spectrum_follows_the_nodes_where_eigenvectors_would_not(name):
    """Rings and stars have eigenspaces of several dimensions, whose basis depends on the order of the nodes."""
    graph = SPECTRA[name]
    order = np.random.default_rng(0).permutation(len(graph))
    pair, node, whole = spectral_part(graph, len(graph))
    moved = spectral_part(nx.relabel_nodes(graph, dict(zip(order.tolist(), range(len(graph))))), len(graph) + 3)
    n = len(graph)
    np.testing.assert_allclose(moved[0][:n, :n], pair[np.ix_(order, order)], atol=1e-10)
    np.testing.assert_allclose(moved[1][:n], node[order], atol=1e-10)
    np.testing.assert_allclose(moved[2], whole, atol=1e-10)
    assert not moved[0][n:].any()
    assert not moved[1][n:].any()


def test_pairs_go_forth_and_back():
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    pairs = Pairs.build(mask)
    values = torch.randn(2, 10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    full = pairs.full(values)
    assert torch.equal(pairs.take(full), values)
    assert torch.equal(full, full.transpose(1, 2))
    assert pairs.mask.sum(1).tolist() == [10, 1]
    h = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pairs.ends(h), h[:, pairs.i] + h[:, pairs.j])
    sparse = pairs._replace(incidence=pairs.incidence[:, :0])
    torch.testing.assert_close(sparse.ends(h), pairs.ends(h))


def test_one_hot_states_equal_their_classes():
    """The continuous network reads class weights where the discrete one embeds classes."""
    net = network()
    adj = random_state(net, 2, 6, torch.Generator().manual_seed(0))["adj"]
    one_hot = F.one_hot(adj, 2).double()
    assert torch.equal(net._classes({"adj": adj}, "adj", {"adj": adj}, torch.float64), one_hot)
