"""The public operations with the Triton body: registered operations, their gradients, and what cannot run."""

import pytest
import torch

from scidiff import kernels
from scidiff.kernels.basis import BesselBasis, CosineCutoff
from scidiff.kernels.graph import NeighborList
from tests.scidiff.kernels.triton_bodies.graphs import DEVICE, graph, normal

BACKEND = "interpret" if DEVICE == "cpu" else "triton"
N, E = 4, 21
RADIAL = BesselBasis(8, 3.0), CosineCutoff(3.0)


def neighbors():
    g = graph((3, 0, 17, 1), index=torch.int64)
    return NeighborList.from_edge_index(torch.stack([g.source, g.target]), num_nodes=N)


def wide(*shape, seed=0):
    return normal(*shape, dtype=torch.float64, seed=seed)


def edge_mlp(a, b, d2, wd, W2, b2, w, vec, *, backend):
    out = kernels.edge_mlp(a, b, neighbors(), d2=d2, wd=wd, W2=W2, b2=b2, coord=w, vec=vec, backend=backend)
    return out[0], out[1]


OPERATIONS = {
    "gather_multiply_sum": ([(N, 5), (E, 5)], lambda x, w, **k: kernels.gather_multiply_sum(x, w, neighbors(), **k)),
    "weighted_sum": ([(N, 6), (E, 2)], lambda x, a, **k: kernels.weighted_sum(x, a, neighbors(), **k)),
    "edge_dot": ([(N, 6), (N, 6)], lambda a, b, **k: kernels.edge_dot(a, b, neighbors(), 2, **k)),
    "cfconv": (
        [(N, 5), (E,), (8, 5), (5,)],
        lambda x, d, W, b, **k: kernels.cfconv(x, 3 * d.sigmoid(), W, b, neighbors(), *RADIAL, **k),
    ),
    "painn_message": (
        [(N, 15), (N, 5, 3), (E,), (E, 3), (8, 15), (15,)],
        lambda p, v, d, u, W, b, **k: kernels.painn_message(p, v, 3 * d.sigmoid(), u, W, b, neighbors(), *RADIAL, **k),
    ),
    "softmax_gather_sum": ([(E, 5), (N, 5)], lambda l, x, **k: kernels.softmax_gather_sum(l, x, neighbors(), **k)),  # noqa: E741
    "neighbor_attention": (
        [(N, 2, 3), (N, 2, 3), (N, 2, 3), (E, 2), (N, 2, 3, 3)],
        lambda q, x, v, b, u, **k: kernels.neighbor_attention(q, x, v, neighbors(), b, u, **k),
    ),
    "edge_mlp": ([(N, 5), (N, 5), (E,), (5,), (5, 4), (4,), (4,), (E, 3)], edge_mlp),
    "gather": ([(N, 5, 2)], lambda x, **k: kernels.gather(x, neighbors(), **k)),
    "segment_sum": ([(E, 5)], lambda v, **k: kernels.segment_sum(v, neighbors(), **k)),
    "segment_mean": ([(E,)], lambda v, **k: kernels.segment_mean(v, neighbors(), **k)),
    "segment_max": ([(E, 5)], lambda v, **k: kernels.segment_max(v, neighbors(), **k)),
    "segment_softmax": ([(E, 5)], lambda v, **k: kernels.segment_softmax(v, neighbors(), **k)),
    "ponita_conv": (
        [(N, 3, 4), (E, 3, 5), (5, 4), (3, 3, 4)],
        lambda x, b, W, f, **k: kernels.ponita_conv(x, b, W, f, neighbors(), **k),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_and_both_derivatives(name):
    shapes, run = OPERATIONS[name]
    leaves = [wide(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]

    def derivatives(backend):
        out = run(*leaves, backend=backend)
        outs = out if isinstance(out, tuple) else (out,)
        first = torch.autograd.grad(sum(o.square().sum() for o in outs), leaves, create_graph=True)
        return *outs, *first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves)

    ours = derivatives(BACKEND)
    ran = {entry["op"]: entry["backend"] for entry in kernels.report()}
    assert ran[name] == BACKEND
    for got, want in zip(ours, derivatives("torch"), strict=True):
        assert (got - want).norm() <= 1e-11 * want.norm()


def test_attention_without_bias_and_vectors():
    q, k, v = (wide(N, 2, 3, seed=i) for i in range(3))
    edges = neighbors().edge_index.flip(1)  # any order of edges
    found, none = kernels.neighbor_attention(q, k, v, edges, backend=BACKEND)
    expected, _ = kernels.neighbor_attention(q, k, v, neighbors(), backend="torch")
    assert none is None
    assert (found - expected).norm() <= 1e-13 * expected.norm()
    assert torch.equal(found[1], torch.zeros_like(found[1]))  # a node without edges


def test_the_other_device_is_refused_with_the_reason():
    other = "triton" if BACKEND == "interpret" else "interpret"
    with pytest.raises(ValueError, match="cuda" if other == "triton" else "cpu"):
        kernels.gather_multiply_sum(wide(N, 5), wide(E, 5), neighbors(), backend=other)
