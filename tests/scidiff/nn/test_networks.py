"""What holds for every network of the registry: symmetry, forms of input, derivatives, degenerate input."""

import pytest
import torch

from scidiff.configurable import build, config_of
from scidiff.kernels import NeighborList, radius_graph
from scidiff.nn import NodeOutput, get_network, network_names
from scidiff.nn.registry import network_class
from scidiff.testing import assert_equivariant, assert_permutation_equivariant
from tests.scidiff.nn.cases import (
    CASES,
    IN_CHANNELS,
    NOT_COMPILED,
    SEES_ALL,
    TOLERANCE,
    batch_of,
    flat,
    network,
    sparse,
)

every_network = pytest.mark.parametrize("case", sorted(CASES))
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def largest(x):
    return x.abs().max().item() if x.numel() else 0.0


def relative_error(x, y):
    return largest(x - y) / max(largest(y), 1e-12)


@every_network
@pytest.mark.parametrize("dtype", DTYPES)
def test_equivariance(case, dtype):
    """Rotations, a reflection where the symmetry has it, translations; a network that tells mirror images apart must
    do so."""
    net, x = network(case, DTYPES[dtype]), batch_of([6, 4], DTYPES[dtype])
    symmetry = net.symmetry

    def fn(pos, v):
        x.pos, x.v = pos, v
        return x.call(net)[:2]

    options = {"kinds": ("point", "vector"), "out": ("scalar", "vector"), "tolerance": TOLERANCE.get(case)}
    inputs = (x.pos, x.v)
    assert_equivariant(fn, inputs, reflect=symmetry.startswith("E(3)"), **options)
    if not symmetry.startswith("E(3)"):
        with pytest.raises(AssertionError, match="reflection"):
            assert_equivariant(fn, inputs, **options)


@pytest.mark.parametrize("case", sorted(set(CASES) - set(TOLERANCE)))
def test_broken_symmetry_is_noticed(case):
    net, x = network(case), batch_of([6, 4])

    def fn(pos, v):
        x.pos, x.v = pos, v
        out = x.call(net)
        return out[0] + 1e-3 * pos[..., :1], out[1]

    with pytest.raises(AssertionError, match="output 0"):
        assert_equivariant(fn, (x.pos, x.v), kinds=("point", "vector"), out=("scalar", "vector"))


@every_network
def test_permutation(case):
    net, x = network(case), batch_of([6, 6])

    def fn(h, pos, v, edge_attr):
        x.h, x.pos, x.v, x.edge_attr = h, pos, v, edge_attr
        return x.call(net)

    out = [1, 1, (1, 2)][: len(x.call(net))]
    assert_permutation_equivariant(fn, (x.h, x.pos, x.v, x.edge_attr), axes=(1, 1, 1, (1, 2)), out=out)


@every_network
def test_padding_changes_nothing(case):
    """Padded entries may hold anything, and get zeros."""
    net, x = network(case), batch_of([6, 3, 1])
    before = x.call(net)
    mask = x.node_mask
    pairs = mask[:, :, None] & mask[:, None]
    x.h[~mask], x.pos[~mask], x.v[~mask], x.edge_attr[~pairs] = torch.nan, 1e9, torch.inf, torch.nan
    for value, wanted in zip(x.call(net), before):
        assert torch.equal(value, wanted)
        assert (
            largest(value[~(mask if value.dim() == wanted.dim() and value.shape[1:3] != pairs.shape[1:] else pairs)])
            == 0
        )


@every_network
@pytest.mark.parametrize("dtype", DTYPES)
def test_padded_batch_equals_edge_list(case, dtype):
    net, x = network(case, DTYPES[dtype]), batch_of([6, 3, 1, 5], DTYPES[dtype])
    arguments, options = sparse(x)
    out, flat = x.call(net), net(*arguments, **options)
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    assert relative_error(flat.h, out[0][x.node_mask]) < tolerance
    assert relative_error(flat.v, out[1][x.node_mask]) < tolerance
    if flat.edge_attr is not None:
        graphs, nodes = x.node_mask.nonzero().unbind(1)
        source, target = options["edge_index"]
        assert relative_error(flat.edge_attr, out[2][graphs[target], nodes[target], nodes[source]]) < tolerance


