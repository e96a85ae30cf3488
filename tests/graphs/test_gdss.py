"""GDSS: parameter counts of the published models, layers against loops, losses against closed forms, sampling."""

import math

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from graphs import GDSSDiffusion, GraphDataModule, GraphGenerator
from graphs.networks.gdss import GDSSNetwork, ScoreNetworkXGMH
from graphs.networks.pairs import Pairs
from graphs.processes import decode_gdss, encode_gdss, gdss_prediction, gdss_process
from scidiff.denoiser import Denoiser
from scidiff.samplers import sample
from scidiff.schedules import VESDE, VPSDE

PC = {"snr": 0.05, "scale_eps": 0.7, "predictor": "euler_maruyama"}


def graphs(count=12):
    return [nx.gnp_random_graph(n, 0.4, seed=n) for n in range(4, 4 + count // 3)] * 3


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((10, 3, 5, 32, 2), (72_434, 134_369)),
        ((17, 2, 5, 32, 2), (44_093, 135_713)),
        ((10, 5, 7, 32, 2), (182_066, 204_113)),
        ((5, 5, 7, 32, 2), (170_081, 203_153)),
        ((4, 2, 3, 16, 3), (8_564, 23_825)),
        ((9, 2, 6, 16, 3), (11_429, 62_873)),
    ],
    ids=["community_small", "ego_small", "enzymes", "grid", "qm9", "zinc250k"],
)
def test_parameter_counts_are_the_published_ones(sizes, expected):
    features, depth, layers, width, linears = sizes
    net = GDSSNetwork(features, depth, layers, width, width, num_linears=linears)
    assert (count(net.node), count(net.edge)) == expected


def test_parameter_count_of_the_attention_node_network():
    assert count(ScoreNetworkXGMH(9, 2, 16, 16, num_linears=3)) == 22_721
    assert count(GDSSNetwork(9, 2, 6, 16, 16, num_linears=3, node_network="gmh").node) == 22_721


def noisy(num_graphs=2, n=5, features=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_graphs, n, features, generator=generator, dtype=torch.float64)
    adj = torch.randn(num_graphs, n, n, generator=generator, dtype=torch.float64).triu(1)
    return x, adj + adj.mT


def loop_gcn(x, adj, weight, bias):
    """One convolution of one graph, node by node."""
    n = len(x)
    own = adj.clone()
    for i in range(n):
        own[i, i] = 1
    degree = [max(own[i].sum().item(), 1.0) for i in range(n)]
    rows = []
    for i in range(n):
        row = sum(own[i, j] / math.sqrt(degree[i] * degree[j]) * (x[j] @ weight) for j in range(n))
        rows.append(row + bias)
    return torch.stack(rows)


def loop_mlp(net, x):
    for layer in net:
        x = layer(x)
    return x


