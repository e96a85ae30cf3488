"""Radius lists of batches of small graphs on the CPU: eight comparisons at a time, by one thread and by several."""

import numba
import numpy as np
import pytest
import torch

from scidiff.kernels import radius_graph, report, search_numba
from scidiff.kernels.cpu_numba import _threads, brute

SIZES = (9, 0, 1, 7, 8, 400, 63, 0, 64, 65, 1, 129, 18, 0)
BATCH = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
STARTS = torch.tensor([0, *np.cumsum(SIZES).tolist()])
CUTOFFS = [1.0, 4.0, 9.0, float("inf")]
THREADS = min(2, numba.config.NUMBA_NUM_THREADS)


@pytest.fixture
def pos():
    return torch.rand(len(BATCH), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6


def dense(pos, cutoff, loop=False):
    """Pairs (2, E) of one N x N matrix, and row pointers."""
    dx, dy, dz = (pos[None] - pos[:, None]).unbind(-1)
    close = (dx * dx + dy * dy + dz * dz <= cutoff * cutoff) & (BATCH[None] == BATCH[:, None])
    close &= torch.eye(len(pos), dtype=torch.bool).logical_not() | loop
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), close.sum(1).cumsum(0)])
    return close.nonzero().T.flip(0), ptr


@pytest.mark.parametrize("loop", [False, True], ids=["open", "loop"])
@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_rows_of_any_length_equal_dense_torch(pos, cutoff, loop):
    edge_index, ptr = dense(pos, cutoff, loop)
    g = radius_graph(pos, cutoff, batch_ptr=STARTS, loop=loop).validate()
    assert torch.equal(g.edge_index, edge_index)
    assert torch.equal(g.ptr, ptr)
    assert g.source.dtype == g.target.dtype == g.ptr.dtype == torch.int64
    assert {"numba"} == {
        entry["backend"] for entry in report() if (entry["op"], entry["device"]) == ("radius_graph", "cpu")
    }


@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("parts", [1, 2, 3, 8, 100])
def test_parts_write_into_their_own_rows(pos, cutoff, parts):
    edge_index, ptr = dense(pos, cutoff)
    arrays = STARTS.numpy(), pos.numpy(), np.array([cutoff]), False, 400, parts
    for largest, rows, pairs in (brute._edges(*arrays), _threads.in_parallel(brute._edges_parallel, THREADS, *arrays)):
        assert largest == 400
        assert np.array_equal(rows, ptr)
        assert np.array_equal(pairs, edge_index)


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_nothing_is_written_outside_of_a_part(pos, cutoff):
    edge_index, ptr = dense(pos, cutoff)
    near, rows = np.zeros((len(pos), 50), np.uint8), np.zeros(len(pos) + 1, np.int64)
    graphs = len(SIZES)
    brute._find(0, graphs, STARTS.numpy(), pos.numpy(), np.array([cutoff]), False, near, rows)
    assert np.array_equal(np.cumsum(rows), ptr)
    for first in range(graphs):
        for last in range(first, graphs + 1):
            pairs = np.full(edge_index.shape, -1)
            brute._fill(first, last, STARTS.numpy(), near, ptr.numpy(), pairs)
            wanted = np.full(edge_index.shape, -1)
            own = slice(int(ptr[STARTS[first]]), int(ptr[STARTS[last]]))
            wanted[:, own] = edge_index[:, own]
            assert np.array_equal(pairs, wanted), (first, last)


