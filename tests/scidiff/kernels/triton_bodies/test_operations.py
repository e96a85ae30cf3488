"""The public operations with the Triton body: registered operations, their gradients, and what cannot run."""

import pytest
import torch

from scidiff.kernels import gather_multiply_sum
from scidiff.kernels.graph import NeighborList
from tests.scidiff.kernels.triton_bodies.graphs import DEVICE, graph, normal

BACKEND = "interpret" if DEVICE == "cpu" else "triton"


def neighbors():
    g = graph((3, 0, 17, 1), index=torch.int64)
    return NeighborList.from_edge_index(torch.stack([g.source, g.target]), num_nodes=4)


def test_gather_multiply_sum_and_both_derivatives():
    g = neighbors()
    x, w = (t.requires_grad_() for t in (normal(4, 5, dtype=torch.float64), normal(21, 5, dtype=torch.float64, seed=1)))
    up = normal(4, 5, dtype=torch.float64, seed=2)

    def derivatives(backend):
        out = gather_multiply_sum(x, w, g, backend=backend)
        first = torch.autograd.grad((out.square() * up).sum(), (x, w), create_graph=True)
        return out, *first, *torch.autograd.grad(sum(grad.pow(3).sum() for grad in first), (x, w))

    for got, want in zip(derivatives(BACKEND), derivatives("torch"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_the_other_device_is_refused_with_the_reason():
    other = "triton" if BACKEND == "interpret" else "interpret"
    with pytest.raises(ValueError, match="cuda" if other == "triton" else "cpu"):
        gather_multiply_sum(normal(4, 5), normal(21, 5), neighbors(), backend=other)
