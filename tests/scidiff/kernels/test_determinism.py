"""Every public operation and body: the same bits in each run, with any number of threads, and in any batch.

Graphs are large enough for several pieces of edges and for parallel regions. Definitions in plain torch leave products
to BLAS, which may share a sum out among threads, or take a product with one vector by another way for other numbers of
rows: `BLAS` names those that are held to repetition alone.
"""

import itertools

import pytest
import torch

import scidiff.kernels as K
from tests.scidiff.kernels.loops import normal

F, H = 64, 4
BASIS, CUTOFF = K.BesselBasis(20, 4.0), K.CosineCutoff(4.0)
NODES = {"x": (F,), "y": (F,), "phi": (3 * F,), "v": (F, 3), "q": (H, 16), "k": (H, 16), "u": (H, 16, 3), "o": (4, 16)}
EDGES = {"w": (F,), "a": (), "heads": (H,), "dist": (), "vec": (3,), "e": (5,), "basis": (4, 8)}
WEIGHTS = {"W": (20, F), "b": (F,), "W3": (20, 3 * F), "b3": (3 * F,), "M": (F, F), "P": (8, 16), "fiber": (4, 4, 16)}


def edge_network(t, g, body):
    head = (t["M"] / 8, t["b"], t["b"] * 0.1)
    weights = {"wd": t["b"], "e": t["e"], "We": t["W"][:5], "W2": t["M"] / 8, "b2": t["b"], "gate": (t["b"], t["b"][0])}
    options = {"coord": head, "vec": t["vec"], "coord_norm": "mean", "return_messages": True}
    return K.edge_mlp(t["x"], t["y"], g, d2=t["dist"], **weights, **options, backend=body)


OPS = {
    "gather_multiply_sum": (lambda t, g, b: K.gather_multiply_sum(t["x"], t["w"], g, backend=b), "x w"),
    "weighted_sum": (lambda t, g, b: K.weighted_sum(t["x"], t["a"], g, backend=b), "x a"),
    "weighted_sum heads": (lambda t, g, b: K.weighted_sum(t["x"], t["heads"], g, backend=b), "x heads"),
    "edge_dot": (lambda t, g, b: K.edge_dot(t["x"], t["y"], g, H, backend=b), "x y"),
    "cfconv": (
        lambda t, g, b: K.cfconv(t["x"], t["dist"], t["W"], t["b"], g, BASIS, CUTOFF, backend=b),
        "x dist W b",
    ),
    "painn_message": (
        lambda t, g, b: K.painn_message(
            t["phi"], t["v"], t["dist"], t["vec"], t["W3"], t["b3"], g, BASIS, CUTOFF, backend=b
        ),
        "phi v dist vec W3 b3",
    ),
    "edge_mlp": (edge_network, "x y dist b e W M vec"),
    "softmax_gather_sum": (lambda t, g, b: K.softmax_gather_sum(t["w"], t["x"], g, backend=b), "w x"),
    "neighbor_attention": (
        lambda t, g, b: K.neighbor_attention(t["q"], t["k"], t["q"], g, t["heads"], t["u"], backend=b),
        "q k heads u",
    ),
    "neighbor_attention plain": (
        lambda t, g, b: K.neighbor_attention(t["q"], t["k"], t["q"], g, t["heads"], backend=b),
        "q k heads",
    ),
    "ponita_conv": (
        lambda t, g, b: K.ponita_conv(t["o"], t["basis"], t["P"], t["fiber"], g, backend=b),
        "o basis P fiber",
    ),
    "gather": (lambda t, g, b: K.gather(t["x"], g, backend=b), "x"),
    "gather target": (lambda t, g, b: K.gather(t["x"], g, "target", backend=b), "x"),
    "segment_sum": (lambda t, g, b: K.segment_sum(t["w"], g, backend=b), "w"),
    "segment_mean": (lambda t, g, b: K.segment_mean(t["w"], g, backend=b), "w"),
    "segment_max": (lambda t, g, b: K.segment_max(t["w"], g, backend=b), "w"),
    "segment_softmax": (lambda t, g, b: K.segment_softmax(t["w"], g, backend=b), "w"),
}
BODIES = {op: ["numba", "torch"] for op in OPS} | {"edge_mlp": ["numba", "chunked", "torch"]}
BODIES |= {op: ["numba", "chunked", "torch"] for op in ("gather_multiply_sum", "weighted_sum heads", "edge_dot")}
BODIES |= {"weighted_sum": ["numba", "chunked", "dense", "torch"]}
BODIES |= {op: ["numba", "dense", "torch"] for op in ("neighbor_attention", "neighbor_attention plain")}
PAIRS = [(op, body) for op in OPS for body in BODIES[op]]
BLAS = {(op, "torch") for op in ("cfconv", "painn_message", "edge_mlp", "ponita_conv")}
STARTS = {"even": [0, 40, 80, 120], "uneven": [0, 36, 80, 110]}


