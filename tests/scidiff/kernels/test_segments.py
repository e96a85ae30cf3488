"""Derivatives of reductions over edges, of edge vectors and of tensor products, with isolated nodes."""

import pytest
import torch

import scidiff.kernels as K
from tests.scidiff.kernels.loops import normal, random_edges

N, E, F = 7, 17, 4
EDGES = random_edges(N, E)  # the last node is isolated
SORTED = K.NeighborList.from_edge_index(EDGES, N)
SEGMENTS = {
    "sum": K.segment_sum,
    "mean": K.segment_mean,
    "max": K.segment_max,
    "softmax": K.segment_softmax,
}


@pytest.mark.parametrize("graph", [EDGES, SORTED], ids=["edge_index", "list"])
@pytest.mark.parametrize("op", SEGMENTS)
def test_derivatives_of_reductions(op, graph):
    def run(v):
        return SEGMENTS[op](v, graph, num_nodes=N) if graph is EDGES else SEGMENTS[op](v, graph)

    v = normal(E, F).requires_grad_()
    assert torch.autograd.gradcheck(run, v)
    assert torch.autograd.gradgradcheck(run, v)


def test_isolated_nodes_attend_to_nothing():
    """Rows without edges are zero, and so are the gradients of what stands at nodes without targets."""
    logits, x = normal(E, F).requires_grad_(), normal(N, F, seed=1).requires_grad_()
    out = K.softmax_gather_sum(logits, x, SORTED)
    lonely = SORTED.degree == 0
    assert lonely[-1]
    assert torch.equal(out[lonely], torch.zeros_like(out[lonely]))
    out.sum().backward()
    silent = torch.bincount(SORTED.source.long(), minlength=N) == 0
    assert silent[-1]
    assert torch.equal(x.grad[silent], torch.zeros_like(x.grad[silent]))
    weights = K.segment_softmax(logits.detach(), SORTED)
    expected = torch.zeros_like(x).index_add(0, SORTED.source.long(), weights)
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-12)


def test_derivatives_of_edge_vectors():
    pos, cell = normal(N, 3).requires_grad_(), (3 * torch.eye(3).double() + 0.1 * normal(3, 3)).requires_grad_()
    apart = EDGES[:, EDGES[0] != EDGES[1]]  # the length has no second derivative at zero
    shifts = torch.randint(-1, 2, (apart.shape[1], 3), generator=torch.Generator().manual_seed(2))
    periodic = K.NeighborList.from_edge_index(apart, N, shifts=shifts)
    for function, tensors in (
        (lambda p: K.edge_geometry(p, apart), (pos,)),
        (lambda p, c: K.edge_geometry(p, periodic, c), (pos, cell)),
    ):
        assert torch.autograd.gradcheck(function, tensors)
        assert torch.autograd.gradgradcheck(function, tensors)


def test_derivatives_of_tensor_products():
    o3 = pytest.importorskip("e3nn.o3")
    paths = [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True)]
    tp = o3.TensorProduct("2x0e+2x1o", "0e+1o", "2x0e+2x1o", paths, shared_weights=False).double()
    x, Y, w = normal(N, tp.irreps_in1.dim), normal(E, 4, seed=1), normal(E, tp.weight_numel, seed=2)
    tensors = tuple(t.requires_grad_() for t in (x, Y, w))
    assert torch.autograd.gradcheck(lambda *args: K.tensor_product_scatter(*args, EDGES, tp), tensors)
    assert torch.autograd.gradgradcheck(lambda *args: K.tensor_product_scatter(*args, EDGES, tp), tensors)
