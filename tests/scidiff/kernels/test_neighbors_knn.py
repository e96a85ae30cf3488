"""Nearest neighbours against a sort of all pairs; ties, small graphs, duplicates."""

import pytest
import torch

from scidiff.kernels import knn_graph
from tests.scidiff.kernels.systems import BODIES, edges, random_batch


def by_sorting(pos, k, batch, loop=False):
    found = []
    batch = [int(graph) for graph in batch]
    d2 = (pos[None] - pos[:, None]).double().square().sum(-1).tolist()
    for i in range(len(pos)):
        others = [j for j in range(len(pos)) if batch[j] == batch[i] and (loop or j != i)]
        ranked = sorted(others, key=lambda j: (d2[i][j], j))
        found += sorted((i, j) for j in ranked[:k])
    return found


@pytest.mark.parametrize("loop", [False, True], ids=["open", "loop"])
@pytest.mark.parametrize("k", [1, 4, 30])
@pytest.mark.parametrize("body", BODIES)
def test_nearest_equal_a_sort_of_all_pairs(body, k, loop):
    """Graphs smaller than k + 1 have fewer edges, never invented ones."""
    pos, batch = random_batch(torch.Generator().manual_seed(0), [7, 1, 0, 18, 2])
    g = knn_graph(pos, k, batch, loop=loop, backend=body)
    assert edges(g) == by_sorting(pos, k, batch, loop)
    assert not g.symmetric
    g.validate()


@pytest.mark.parametrize("body", BODIES)
def test_ties_go_to_the_lower_number(body):
    """A cubic lattice: integer coordinates give exact ties everywhere, also at the k-th place."""
    pos = torch.cartesian_prod(*[torch.arange(5.0)] * 3)[
        torch.randperm(125, generator=torch.Generator().manual_seed(1))
    ]
    batch = [0] * 125
    for k in (1, 4, 9, 20):
        assert edges(knn_graph(pos, k, backend=body)) == by_sorting(pos, k, batch)


@pytest.mark.parametrize("body", BODIES)
def test_duplicates_are_neighbours_at_distance_zero(body):
    pos = torch.zeros(30, 3)
    assert edges(knn_graph(pos, 3, backend=body)) == by_sorting(pos, 3, [0] * 30)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("shape", ["cloud", "clusters", "plane", "outlier"])
def test_large_graphs_of_uneven_density(body, shape):
    generator = torch.Generator().manual_seed(2)
    pos = torch.rand(1500, 3, generator=generator, dtype=torch.float64) * 10
    if shape == "clusters":
        pos = pos.mul(0.05) + torch.randint(0, 3, (1500, 1), generator=generator) * 40
    if shape == "plane":
        pos[:, 2] = 1.0
    if shape == "outlier":
        pos[7] = 1e7
    batch = torch.tensor([0] * 900 + [1] * 600)
    d2 = (pos[None] - pos[:, None]).square().sum(-1)
    d2[(batch[None] != batch[:, None]) | torch.eye(1500, dtype=torch.bool)] = torch.inf
    source = d2.sort(dim=1, stable=True).indices[:, :12].sort(dim=1).values
    g = knn_graph(pos, 12, batch, backend=body)
    assert torch.equal(g.source.reshape(1500, 12), source)


@pytest.mark.parametrize("body", BODIES)
def test_unsorted_batches(body):
    generator = torch.Generator().manual_seed(3)
    pos, batch = random_batch(generator, [7, 12, 5])
    shuffle = torch.randperm(24, generator=generator)
    found = edges(knn_graph(pos[shuffle], 4, batch[shuffle], backend=body))
    assert found == by_sorting(pos[shuffle], 4, batch[shuffle])