def loop_attention(layer, x, channels):
    """An attention layer of one graph, channel by channel and head by head."""
    a, o, heads = layer.attention_width, layer.out_width, layer.num_heads
    n, values, maps = len(x), [], []
    for c, adj in enumerate(channels):
        weight, bias = layer.gcn.weight[c], layer.gcn.bias[c, 0]
        query = loop_gcn(x, adj, weight[:, :a], bias[:a])
        key = loop_gcn(x, adj, weight[:, a : 2 * a], bias[a : 2 * a])
        values.append(loop_gcn(x, adj, weight[:, 2 * a :], bias[2 * a :]))
        m = torch.zeros(n, n, dtype=x.dtype)
        for head in range(heads):
            part = slice(head * a // heads, (head + 1) * a // heads)
            m = m + torch.tanh(query[:, part] @ key[:, part].T / math.sqrt(o)) / heads
        maps.append((m + m.T) / 2)
    node = torch.tanh(loop_mlp(layer.node, torch.cat(values, -1)))
    pair = loop_mlp(layer.pair, torch.stack([*maps, *channels], -1))
    pair = pair + pair.transpose(0, 1)
    return node, [pair[..., c] for c in range(pair.shape[-1])]


def test_networks_equal_their_loops():
    torch.manual_seed(0)
    net = GDSSNetwork(4, depth=2, num_layers=2, width=8, attention_width=12, num_heads=4).double()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, adj = noisy()
    out = net({"x": x, "adj": adj}, torch.zeros(2), {})
    for g in range(2):
        hidden = [x[g]]
        for layer in net.node.layers:
            hidden.append(torch.tanh(loop_gcn(hidden[-1], adj[g], layer.weight[0], layer.bias[0, 0])))
        torch.testing.assert_close(out["x"][g], loop_mlp(net.node.final, torch.cat(hidden, -1)))
        node, channels = x[g], [adj[g], adj[g] @ adj[g]]
        kept = list(channels)
        for layer in net.edge.layers:
            node, channels = loop_attention(layer, node, channels)
            kept += channels
        score = loop_mlp(net.edge.final, torch.stack(kept, -1))[..., 0]
        score = score * (1 - torch.eye(5, dtype=torch.float64))
        torch.testing.assert_close(out["adj"][g], score)


def test_attention_node_network_equals_its_loop():
    torch.manual_seed(0)
    net = ScoreNetworkXGMH(4, 2, 8, 8).double()
    x, adj = noisy()
    out = net(x, adj, torch.ones(2, 5, dtype=torch.bool))
    node, channels = x[0], [adj[0], adj[0] @ adj[0]]
    hidden = [node]
    for layer in net.layers:
        node, channels = loop_attention(layer, node, channels)
        node = torch.tanh(node)
        hidden.append(node)
    torch.testing.assert_close(out[0], loop_mlp(net.final, torch.cat(hidden, -1)))


def test_queries_without_convolution_ignore_the_matrix():
    torch.manual_seed(0)
    net = GDSSNetwork(4, 1, 1, 8, 8, conv="MLP", num_powers=1).double()
    layer = net.edge.layers[0]
    assert len(layer.query) == 2
    assert all(isinstance(part[1], nn.Tanh) for part in layer.query)
    x, adj = noisy()
    layer.pair = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
    layer.pair[0].weight.data = torch.tensor([[0.5, 0.0]]).double()  # A' = M
    pairs = Pairs.build(torch.ones(2, 5, dtype=torch.bool))
    first, second = (layer(x, pairs.take(a[..., None]), pairs)[1] for a in (adj, 2 * adj))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("kind", ["gcn", "gmh"])
def test_permutation_and_padding(kind):
    torch.manual_seed(0)
    net = GDSSNetwork(4, 2, 3, 8, 8, node_network=kind).double()
    x, adj = noisy(n=6)
    out = net({"x": x, "adj": adj}, torch.zeros(2), {})
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    again = net({"x": x[:, order], "adj": adj[:, order][:, :, order]}, torch.zeros(2), {})
    torch.testing.assert_close(again["x"], out["x"][:, order], rtol=0, atol=1e-9)
    torch.testing.assert_close(again["adj"], out["adj"][:, order][:, :, order], rtol=0, atol=1e-9)
    assert torch.equal(out["adj"], out["adj"].mT)
    mask = torch.arange(9)[None].expand(2, -1) < 6
    wide = {"x": torch.zeros(2, 9, 4).double(), "adj": torch.zeros(2, 9, 9).double()}
    wide["x"][:, :6], wide["adj"][:, :6, :6] = x, adj
    padded = net(wide, torch.zeros(2), {"node_mask": mask})
    torch.testing.assert_close(padded["x"][:, :6], out["x"], rtol=0, atol=1e-9)
    torch.testing.assert_close(padded["adj"][:, :6, :6], out["adj"], rtol=0, atol=1e-9)
    assert not padded["x"][:, 6:].any()
    assert not padded["adj"][:, 6:].any()


def test_prediction_is_noise_of_vp_and_score_of_ve_components():
    assert gdss_prediction(gdss_process()) == {"x": "eps", "adj": "eps"}
    assert gdss_prediction(gdss_process(None, VESDE(0.2, 1.0))) == {"x": "eps", "adj": "score"}


def test_losses_have_their_closed_forms(monkeypatch):
    """With outputs c: VP 1/2 sum (c - z)^2, VE 1/2 sum (sigma c + z)^2, both triangles; z recovered from the state."""
    data = GraphDataModule(graphs(), batch_size=12, bucket=False)
    with pytest.warns(UserWarning, match="signal-to-noise"):
        module = GDSSDiffusion(spec=data.spec, schedule_x=VPSDE(0.1, 1.0), schedule_adj=VESDE(0.2, 1.0))
    seen = {}

    def constant(state, t, cond):
        live = cond["node_mask"][:, :, None] & cond["node_mask"][:, None, :]
        live = live & ~torch.eye(live.shape[1], dtype=torch.bool)
        seen.update(state, t=t)
        return {"x": 0.3 * cond["node_mask"][..., None].expand_as(state["x"]), "adj": torch.where(live, 0.2, 0.0)}

    monkeypatch.setattr(module.denoiser.network, "forward", constant)
    batch = next(iter(data.train_dataloader()))
    result = module.training_loss(batch, torch.Generator().manual_seed(0))
    clean = module.prepare(batch)[0]
    t = seen["t"].double()
    alpha, sigma = torch.exp(-0.225 * t**2 - 0.05 * t), 0.2 * 5**t
    mask = batch["node_mask"]
    z = (seen["x"] - alpha[:, None, None] * clean["x"]) / (1 - alpha**2).sqrt()[:, None, None]
    expected = (0.5 * (0.3 - z) ** 2 * mask[..., None]).sum((1, 2))
    torch.testing.assert_close(result.parts["x"].double(), expected, rtol=1e-3, atol=1e-3)
    z = (seen["adj"] - clean["adj"]) / sigma[:, None, None]
    live = (mask[:, :, None] & mask[:, None, :] & ~torch.eye(mask.shape[1], dtype=torch.bool)).double()
    expected = (0.5 * (0.2 * sigma[:, None, None] + z) ** 2 * live).sum((1, 2))
    torch.testing.assert_close(result.parts["adj"].double(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(result.loss, result.parts["x"] + result.parts["adj"])


def test_each_network_is_clipped_by_itself():
    data = GraphDataModule(graphs(), batch_size=12)
    with pytest.warns(UserWarning, match="signal-to-noise"):
        module = GDSSDiffusion(spec=data.spec)
    for parameter in module.denoiser.network.node.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    for parameter in module.denoiser.network.edge.parameters():
        parameter.grad = torch.full_like(parameter, 1e-6)
    optimizer = module.configure_optimizers()["optimizer"]
    assert type(optimizer) is torch.optim.Adam
    assert all(group["weight_decay"] == 1e-4 for group in optimizer.param_groups)
    module.configure_gradient_clipping(optimizer)
    norms = [
        torch.nn.utils.get_total_norm([p.grad for p in net.parameters()]).item()
        for net in (module.denoiser.network.node, module.denoiser.network.edge)
    ]
    assert norms[0] == pytest.approx(1.0, rel=1e-4)
    assert norms[1] == pytest.approx(1e-6 * count(module.denoiser.network.edge) ** 0.5, rel=1e-3)


def test_noise_has_unit_variance_a_pair():
    """Standard error of a variance over n numbers is sqrt(2/n); padded and unpadded graphs draw alike."""
    process = gdss_process()
    mask = torch.arange(9)[None].expand(4000, -1) < 5
    clean = {"x": torch.zeros(4000, 9, 2), "adj": torch.zeros(4000, 9, 9)}
    _, eps = process.perturb(
        clean, torch.ones(4000), generator=torch.Generator().manual_seed(0), cond={"node_mask": mask}
    )
    adj = eps["adj"]
    assert torch.equal(adj, adj.mT)
    assert not adj.diagonal(dim1=1, dim2=2).any()
    assert not adj[:, 5:].any()
    upper = adj[:, *torch.triu_indices(5, 5, 1)]
    assert upper.var().item() == pytest.approx(1, abs=4 * (2 / upper.numel()) ** 0.5)
    correlation = torch.corrcoef(upper.T) - torch.eye(10)
    assert correlation.abs().max() < 5 / 4000**0.5
    assert eps["x"][:, :5].var().item() == pytest.approx(1, abs=4 * (2 / 40_000) ** 0.5)


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("pc", PC),
        ("pc", {"snr": 0.2, "scale_eps": 0.7, "predictor": "reverse_diffusion"}),
        ("s4", {"snr": 0.05, "scale_eps": 0.7, "legacy_variance": True}),
        ("euler_maruyama", {}),
    ],
    ids=["pc-euler", "pc-reverse", "s4", "euler"],
)
def test_every_step_keeps_symmetry_mask_and_independence(solver, options):
    """After each step: symmetric, zero diagonal, zero padding; graph 0 is the same alone and in company."""
    torch.manual_seed(0)
    net = GDSSNetwork(4, 1, 2, 8, 8)
    process = gdss_process(None, VESDE(0.2, 1.0))
    den = Denoiser(net, process, prediction=gdss_prediction(process))
    mask = torch.arange(6)[None] < torch.tensor([4, 6, 3])[:, None]
    seen = []

    def look(info):
        adj = info.x["adj"]
        live = mask[: len(adj), :, None] & mask[: len(adj), None, :] & ~torch.eye(6, dtype=torch.bool)
        assert torch.equal(adj, adj.mT)
        assert not adj[~live].any()
        assert not info.x["x"][~mask[: len(adj)]].any()
        seen.append(info.i)

    settings = {"solver": solver, "solver_options": options, "steps": 6, "grid": "uniform", "callback": look}
    shapes = {"x": (3, 6, 4), "adj": (3, 6, 6)}
    together = sample(den, shapes, seed=[5, 6, 7], cond={"node_mask": mask}, **settings)
    single = {"x": (1, 6, 4), "adj": (1, 6, 6)}
    alone = sample(den, single, seed=[5], cond={"node_mask": mask[:1]}, **settings)
    assert seen == [*range(6), *range(6)]
    for name, value in alone.items():
        torch.testing.assert_close(value[0], together[name][0], rtol=0, atol=1e-5)
    if solver in ("pc", "s4"):
        settings["solver_options"] = {**options, "batch_norms": True}
        coupled = sample(den, shapes, seed=[5, 6, 7], cond={"node_mask": mask}, **settings)
        assert (coupled["adj"][0] - alone["adj"][0]).abs().max() > 1e-4  # the published norms tie graphs together


def test_thresholds_of_decoding():
    data = GraphDataModule([nx.Graph([(0, 1, {"bond": k}), (1, 2, {"bond": 3})]) for k in (1, 2)] * 4)
    for graph_spec in (data.spec,):
        assert graph_spec.num_edge_classes == 4
    data = GraphDataModule([typed(k) for k in (1, 2)] * 4)
    adj = torch.zeros(2, 4, 4)
    adj[:, 0, 1] = torch.tensor([0.49, 0.5])
    adj[:, 0, 2] = torch.tensor([1.5, 1.49])
    adj[:, 1, 2] = torch.tensor([7.0, 2.49])
    x = torch.zeros(2, 4, 2)
    x[0] = torch.tensor(
        [[0.6, 0.9], [0.2, 0.45], [0.1, 0.2], [0.0, 0.0]]
    )  # both count as 1; 0.35 and 0.7 are left over
    decoded, sizes = decode_gdss({"x": x, "adj": adj + adj.mT}, data.spec, np.array([4, 3]))
    assert sizes.tolist() == [2, 1]  # the second graph has no atom left and keeps its first node
    assert decoded["x"][0, :2].tolist() == [0, 1]
    assert decoded["adj"][0, 0, 1] == 0
    x[0, 2, 0] = 0.7  # node 2 exists now
    decoded, sizes = decode_gdss({"x": x, "adj": adj + adj.mT}, data.spec, np.array([4, 3]))
    assert sizes[0] == 3
    assert decoded["adj"][0, :3, :3].tolist() == [[0, 0, 2], [0, 0, 3], [2, 3, 0]]


def typed(order):
    graph = nx.Graph()
    graph.add_nodes_from([(0, {"symbol": "C"}), (1, {"symbol": "O"}), (2, {"symbol": "C"})])
    graph.add_edges_from([(0, 1, {"bond": order}), (1, 2, {"bond": 3})])
    return graph


def test_degrees_above_the_features_are_refused():
    batch = {"adj": torch.ones(1, 4, 4).long() - torch.eye(4).long(), "node_mask": torch.ones(1, 4, dtype=torch.bool)}
    assert encode_gdss(batch, 4)["x"][0].argmax(-1).tolist() == [3] * 4
    with pytest.raises(ValueError, match="degree 3"):
        encode_gdss(batch, 3)


@pytest.mark.filterwarnings("ignore:component")
def test_generator_of_gdss_samples_with_its_own_settings():
    data = GraphDataModule(graphs())
    module = GDSSDiffusion(
        GDSSNetwork(depth=1, num_layers=2, width=8, attention_width=8),
        spec=data.spec,
        sampling={"solver": "pc", "solver_options": PC, "steps": 7},
    )
    assert module.denoiser.network.num_features == data.spec.max_degree + 1
    generator = GraphGenerator(module)
    found = generator.sample(3, num_nodes=[4, 6, 5])
    assert [len(graph) for graph in found] == [4, 6, 5]
    assert found.nfe == 14
    assert generator.sample(2, solver="s4", steps=5).nfe == 5
