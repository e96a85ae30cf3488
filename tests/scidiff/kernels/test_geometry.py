"""Edge vectors: direction, periodic images, order of edges, coincident points."""

import pytest
import torch

from scidiff.kernels import NeighborList, edge_geometry, gather
from tests.scidiff.kernels.loops import normal

POS = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0], [3.0, 4.0, 0.0]], dtype=torch.float64)


def test_vectors_point_from_the_target_to_the_source():
    vec, dist = edge_geometry(POS, torch.tensor([[1], [0]]))
    assert torch.equal(vec, POS[1:2])
    assert dist.tolist() == [5.0]


def test_edges_keep_the_order_of_what_was_given():
    edge_index = torch.tensor([[2, 0, 1, 0], [1, 2, 0, 1]])
    vec, dist = edge_geometry(POS, edge_index)
    assert torch.equal(vec, POS[edge_index[0]] - POS[edge_index[1]])
    g = NeighborList.from_edge_index(edge_index, 3)
    assert torch.equal(g.to_user(edge_geometry(POS, g)[1]), dist)


def test_periodic_images():
    """Each graph has its own cell: the image S of the source lies S cell away."""
    generator = torch.Generator().manual_seed(0)
    cell = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    shifts = torch.tensor([[1, 0, -1], [0, 2, 0]])
    edge_index, batch = torch.tensor([[1, 2], [0, 2]]), torch.tensor([0, 0, 1])
    g = NeighborList.from_edge_index(edge_index, 3, batch=batch, shifts=shifts)
    vec, dist = edge_geometry(POS, g, cell)
    wanted = torch.stack([POS[1] - POS[0] + cell[0, 0] - cell[0, 2], 2 * cell[1, 1]])
    torch.testing.assert_close(vec, wanted)
    torch.testing.assert_close(dist, wanted.norm(dim=-1))
    single = NeighborList.from_edge_index(edge_index, 3, shifts=shifts)
    torch.testing.assert_close(edge_geometry(POS, single, cell[1])[0][1], 2 * cell[1, 1])
    with pytest.raises(ValueError, match="give the cell"):
        edge_geometry(POS, g)


def test_coincident_points_have_no_gradient():
    pos = POS.clone().requires_grad_()
    edge_index = torch.tensor([[1, 0], [2, 1]])
    _, dist = edge_geometry(pos, edge_index)
    dist.sum().backward()
    assert dist.tolist() == [0.0, 5.0]
    torch.testing.assert_close(pos.grad, torch.tensor([[-0.6, -0.8, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]).double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    """Differences of coordinates that are rounded themselves are exact; their lengths are those of float32."""
    edges = torch.tensor([[1, 2, 0], [0, 0, 2]])
    pos = normal(3, 3, dtype=torch.float32).to(dtype)
    vec, dist = edge_geometry(pos, edges)
    expected = edge_geometry(pos.float(), edges)
    assert vec.dtype == dist.dtype == torch.float32
    assert torch.equal(vec, expected[0])
    assert torch.equal(dist, expected[1])
    assert not torch.equal(dist, dist.to(dtype).float())


def test_gather_takes_two_ends():
    x, edges = normal(3, 2, 2), torch.tensor([[1, 2, 0], [0, 0, 2]])
    assert torch.equal(gather(x, edges), x[edges[0]])
    assert torch.equal(gather(x, edges, "target"), x[edges[1]])
    with pytest.raises(ValueError, match='end must be "source" or "target"'):
        gather(x, edges, "both")
