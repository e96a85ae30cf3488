"""Every registered operation against torch's own checks, and compiled code on graphs of several sizes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import scidiff.kernels as K
from tests.scidiff.kernels.loops import normal, random_list
from tests.scidiff.kernels.test_ops import BODIES, gradients, inputs

REGISTERED = {
    *(
        "gms",
        "gms_backward",
        "edge_product",
        "weighted_sum",
        "edge_dot",
        "cfconv",
        "cfconv_backward",
        "painn",
        "painn_backward",
    ),
    *(
        "softmax_gather_sum",
        "softmax_gather_sum_backward",
        "edge_mlp",
        "edge_mlp_backward",
        "ponita",
        "ponita_backward",
        "segment_sum",
        "gather",
        "segment_expand",
        "segment_max",
        "segment_softmax",
        "segment_softmax_backward",
    ),
}
WITH_CALLS = [(op, body) for op, body in BODIES if body in ("numba", "chunked")]


class Recorder(TorchDispatchMode):
    """Keeps the last call of each operation of ours."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "scidiff":
            self.calls[func] = args
        return func(*args, **(kwargs or {}))


def recorded(op, body):
    with Recorder() as recorder:
        gradients(op, inputs(op), body)
    return recorder.calls


def fresh(value, requires_grad):
    if isinstance(value, list | tuple):
        return type(value)(fresh(v, requires_grad) for v in value)
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().clone()
    return value.requires_grad_(requires_grad) if value.is_floating_point() else value


@pytest.mark.parametrize(("op", "body"), WITH_CALLS)
def test_registration(op, body):
    """Schema, fake tensors, autograd and dynamic shapes; backward operations take no graph of themselves."""
    calls = recorded(op, body)
    assert calls
    for func, args in calls.items():
        name = func._schema.name.removeprefix("scidiff::")
        is_closed = not name.endswith("_backward")
        torch.library.opcheck(func, fresh(args, is_closed), rtol=1e-10, atol=1e-10)


def test_every_operation_is_checked():
    found = {func._schema.name.removeprefix("scidiff::") for op, body in WITH_CALLS for func in recorded(op, body)}
    assert found >= REGISTERED


BASIS, CUTOFF = K.BesselBasis(5, 4.0), K.CosineCutoff(4.0)
BY_GRAPH = {
    "gather_multiply_sum": lambda g, x, w, v: K.gather_multiply_sum(x, w, g),
    "weighted_sum": lambda g, x, w, v: K.weighted_sum(x, w[:, 0], g),
    "edge_dot": lambda g, x, w, v: K.edge_dot(x, x * x, g),
    "cfconv": lambda g, x, w, v: K.cfconv(x, w[:, 0].abs(), w[:5], w[5], g, BASIS, CUTOFF),
    "painn_message": lambda g, x, w, v: K.painn_message(
        x.repeat(1, 3), v, w[:, 0].abs(), w[:, :3], w[:5].repeat(1, 3), w[5].repeat(3), g, BASIS, CUTOFF
    )[1],
    "softmax_gather_sum": lambda g, x, w, v: K.softmax_gather_sum(w, x, g),
    "edge_mlp": lambda g, x, w, v: K.edge_mlp(x, x * x, g, d2=w[:, 0] ** 2, wd=w[0], W2=w[:4], b2=w[5]).h,
    "segment_sum": lambda g, x, w, v: K.segment_sum(w, g),
    "segment_softmax": lambda g, x, w, v: K.segment_softmax(w, g),
}


@pytest.mark.parametrize("op", BY_GRAPH)
def test_compiled_code_takes_graphs_of_any_size(op):
    """The list is an argument: after the second size nothing is compiled again."""
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    compiled = torch.compile(BY_GRAPH[op], fullgraph=True, backend=counter)
    for k, (nodes, edges) in enumerate([(7, 17), (9, 31), (12, 23), (20, 90)]):
        g = random_list(nodes, edges, seed=k)
        tensors = [normal(*s, seed=k + 5).requires_grad_() for s in ((nodes, 4), (edges, 4), (nodes, 4, 3))]
        value, expected = compiled(g, *tensors), BY_GRAPH[op](g, *tensors)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        pairs = [torch.autograd.grad(out.square().sum(), tensors, allow_unused=True) for out in (value, expected)]
        for a, b in zip(*pairs, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert counter.frame_count <= 2
