"""Contract of `NeighborList`: order, transpose, round trips, padding, dense batches."""

import pytest
import torch
from torch.utils import _pytree as pytree
from torch_geometric import EdgeIndex

from scidiff.kernels import NeighborList, full_graph


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def random_edges(generator, nodes=13, edges=60):
    return torch.randint(nodes, (2, edges), generator=generator)


def pairs(edge_index):
    return sorted(zip(*edge_index.tolist()))


def test_one_edge_ends_in_its_target():
    g = NeighborList.from_edge_index(torch.tensor([[0], [1]]), 3)
    assert g.ptr.tolist() == [0, 0, 1, 1]
    assert g.source.tolist() == [0]
    assert g.target.tolist() == [1]
    assert g.t_ptr.tolist() == [0, 1, 1, 1]


def test_any_order_becomes_canonical_and_features_travel_with_it(generator):
    edge_index = random_edges(generator)
    g = NeighborList.from_edge_index(edge_index, 13)
    ordered = sorted(zip(edge_index[1].tolist(), edge_index[0].tolist()))
    assert list(zip(g.target.tolist(), g.source.tolist())) == ordered
    features = torch.randn(60, 4, generator=generator)
    inside = g.to_canonical(features)
    for e in range(60):
        assert torch.equal(inside[e], features[g.perm[e]])
        assert g.edge_index[:, e].tolist() == edge_index[:, g.perm[e]].tolist()
    assert torch.equal(g.to_user(inside), features)


def test_sorted_edges_keep_no_permutation(generator):
    g = NeighborList.from_edge_index(random_edges(generator), 13)
    again = NeighborList.from_edge_index(g.edge_index, 13)
    assert again.perm is None
    assert torch.equal(again.source, g.source)
    assert torch.equal(again.ptr, g.ptr)


def test_transpose_is_the_stable_sort_by_source(generator):
    g = NeighborList.from_edge_index(random_edges(generator), 13)
    order = sorted(range(60), key=lambda e: (int(g.source[e]), e))
    assert g.t_edge.tolist() == order
    assert g.t_target.tolist() == [int(g.target[e]) for e in order]
    assert g.t_ptr.tolist() == [sum(int(s) < j for s in g.source) for j in range(14)]


@pytest.mark.parametrize("loop", [False, True], ids=["open", "loop"])
@pytest.mark.parametrize("sizes", [[], [0], [1], [3], [2, 0, 1, 4]], ids=str)
def test_full_graph_is_all_ordered_pairs(sizes, loop):
    starts = torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()]).long()
    g = full_graph(starts, loop=loop)
    expected = [
        (j, i)
        for first, last in zip(starts.tolist(), starts.tolist()[1:])
        for i in range(first, last)
        for j in range(first, last)
        if loop or i != j
    ]
    assert list(zip(*g.edge_index.tolist())) == expected
    assert g.num_edges == len(expected)
    assert (g.kind, g.symmetric, g.max_nodes) == ("full_loop" if loop else "full", True, max(sizes, default=0))
    assert g.validate() is g
    assert g.t_ptr.tolist() == g.ptr.tolist()
    assert g.t_target.tolist() == g.source.tolist()


def test_full_graph_makes_no_edges_before_they_are_read():
    g = full_graph(torch.tensor([0, 3, 5]))
    assert g.num_edges == 8
    assert not {"source", "ptr", "target"} & set(vars(g))


def test_compressed_form_is_that_of_pyg(generator):
    edge_index = random_edges(generator)
    g = NeighborList.from_edge_index(edge_index, 13)
    theirs, _ = EdgeIndex(edge_index, sparse_size=(13, 13)).sort_by("col", stable=True)
    (colptr, _), _ = theirs.get_csc()
    assert torch.equal(colptr, g.ptr)
    out = g.to_pyg().validate()
    (colptr, row), _ = out.get_csc()
    assert torch.equal(colptr, g.ptr)
    assert torch.equal(row, g.source)
    back = NeighborList.from_edge_index(out)
    assert back.num_nodes == 13
    assert torch.equal(back.source, g.source)