@every_network
def test_lists_of_any_form_equal_the_edge_list(case):
    """The edges as a list, as a list of fixed size with padding, and as shuffled edges."""
    net, x = network(case), batch_of([6, 3, 5])
    arguments, options = sparse(x)
    edge_index, edge_attr, batch = (options.pop(name) for name in ("edge_index", "edge_attr", "batch"))
    wanted = net(*arguments, edge_index=edge_index, edge_attr=edge_attr, batch=batch, **options)
    g = NeighborList.from_edge_index(edge_index, len(batch), batch=batch)
    for given in ({}, {"batch": batch}):
        out = net(*arguments, edge_index=g, edge_attr=edge_attr, **given, **options)
        assert all(relative_error(a, b) < 1e-12 for a, b in zip(out, wanted) if a is not None)
    size, extra = g.num_edges, 7
    source = torch.cat([g.source, g.source.new_full((extra,), g.num_nodes - 1)])
    padded = NeighborList(source, g.ptr, g.num_nodes, g.batch_ptr, num_found=torch.tensor(size))
    edges = torch.cat([g.to_canonical(edge_attr), torch.full((extra, 3), 5.0, dtype=torch.float64)])
    out = net(*arguments, edge_index=padded, edge_attr=edges, batch=batch, **options)
    assert relative_error(out.h, wanted.h) < 1e-12
    assert relative_error(out.v, wanted.v) < 1e-12
    if wanted.edge_attr is not None:
        assert relative_error(out.edge_attr[:size], g.to_canonical(wanted.edge_attr)) < 1e-12


def test_a_list_of_other_graphs_is_refused():
    net, x = get_network("egnn", IN_CHANNELS).double(), batch_of([4])
    edge_index = torch.tensor([[0, 1], [1, 0]])
    one = NeighborList.from_edge_index(edge_index, 4)
    with pytest.raises(ValueError, match="the list says otherwise"):
        net(x.h[0], x.pos[0], edge_index=one, batch=torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="list of 3 nodes, but pos has 4"):
        net(x.h[0], x.pos[0], edge_index=NeighborList.from_edge_index(edge_index, 3))


@every_network
def test_a_graph_does_not_feel_the_batch(case):
    net, x = network(case), batch_of([4, 6, 5])
    out = x.call(net)
    for i, size in enumerate([4, 6, 5]):
        alone = net(x.h[i, :size], x.pos[i, :size], x.t[i : i + 1], v=x.v[i, :size], **edges_of(x, i, size))
        assert relative_error(alone.h, out[0][i, :size]) < 1e-12
        assert relative_error(alone.v, out[1][i, :size]) < 1e-12


def edges_of(x, i, size):
    edge_index = (~torch.eye(size, dtype=torch.bool)).nonzero().T
    return {"edge_index": edge_index, "edge_attr": x.edge_attr[i, edge_index[1], edge_index[0]]}


@every_network
def test_forward_derivative_equals_differences(case):
    """jvp against central differences, whose error is of order step^2 = 1e-10 of the third derivative."""
    net, x = network(case), batch_of([5, 4])
    generator = torch.Generator().manual_seed(1)
    tangent = torch.randn(x.pos.shape, generator=generator, dtype=torch.float64)
    pos = x.pos

    def fn(pos):
        x.pos = pos
        return x.call(net)

    _, slopes = torch.func.jvp(fn, (pos,), (tangent,))
    step = 1e-5
    for slope, up, down in zip(slopes, fn(pos + step * tangent), fn(pos - step * tangent)):
        assert largest(slope) > 1e-3
        assert relative_error(slope, (up - down) / (2 * step)) < 1e-6


@every_network
def test_gradient_equals_forward_derivative(case):
    """<gradient, tangent> = sum of the jvp."""
    net, x = network(case), batch_of([5, 4])
    pos = x.pos.clone().requires_grad_()
    tangent = torch.randn(pos.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def fn(pos):
        x.pos = pos
        h, v = x.call(net)[:2]
        return h.square().sum() + v.square().sum()

    (gradient,) = torch.autograd.grad(fn(pos), pos)
    _, slope = torch.func.jvp(fn, (pos.detach(),), (tangent,))
    assert (gradient * tangent).sum().item() == pytest.approx(slope.item(), rel=1e-9)


@every_network
def test_coincident_points_have_finite_gradients(case):
    net, x = network(case), batch_of([5, 3])
    x.pos[0, 1] = x.pos[0, 0]
    x.pos[1] = 0.0
    x.v[0, 0] = 0.0
    x.pos.requires_grad_()
    x.v.requires_grad_()
    out = x.call(net)
    sum(value.square().sum() for value in out).backward()
    assert all(torch.isfinite(value).all() for value in out)
    tensors = [x.pos.grad, x.v.grad, *(p.grad for p in net.parameters() if p.grad is not None)]
    assert all(torch.isfinite(value).all() for value in tensors)


@every_network
def test_every_weight_matters(case):
    net, x = network(case), batch_of([5, 3])
    sum(value.square().sum() for value in x.call(net)).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or largest(p.grad) == 0] == []