def make(graph):
    """Float32 tensors of all names."""
    rows = [(NODES, graph.num_nodes), (EDGES, graph.num_edges)]
    tensors = {name: normal(n, *shape, seed=len(name)) for names, n in rows for name, shape in names.items()}
    tensors |= {name: normal(*shape, seed=len(name)) for name, shape in WEIGHTS.items()}
    tensors["dist"] = 0.2 + 4 * tensors["dist"].sigmoid()
    return {name: t.float() for name, t in tensors.items()}


def run(op, body, graph, tensors):
    """Results and gradients by name."""
    function, names = OPS[op]
    own = {name: tensors[name].clone().requires_grad_() for name in names.split()}
    out = function(own, graph, body)
    out = [o for o in out if o is not None] if isinstance(out, tuple) else [out]
    grads = torch.autograd.grad(sum(o.square().sum() for o in out), list(own.values()))
    return {f"result {k}": o.detach() for k, o in enumerate(out)} | dict(zip(own, grads, strict=True))


def differing(first, second):
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize(("op", "body"), PAIRS)
@pytest.mark.parametrize("kind", STARTS)
def test_repetition_and_threads_change_no_bit(op, body, kind):
    graph = K.full_graph(torch.tensor(STARTS[kind]))
    tensors, before = make(graph), torch.get_num_threads()
    try:
        torch.set_num_threads(2 if (op, body) in BLAS else 1)
        first = run(op, body, graph, tensors)
        torch.set_num_threads(2)
        for _ in range(20 if kind == "even" and body != "torch" else 3):
            assert differing(first, run(op, body, graph, tensors)) == []
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("op", "body"), [pair for pair in PAIRS if pair not in BLAS])
@pytest.mark.parametrize("kind", STARTS)
def test_a_graph_alone_equals_the_same_graph_in_a_batch(op, body, kind):
    starts = STARTS[kind]
    graph = K.full_graph(torch.tensor(starts))
    tensors = make(graph)
    whole = run(op, body, graph, tensors)
    for k, (begin, end) in enumerate(itertools.pairwise(starts)):
        n, first = end - begin, int(graph.ptr[begin])
        parts = {"nodes": slice(begin, end), "edges": slice(first, first + n * (n - 1))}
        own = {
            name: t[parts["nodes" if name in NODES else "edges"]] if name not in WEIGHTS else t
            for name, t in tensors.items()
        }
        alone = run(op, body, K.full_graph(torch.tensor([0, n])), own)
        for name, value in alone.items():
            if name not in WEIGHTS:
                rows = parts["nodes" if whole[name].shape[0] == graph.num_nodes else "edges"]
                expected = whole[name][rows]
                if kind == "uneven" and body == "dense" and op.startswith("neighbor_attention"):
                    # padding to the largest graph makes sums over rows of up to 44 entries in another order
                    assert (value - expected).norm() <= 44 * torch.finfo(torch.float32).eps * expected.norm()
                else:
                    assert torch.equal(value, expected), (k, name)