def test_dense_batches(generator):
    g = full_graph(torch.tensor([0, 3, 3, 5]))
    x = torch.randn(5, 2, generator=generator)
    dense = g.to_dense(x)
    assert dense.shape == (3, 3, 2)
    assert torch.equal(dense[0], x[:3])
    assert torch.equal(dense[2, :2], x[3:])
    assert float(dense[1].abs().sum() + dense[2, 2].abs().sum()) == 0
    assert torch.equal(g.from_dense(dense), x)
    assert g.node_mask.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    matrix = torch.zeros(27, dtype=torch.int64).index_add_(0, g.edge_slot, torch.ones(8, dtype=torch.int64))
    assert matrix.reshape(3, 3, 3)[2].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    matrix = torch.full((27,), -1).index_copy_(0, g.edge_slot, g.source).reshape(3, 3, 3)
    assert matrix[0].tolist() == [[-1, 1, 2], [0, -1, 2], [0, 1, -1]]


def test_padded_lists_keep_padding_out_of_the_rows():
    found = torch.tensor(3)
    source, ptr = torch.tensor([1, 0, 0, 2, 2]), torch.tensor([0, 1, 3, 3])
    g = NeighborList(source, ptr, 3, num_found=found)
    assert g.target.tolist() == [0, 1, 1, 2, 2]
    assert g.edge_mask.tolist() == [True, True, True, False, False]
    assert g.t_ptr.tolist() == [0, 2, 3, 3]
    assert g.t_edge.tolist() == [1, 2, 0, 3, 4]
    assert not bool(g.overflow)
    assert bool(NeighborList(source, ptr, 3, num_found=torch.tensor(9)).overflow)


@pytest.mark.parametrize("kind", ["sparse", "padded", "full"])
def test_what_inference_reads_first_serves_training_later(generator, kind):
    """Lazy attributes are kept, so none may be a tensor of inference mode."""
    g = full_graph(torch.tensor([0, 3, 5]))
    if kind != "full":
        starts = torch.tensor([0, 13])
        g = NeighborList.from_edge_index(random_edges(generator), 13, batch_ptr=starts)
    if kind == "padded":
        g = NeighborList(g.source, g.ptr, 13, starts, num_found=torch.tensor(g.num_edges))
    names = ["target", "edge_index", "degree", "t_ptr", "t_edge", "t_target", "batch", "node_slot", "edge_slot"]
    names += ["node_mask", "source", "ptr"]
    with torch.inference_mode():
        values = torch.randn(g.num_edges, 2)
        g.to_user(values)
        found = {name: getattr(g, name) for name in names}
    assert [name for name, value in found.items() if value.is_inference()] == []
    edge_values = torch.randn(g.num_edges, 2, requires_grad=True)
    (edge_values.exp().index_select(0, g.t_edge) * edge_values).sum().backward()
    g.to_user(edge_values.exp()).sum().backward()


@pytest.mark.parametrize("kind", ["sparse", "full"])
def test_a_list_is_a_pytree(generator, kind):
    g = full_graph(torch.tensor([0, 3, 5]))
    if kind == "sparse":
        g = NeighborList.from_edge_index(random_edges(generator), 13, batch=torch.zeros(13, dtype=torch.int64))
    leaves, spec = pytree.tree_flatten(g)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    back = pytree.tree_unflatten(leaves, spec)
    assert type(back) is type(g)
    assert torch.equal(back.edge_index, g.edge_index)
    assert (back.kind, back.symmetric, back.max_nodes) == (g.kind, g.symmetric, g.max_nodes)
    assert g.to("cpu") is g
    narrow = g.to("cpu", index_dtype=torch.int32)
    assert narrow.source.dtype == narrow.ptr.dtype == narrow.t_edge.dtype == torch.int32
    assert torch.equal(narrow.edge_index, g.edge_index)


@pytest.mark.parametrize(
    ("edge_index", "text"),
    [
        (torch.tensor([[0, 5], [1, 0]]), r"entries in \[0, 4\), got minimum 0 and maximum 5"),
        (torch.tensor([[0, -1], [1, 0]]), "got minimum -1"),
        (torch.tensor([0, 1]), r"integer tensor \(2, E\)"),
        (torch.tensor([[0.0], [1.0]]), "torch.float32"),
    ],
)
def test_bad_edges_are_refused(edge_index, text):
    with pytest.raises(ValueError, match=text):
        NeighborList.from_edge_index(edge_index, 4)


def test_edges_between_graphs_are_refused():
    with pytest.raises(ValueError, match="join two graphs"):
        NeighborList.from_edge_index(torch.tensor([[0], [3]]), batch=torch.tensor([0, 0, 1, 1]))