@every_network
def test_configuration_round_trip(case):
    net, x = network(case), batch_of([5, 3])
    again = build(config_of(net)).double().eval()
    again.load_state_dict(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(x.call(net), x.call(again)))


@every_network
def test_no_nodes_and_no_edges(case):
    net = network(case)
    x = batch_of([1])
    single = x.call(net)
    assert single[0].shape == (1, 1, net.out_channels)
    assert torch.isfinite(single[0]).all()
    assert torch.isfinite(single[1]).all()
    nothing = batch_of([0, 0])
    assert [tuple(value.shape[:2]) for value in nothing.call(net)[:2]] == [(2, 0), (2, 0)]
    x = batch_of([4])
    edges = {"edge_index": torch.zeros(2, 0, dtype=torch.int64), "edge_attr": x.edge_attr.new_zeros(0, 3)}
    out = net(x.h[0], x.pos[0], x.t, v=x.v[0], **edges)
    alone = [net(x.h[0, i : i + 1], x.pos[0, i : i + 1], x.t, v=x.v[0, i : i + 1], **edges).h for i in range(4)]
    if CASES[case][0] not in SEES_ALL:
        assert relative_error(out.h, torch.cat(alone)) < 1e-12


@every_network
def test_messages_flow_from_source_to_target(case):
    options = {"pair_channels": None} if "pair_channels" in CASES[case][1] else {}  # which needs edges both ways
    net, x = network(case, num_layers=1, **options), batch_of([2])
    edges = {"edge_index": torch.tensor([[0], [1]]), "edge_attr": x.edge_attr[0, 1, :1]}

    def fn(h):
        return net(h, x.pos[0], x.t, v=x.v[0], **edges).h

    changed = x.h[0].clone()
    changed[0] += 1
    assert largest(fn(changed)[1] - fn(x.h[0])[1]) > 1e-6
    changed = x.h[0].clone()
    changed[1] += 1
    if CASES[case][0] not in SEES_ALL:
        assert largest(fn(changed)[0] - fn(x.h[0])[0]) == 0


@every_network
def test_cutoff(case):
    """Nodes beyond the cutoff do not interact; one within does."""
    net = network(case, cutoff=2.0, edge_channels=0)
    x = batch_of([4])
    h, v, pos = x.h[0], x.v[0], torch.zeros(4, 3, dtype=torch.float64)
    pos[:, 0] = torch.tensor([0.0, 1.0, 5.0, 6.5])

    def fn(h):
        return net(h, pos, x.t, v=v).h

    changed = h.clone()
    changed[3] += 1
    difference = (fn(changed) - fn(h)).abs().amax(1)
    if CASES[case][0] not in SEES_ALL:
        assert largest(difference[:2]) == 0
    assert difference[2] > 1e-6


@pytest.mark.parametrize("name", network_names())
def test_forward_derivative_with_a_cutoff(name):
    """The neighbours are searched inside the transform."""
    net, x = network(name, cutoff=3.0, edge_channels=0), batch_of([5])
    tangent = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def fn(pos):
        return net(x.h[0], pos, x.t, v=x.v[0]).h

    step = 1e-5
    slope = torch.func.jvp(fn, (x.pos[0],), (tangent,))[1]
    difference = (fn(x.pos[0] + step * tangent) - fn(x.pos[0] - step * tangent)) / (2 * step)
    assert largest(slope) > 1e-3
    assert relative_error(slope, difference) < 1e-6


@pytest.mark.parametrize("dims", [2, 4])
def test_cutoff_in_other_dimensions(dims):
    """In the plane by search; in four dimensions there is none."""
    net = network("egnn", cutoff=2.0, edge_channels=0)
    pos = torch.zeros(3, dims, dtype=torch.float64)
    pos[:, 1] = torch.tensor([0.0, 1.0, 3.5])
    x = batch_of([3], dims=dims)
    if dims > 3:
        with pytest.raises(ValueError, match=r"\(N, 3\)"):
            net(x.h[0], pos, x.t, v=x.v[0])
        return
    edge_index = torch.tensor([[0, 1], [1, 0]])
    found, given = net(x.h[0], pos, x.t, v=x.v[0]), net(x.h[0], pos, x.t, v=x.v[0], edge_index=edge_index)
    assert torch.equal(found.h, given.h)


