"""Every body against the definition: values, gradients, second derivatives, registration, compilation, transforms."""

import pytest
import torch

import scidiff.kernels as K
from scidiff.kernels import ops
from tests.scidiff.kernels.loops import normal, random_list

N, E, F = 7, 17, 4
GRAPH = random_list(N, E)
FULL = K.full_graph(torch.tensor([0, 3, 4, 8]))
DIST = 0.3 + 4 * normal(E, seed=90).sigmoid()
RADIAL = K.BesselBasis(5, 4.0), K.CosineCutoff(4.0)


def case(function, *shapes):
    return function, shapes


def mlp(act, num_head, **options):
    """An edge network with gate, edge features and a coordinate head of one or three tensors."""

    def run(a, b, d2, wd, e, We, W2, b2, gate_w, gate_b, vec, *head, **kw):
        coord = head[0] if num_head == 1 else head
        weights = {"wd": wd, "e": e, "We": We, "W2": W2, "b2": b2, "gate": (gate_w, gate_b[0])}
        return K.edge_mlp(a, b, GRAPH, d2=d2, **weights, coord=coord, vec=vec, act=act, **options, **kw)

    head = ((3,),) if num_head == 1 else ((3, 2), (2,), (2,))
    shapes = ((N, F), (N, F), (E,), (F,), (E, 2), (2, F), (F, 3), (3,), (3,), (1,), (E, 3))
    return case(run, *shapes, *head)


CASES = {
    "gather_multiply_sum": case(lambda x, w, **kw: K.gather_multiply_sum(x, w, GRAPH, **kw), (N, F), (E, F)),
    "weighted_sum": case(lambda x, a, **kw: K.weighted_sum(x, a, GRAPH, **kw), (N, F), (E,)),
    "weighted_sum heads": case(lambda x, a, **kw: K.weighted_sum(x, a, GRAPH, **kw), (N, F), (E, 2)),
    "edge_dot": case(lambda x, y, **kw: K.edge_dot(x, y, GRAPH, **kw), (N, F), (N, F)),
    "edge_dot heads": case(lambda x, y, **kw: K.edge_dot(x, y, GRAPH, 2, **kw), (N, F), (N, F)),
    "cfconv": case(
        lambda x, d, W, b, **kw: K.cfconv(x, DIST.to(d) * (1 + 0.01 * d), W, b, GRAPH, *RADIAL, **kw),
        *((N, F), (E,), (5, F), (F,)),
    ),
    "painn_message": case(
        lambda phi, v, d, u, W, b, **kw: K.painn_message(
            phi, v, DIST.to(d) * (1 + 0.01 * d), u, W, b, GRAPH, *RADIAL, **kw
        ),
        *((N, 3 * F), (N, F, 3), (E,), (E, 3), (5, 3 * F), (3 * F,)),
    ),
    "softmax_gather_sum": case(lambda x, y, **kw: K.softmax_gather_sum(x, y, GRAPH, **kw), (E, F), (N, F)),
    "edge_mlp": mlp("silu", 1, norm="mean", return_messages=True),
    "edge_mlp head": mlp("tanh", 3, coord_norm="mean", coord_range=2.0),
    "edge_mlp plain": case(
        lambda a, b, d2, wd, W, b2, **kw: K.edge_mlp(a, b, GRAPH, d2=d2, wd=wd, W2=W, b2=b2, **kw),
        *((N, F), (N, F), (E,), (F,), (F, 3), (3,)),
    ),
    "weighted_sum full": case(lambda x, a, **kw: K.weighted_sum(x, a, FULL, **kw), (8, F), (FULL.num_edges, 2)),
    "neighbor_attention": case(
        lambda q, k, v, b, u, **kw: K.neighbor_attention(q, k, v, FULL, b, u, **kw),
        *((8, 2, 3), (8, 2, 3), (8, 2, 2), (FULL.num_edges, 2), (8, 2, 2, 3)),
    ),
    "neighbor_attention sparse": case(
        lambda q, k, v, u, **kw: K.neighbor_attention(q, k, v, GRAPH, None, u, **kw),
        *((N, 2, 3), (N, 2, 3), (N, 2, 2), (N, 2, 2, 3)),
    ),
    "gather": case(lambda x, **kw: K.gather(x, GRAPH, **kw), (N, F)),
    "gather target": case(lambda x, **kw: K.gather(x, GRAPH, "target", **kw), (N, F)),
    "segment_sum": case(lambda v, **kw: K.segment_sum(v, GRAPH, num_nodes=N, **kw), (E, F)),
    "segment_mean": case(lambda v, **kw: K.segment_mean(v, GRAPH, num_nodes=N, **kw), (E, F)),
    "segment_max": case(lambda v, **kw: K.segment_max(v, GRAPH, num_nodes=N, **kw), (E, F)),
    "segment_softmax": case(lambda v, **kw: K.segment_softmax(v, GRAPH, num_nodes=N, **kw), (E, F)),
    "ponita_conv": case(
        lambda x, basis, W, fiber, b, **kw: K.ponita_conv(x, basis, W, fiber, GRAPH, bias=b, **kw),
        *((N, 3, 2), (E, 3, 4), (4, 2), (3, 3, 2), (2,)),
    ),
}
OTHER = {"edge_mlp": ["numba", "chunked"]}
OTHER |= {op: ["numba", "chunked"] for op in ("gather_multiply_sum", "weighted_sum", "edge_dot")}
BODIES = [("weighted_sum full", "dense"), ("neighbor_attention", "dense")]
BODIES += [(op, body) for op in CASES for body in OTHER.get(op.split()[0], ["numba"])]


