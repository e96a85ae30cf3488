"""Radius lists of small graphs in Triton against brute force and the torch body, entry by entry."""

import pytest
import torch

from scidiff import kernels
from scidiff.kernels.search import squared_distance
from scidiff.kernels.triton import neighbors
from tests.scidiff.kernels.systems import brute_force, edges, random_batch
from tests.scidiff.kernels.triton_bodies.graphs import DEVICE

BACKEND = "interpret" if DEVICE == "cpu" else "triton"


def points(sizes, spread=4.0):
    return random_batch(torch.Generator().manual_seed(0), sizes, spread)


def radius(pos, cutoff, batch=None, **options):
    batch = None if batch is None else batch.to(DEVICE)
    cutoff = cutoff.to(DEVICE) if isinstance(cutoff, torch.Tensor) else cutoff
    return kernels.radius_graph(pos.to(DEVICE), cutoff, batch, backend=BACKEND, **options)


@pytest.mark.parametrize("loop", [False, True], ids=["open", "loop"])
def test_batches_equal_brute_force(loop):
    """With an empty graph and one of a single node."""
    pos, batch = points([7, 0, 1, 18, 2])
    g = radius(pos, 4.0, batch, loop=loop).validate()
    assert edges(g) == brute_force(pos, 4.0, batch, loop=loop)
    assert (g.batch_ptr.tolist(), g.max_nodes, g.symmetric) == ([0, 7, 7, 8, 26, 28], 18, True)
    assert {entry["op"]: entry["backend"] for entry in kernels.report()}["radius_graph"] == BACKEND


def test_rows_of_several_tiles():
    pos, batch = points([40, 3])
    starts, bound = torch.tensor([0, 40, 43], device=DEVICE), torch.full((2,), 25.0, dtype=torch.float64, device=DEVICE)
    system = pos.to(DEVICE), batch.to(DEVICE), starts, bound
    ptr = neighbors.count_pairs(*system, False, 1)  # a tile of 32 points
    source = neighbors.fill_pairs(*system, ptr, int(ptr[-1]), False, 1)
    assert edges(kernels.NeighborList(source, ptr, 43)) == brute_force(pos, 5.0, batch)


def test_each_graph_has_its_cutoff_in_any_order_of_nodes():
    pos, batch = points([9, 9, 9])
    shuffle = torch.randperm(27, generator=torch.Generator().manual_seed(1))
    pos, batch, cutoff = pos[shuffle], batch[shuffle], torch.tensor([2.0, 5.0, torch.inf])
    g = radius(pos, cutoff, batch)
    expected = [e for c in range(3) for e in brute_force(pos, float(cutoff[c]), batch) if int(batch[e[0]]) == c]
    assert edges(g) == sorted(expected)


def test_the_cutoff_is_inclusive_to_the_last_bit():
    """Pairs whose distance is the cutoff as it rounds: the list of the torch body, on the CPU, decides each of them."""
    line = torch.tensor([[0.0, 0, 0], [5, 0, 0], [10, 0, 0], [10, 3, 4]])
    assert edges(radius(line, 5.0)) == [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]
    pos, batch = points([2] * 24)
    cutoff = squared_distance(pos[::2], pos[1::2]).sqrt()
    expected = kernels.radius_graph(pos, cutoff, batch, backend="torch")
    assert 0 < expected.num_edges < 48
    assert edges(radius(pos, cutoff, batch)) == edges(expected)


def test_empty_systems_and_overflow():
    assert radius(torch.zeros(0, 3), 1.0).validate().num_edges == 0
    pos, batch = points([6], spread=0.1)
    nearest = radius(pos, 5.0, batch, max_neighbors=2, on_overflow="nearest")
    assert edges(nearest) == edges(kernels.knn_graph(pos, 2, batch, backend="torch"))
    padded = radius(pos, 5.0, batch, max_edges=40)
    assert (int(padded.num_found), padded.num_edges) == (30, 40)


def test_what_it_does_not_do_is_refused_or_left_to_others():
    pos = points([500])[0]
    cell = 20 * torch.eye(3, device=DEVICE)
    for given, options in ((pos, {}), (pos[:5], {"cell": cell})):
        with pytest.raises(ValueError, match=f"backend '{BACKEND}' cannot run radius_graph: .* at most 400 nodes"):
            radius(given, 2.0, **options)
        with kernels.use_backend(BACKEND):
            g = kernels.radius_graph(given.to(DEVICE), 2.0, **options)
        assert edges(g) == edges(kernels.radius_graph(given.to(DEVICE), 2.0, backend="torch", **options))
    other = "triton" if BACKEND == "interpret" else "interpret"
    with pytest.raises(ValueError, match="cuda" if other == "triton" else "cpu"):
        kernels.radius_graph(pos[:5].to(DEVICE), 2.0, backend=other)