@every_network
def test_times_of_graphs_nodes_and_all(case):
    net, x = network(case), batch_of([5, 3])
    out = x.call(net)
    x.t = x.t[:, None].expand(2, 5)
    assert all(torch.equal(a, b) for a, b in zip(x.call(net), out))
    x.t = torch.tensor(0.3, dtype=torch.float64)
    same = x.call(net)
    assert largest(same[0] - out[0]) > 1e-6
    x.t = torch.full((2,), 0.3, dtype=torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(x.call(net), same))


@every_network
def test_vectors_and_edges_matter(case):
    net, x = network(case), batch_of([5])
    out = x.call(net)
    x.v = x.v + 1
    moved = x.call(net)
    assert largest(moved[1] - out[1]) > 1e-6
    x.edge_attr = x.edge_attr + 1
    assert largest(x.call(net)[0] - moved[0]) > 1e-6


@pytest.mark.parametrize("case", sorted(set(network_names()) - set(NOT_COMPILED)))
def test_message_passing_is_one_graph_for_the_compiler(case):
    """Once the neighbour list is made, nothing looks at data."""
    net, x = network(case, num_layers=1), batch_of([5, 4])
    graphs = flat(net, x)
    for name in ("ptr", "source", "target", "degree", "batch", "t_edge"):
        getattr(graphs.g, name)  # made when first read
    torch._dynamo.reset()
    out = torch.compile(net.message_passing, fullgraph=True, backend="eager")(graphs)
    assert all(torch.equal(a, b) for a, b in zip(out, net.message_passing(graphs)) if a is not None)


@pytest.mark.parametrize("name", network_names())
def test_single_precision_is_near_double(name):
    x32, x64 = batch_of([6], torch.float32), batch_of([6])
    for a, b in zip(x32.call(network(name, torch.float32)), x64.call(network(name)), strict=True):
        assert relative_error(a.double(), b) < 1e-4


@pytest.mark.parametrize("name", network_names())
def test_default_sizes(name):
    """No features at all: an output still comes out, with the sizes that were asked for."""
    net = get_network(name, IN_CHANNELS, hidden=16, num_layers=1, out_channels=7)
    x = batch_of([5, 4], torch.float32)
    out = net(x.h, x.pos, node_mask=x.node_mask)
    assert isinstance(out, NodeOutput)
    assert out.h.shape == (2, 5, 7)
    assert out.v.shape == (2, 5, 1, 3)
    assert net.symmetry in ("E(3)", "SE(3)", "E(3) approximate", "SE(3) approximate")


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match=r"unknown network 'egn' \(known: .*egnn.*did you mean 'egnn'"):
        get_network("egn", 4)
    with pytest.raises(ValueError, match=r"'egnn' does not take these options: .*heads"):
        get_network("egnn", 4, heads=3)
    with pytest.raises(ValueError, match="unknown network"):
        network_class("")


def test_bad_input_is_explained():
    net, x = (
        get_network("egnn", IN_CHANNELS, edge_channels=3, vector_channels=2, time_channels=1).double(),
        batch_of([4]),
    )
    edges = {"edge_index": torch.tensor([[0], [1]]), "edge_attr": x.edge_attr[0, 1, :1]}

    def call(h=x.h[0], pos=x.pos[0], t=x.t, v=x.v[0], **options):
        return net(h, pos, t, v=v, **{**edges, **options})

    call()
    for wrong, text in [
        ({"h": x.h[0, :, :2]}, r"h must have shape \(4, 4\), got \(4, 2\).*in_channels=4"),
        ({"v": None}, r"built with vector_channels=2, so v of shape \(4, 2, 3\) is needed"),
        ({"edge_attr": None}, "edge_channels=3"),
        ({"edge_index": None}, "needs the edge_index"),
        ({"edge_attr": x.edge_attr[0, 1, :2]}, "2 rows, but edge_index has 1 edges"),
        ({"t": None}, r"t must have shape \(1,\) \(graphs\), \(4,\) \(nodes\) or \(\), got None"),
        ({"t": x.t[:0]}, r"got \(0,\)"),
        ({"batch": torch.tensor([0, 1, 0, 1])}, "batch must be sorted"),
        ({"batch": torch.tensor([0, 1])}, r"batch must have shape \(4,\)"),
        ({"node_mask": torch.ones(4, dtype=torch.bool)}, "node_mask belongs to padded batches"),
        ({"pos": x.pos[0, :, 0]}, r"pos must have shape \(N, D\) or \(B, N, D\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            call(**wrong)
    with pytest.raises(ValueError, match="takes node_mask"):
        net(x.h, x.pos, x.t, v=x.v, edge_attr=x.edge_attr, edge_index=edges["edge_index"])
    with pytest.raises(ValueError, match=r"node_mask must be bool \(1, 4\)"):
        net(x.h, x.pos, x.t, v=x.v, edge_attr=x.edge_attr, node_mask=torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"t must have shape \(1,\) \(graphs\), \(1, 4\)"):
        net(x.h, x.pos, x.t[:0], v=x.v, edge_attr=x.edge_attr)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"time_channels": 3}, "time_channels must be 0, 1 or even"),
        ({"cutoff": 0.0}, "cutoff must be positive"),
    ],
    ids=["hidden", "time_channels", "cutoff"],
)
def test_bad_arguments_are_explained(wrong, text):
    with pytest.raises(ValueError, match=text):
        get_network("egnn", 4, **wrong)