ROUNDINGS = 2 * (E + 2 * F + 4)
"""There and back: a sum over at most E edges, two layers of F channels, two activations of up to two units each."""


def inputs(op, dtype=torch.float64):
    return [normal(*shape, seed=k, dtype=dtype).requires_grad_() for k, shape in enumerate(CASES[op][1])]


def flat(out):
    """The tensors of a result."""
    return tuple(t for t in out if t is not None) if isinstance(out, tuple) else (out,)


def gradients(op, tensors, body):
    out = flat(CASES[op][0](*tensors, backend=body))
    loss = sum((o * normal(*o.shape, seed=50 + k).to(o.dtype)).sum() for k, o in enumerate(out))
    return (*out, *torch.autograd.grad(loss, tensors))


@pytest.mark.parametrize(("op", "body"), BODIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_body_equals_definition(op, body, dtype):
    """In norm: each number passes through at most `ROUNDINGS` roundings of half an epsilon."""
    bound = ROUNDINGS * torch.finfo(dtype).eps / 2
    tensors = inputs(op, dtype)
    exact = gradients(op, inputs(op), "torch")
    for value, expected in zip(gradients(op, tensors, body), exact, strict=True):
        assert value.dtype == dtype
        assert (value - expected).norm() <= bound * expected.norm()
    entry = next(r for r in K.report() if r["op"] == op.split()[0])
    assert (entry["backend"], entry["reason"]) == (body, "asked for")


@pytest.mark.parametrize(("op", "body"), [*BODIES, *((op, "torch") for op in CASES)])
def test_derivatives(op, body):
    tensors = inputs(op)

    def run(*args):
        return flat(CASES[op][0](*args, backend=body))

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


def test_registration():
    x, w = inputs("gather_multiply_sum")
    graph = (GRAPH.source, GRAPH.ptr, GRAPH.target, GRAPH.t_ptr, GRAPH.t_target, GRAPH.t_edge)
    torch.library.opcheck(ops.gms.overload, (x, w, *graph, False, "numba"))
    torch.library.opcheck(ops.gms.overload, (x, w, *graph, True, "numba"))
    torch.library.opcheck(ops.edge_product.overload, (x, x.detach() + 1, *graph, "numba"))
    torch.library.opcheck(ops.gms_backward.overload, (x.detach() + 1, x.detach(), w.detach(), *graph, "numba"))


def test_gradients_in_one_pass_are_those_of_two():
    """To the last bit: nodes without edges on either side, and sources with several edges."""
    x, w, g = normal(N, F).float(), normal(E, F, seed=1).float(), normal(N, F, seed=2).float()
    graph = (GRAPH.source, GRAPH.ptr, GRAPH.target, GRAPH.t_ptr, GRAPH.t_target, GRAPH.t_edge)
    dx, dw = ops.gms_backward(g, x, w, *graph, "numba")
    assert torch.equal(dx, ops.gms(g, w, *graph, True, "numba"))
    assert torch.equal(dw, ops.edge_product(g, x, *graph, "numba"))