def test_several_threads_serve_a_large_batch(pos, monkeypatch):
    ran, plain = [], _threads.in_parallel
    monkeypatch.setattr(_threads, "in_parallel", lambda *args: (ran.append(args[0]), plain(*args))[1])
    monkeypatch.setattr(_threads, "thread_count", lambda work=0: 1 if work < _threads.MIN_WORK else THREADS)
    many = torch.cat([STARTS[:-1] + copy * STARTS[-1] for copy in range(30)] + [30 * STARTS[-1:]])
    g = radius_graph(pos.repeat(30, 1), 4.0, batch_ptr=many)
    assert ran == ([brute._edges_parallel] if THREADS > 1 else [])
    edge_index, _ = dense(pos, 4.0)
    copies = [edge_index + copy * len(pos) for copy in range(30)]
    assert torch.equal(g.edge_index, torch.cat(copies, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "graphs",
    [
        {"batch": BATCH},
        {"batch": BATCH.repeat_interleave(2)[::2]},
        {"batch": BATCH.int()},
        {"batch_ptr": STARTS},
        {"batch_ptr": STARTS.repeat_interleave(2)[::2]},
        {"batch_ptr": STARTS.int()},
    ],
    ids=["batch", "strided-batch", "short-batch", "pointers", "strided-pointers", "short-pointers"],
)
def test_the_short_way_gives_the_list_of_the_long_one(pos, dtype, graphs):
    """A cutoff for each graph takes the long way; strides and gradients of the coordinates do not matter."""
    pos = pos.to(dtype).repeat(1, 2)[:, :3].requires_grad_()
    g = radius_graph(pos, 3.0, **graphs).validate()
    count = g.num_graphs  # the last graph is empty: pointers know of it, numbers do not
    assert count == len(SIZES) - ("batch" in graphs)
    other = radius_graph(pos, torch.full((count,), 3.0), **graphs)
    for name in ("source", "ptr", "target", "edge_index", "batch_ptr", "built_at"):
        ours, theirs = getattr(g, name), getattr(other, name)
        assert torch.equal(ours, theirs), name
        assert ours.dtype == theirs.dtype, name
        assert not ours.requires_grad, name
    assert (g.max_nodes, g.symmetric, g.shifts) == (400, True, None)
    assert (other.max_nodes, other.symmetric) == (400, True)


@pytest.mark.parametrize("extra", [0, 1], ids=["brute", "cells"])
def test_brute_force_and_cells_agree_where_they_meet(extra):
    count = search_numba._DIVIDED + extra
    pos = torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) * 15
    g = radius_graph(pos, 2.0).validate()
    delta = pos.double()[None] - pos.double()[:, None]
    close = (delta.square().sum(-1) <= 4.0) & ~torch.eye(count, dtype=torch.bool)
    assert torch.equal(g.edge_index.flip(0).T, close.nonzero())


def test_each_graph_may_have_its_cutoff(pos):
    cutoffs = torch.linspace(1.0, 7.0, len(SIZES), dtype=torch.float64)
    edge_index, _ = dense(pos, float("inf"))
    keep = (pos[edge_index[0]] - pos[edge_index[1]]).square().sum(1) <= cutoffs[BATCH[edge_index[0]]] ** 2
    assert torch.equal(radius_graph(pos, cutoffs, batch_ptr=STARTS).edge_index, edge_index[:, keep])


def test_no_nodes_at_all():
    for graphs in ({}, {"batch": BATCH[:0]}, {"batch_ptr": torch.zeros(4, dtype=torch.int64)}):
        g = radius_graph(torch.zeros(0, 3), 1.0, **graphs).validate()
        assert (g.num_nodes, g.num_edges, g.ptr.tolist(), g.max_nodes) == (0, 0, [0], 0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch_ptr": STARTS[:0]}, "must be a vector of integers"),
        ({"batch_ptr": STARTS[:-2]}, "end at the number of nodes, 765"),
        ({"batch_ptr": STARTS + 1}, "must start at 0"),
        ({"batch_ptr": torch.tensor([0, 8, 4, 12]), "pos": torch.zeros(12, 3)}, "not decrease"),
        ({"batch_ptr": STARTS[:, None]}, "must be a vector"),
        ({"batch_ptr": STARTS.double()}, "must be a vector"),
        ({"batch": BATCH - 1}, "at least 0, got -1"),
        ({"cutoff": -1}, "cutoff must be above 0"),
        ({"pos": torch.full((765, 3), torch.inf)}, "must be finite"),
    ],
    ids=["empty", "short", "late", "falling", "matrix", "floats", "negative", "cutoff", "infinite"],
)
def test_bad_input_is_named(pos, change, text):
    with pytest.raises(ValueError, match=text):
        radius_graph(**({"pos": pos, "cutoff": 2.0} | change))