PERIODIC = [case for case in CASES if not case.startswith("eqgat")]


def crystal(cell, copies=1):
    """Six points in a skewed cell, and their copies along the first lattice vector: arguments of a call."""
    generator = torch.Generator().manual_seed(4)
    h, frac, v = (torch.rand(6, c, generator=generator, dtype=torch.float64) for c in (IN_CHANNELS, 3, 6))
    pos = torch.cat([frac @ cell + k * cell[0] for k in range(copies)])
    lattice = torch.cat([copies * cell[:1], cell[1:]])
    v = v.unflatten(1, (2, 3)).repeat(copies, 1, 1)
    return (h.repeat(copies, 1), pos, torch.tensor(0.4).double()), {"v": v, "cell": lattice}


@pytest.mark.parametrize("case", PERIODIC)
def test_periodic_cell(case):
    """A cell, the same crystal in a cell of twice the length, in shifted cells, as a list, and in a padded batch."""
    cell = torch.tensor([[3.0, 0.0, 0.0], [0.7, 2.5, 0.0], [-0.4, 0.5, 2.8]]).double()
    net = network(case, cutoff=3.2, edge_channels=0)
    arguments, options = crystal(cell)
    wanted = net(*arguments, **options)
    open_form = net(*arguments, v=options["v"])
    assert relative_error(open_form.v, wanted.v) > 0.01
    double_arguments, double_options = crystal(cell, copies=2)
    double = net(*double_arguments, **double_options)
    shift = torch.randint(-2, 3, (6, 3), generator=torch.Generator().manual_seed(5)).double() @ cell
    h, pos, t = arguments
    moved = net(h, pos + shift, t, **options)
    g = radius_graph(pos, 3.2, cell=cell)
    listed = net(h, pos, t, v=options["v"], edge_index=g, cell=cell)
    padded = net(h[None], pos[None], t, v=options["v"][None], cell=cell[None])
    for name in ("h", "v"):
        value = getattr(wanted, name)
        assert relative_error(getattr(double, name), value.repeat(2, *[1] * (value.dim() - 1))) < 1e-11
        assert relative_error(getattr(moved, name), value) < 1e-11
        assert relative_error(getattr(listed, name), value) < 1e-12
        assert relative_error(getattr(padded, name)[0], value) < 1e-12


def test_cells_that_mean_nothing_are_refused():
    cell, plain = torch.eye(3).double(), {"edge_channels": 0}
    arguments, options = crystal(cell)
    with pytest.raises(ValueError, match="EQGAT takes no periodic cell: it measures lengths"):
        network("eqgat", cutoff=1.0, **plain)(*arguments, **options)
    with pytest.raises(ValueError, match="needs a network with a cutoff"):
        network("egnn", **plain)(*arguments, **options)
    net, pairs = network("egnn", cutoff=1.0, **plain), torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="need images: pass the list"):
        net(*arguments, **options, edge_index=pairs)
    with pytest.raises(ValueError, match="is a periodic list: give its cell"):
        net(*arguments, v=options["v"], edge_index=radius_graph(arguments[1], 1.0, cell=cell))
    with pytest.raises(ValueError, match="3 dimensions"):
        net(arguments[0], arguments[1][:, :2], arguments[2], v=options["v"][..., :2], cell=cell)
