"""Graphs of equal size take padded matrices without indices; operations do not load the compiler."""

import subprocess
import sys

import pytest
import torch

import scidiff.kernels as K
from scidiff.kernels import chunked, even, ops
from tests.scidiff.kernels.loops import normal

EVEN = K.full_graph(torch.tensor([0, 4, 8, 12]))
SIZES = {
    "attention": [(12, 2, 3), (12, 2, 3), (12, 2, 3), (EVEN.num_edges, 2)],
    "weighted_sum": [(12, 6), (EVEN.num_edges, 2)],
}


def run(name, tensors, body=None):
    if name == "attention":
        q, k, v, bias = tensors
        return K.neighbor_attention(q, k, v, EVEN, bias, backend=body)[0]
    return K.weighted_sum(*tensors, EVEN, backend=body)


@pytest.mark.parametrize("name", SIZES)
def test_equals_the_definition(name):
    tensors = [normal(*shape, seed=k).requires_grad_() for k, shape in enumerate(SIZES[name])]
    exact = run(name, tensors, "torch")
    torch.testing.assert_close(run(name, tensors, "dense"), exact, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        found = run(name, tensors, "dense")
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1 if threads > 1 else 2)
            assert torch.equal(run(name, tensors, "dense"), found)
        finally:
            torch.set_num_threads(threads)
    assert torch.autograd.gradcheck(lambda *args: run(name, args, "dense"), tensors)
    assert torch.autograd.gradgradcheck(lambda *args: run(name, args, "dense"), tensors)


@pytest.fixture
def small_pieces(monkeypatch):
    """Two pieces of three of the five graphs of `FIVE`: one graph is in both."""
    monkeypatch.setattr(chunked, "chunk", lambda x: 30)


FIVE = K.full_graph(torch.arange(0, 21, 4))
X, W = normal(20, 6, seed=1), normal(FIVE.num_edges, 6, seed=2)
ENDS = FIVE.source, FIVE.ptr, FIVE.target, FIVE.t_ptr, FIVE.t_target, FIVE.t_edge


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=["int32", "int64"])
@pytest.mark.parametrize(("size", "count"), [(2, 40), (4, 5), (4, 6), (5, 1), (6, 4)])
def test_windows_give_the_bits_of_gathers(small_pieces, monkeypatch, dtype, index, size, count):
    graph = K.full_graph(torch.arange(0, size * count + 1, size, dtype=index))
    x, y, w = (normal(k, 6, seed=s).to(dtype) for s, k in enumerate((size * count,) * 2 + (graph.num_edges,)))
    calls = (
        lambda body: body.gms(x, w, graph.source, graph.ptr),
        lambda body: body.gms(x, w, graph.t_target, graph.t_ptr, graph.t_edge),
        lambda body: body.edge_product(y, x, graph.source, graph.target),
    )
    expected = [call(chunked) for call in calls]
    if size < 6 and count > 1:  # a piece holds a graph, and there are several: nothing may be left to gathers
        monkeypatch.setattr(chunked, "gms", None)
        monkeypatch.setattr(chunked, "edge_product", None)
    for call, gathered in zip(calls, expected, strict=True):
        assert torch.equal(call(even), gathered)


def test_windows_are_taken_and_differentiated(small_pieces, monkeypatch):
    monkeypatch.setattr(chunked, "gms", None)
    monkeypatch.setattr(chunked, "edge_product", None)
    tensors = [t.clone().requires_grad_() for t in (X, W)]

    def run(x, w):
        return K.gather_multiply_sum(x, w, FIVE, backend="chunked")

    exact = K.gather_multiply_sum(*tensors, FIVE, backend="torch")
    torch.testing.assert_close(run(*tensors), exact, rtol=1e-14, atol=1e-14)
    assert next(r for r in K.report() if r["op"] == "gather_multiply_sum")["backend"] == "chunked"
    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)
    for transposed in (False, True):
        torch.library.opcheck(ops.gms.overload, (*tensors, *ENDS, transposed, "even"))
    torch.library.opcheck(ops.edge_product.overload, (tensors[0], X + 1, *ENDS, "even"))
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    assert torch.equal(compiled(*tensors), run(*tensors))
    half = run(X.bfloat16(), W.float())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, run(X.bfloat16().float(), W.float()).bfloat16())


def test_other_graphs_are_gathered(monkeypatch):
    """Uneven graphs, graphs of one node, with loops, or given as edges in another order."""
    monkeypatch.setitem(ops._loaded, ("even", "gms"), None)
    shuffled = FIVE.edge_index[:, torch.randperm(FIVE.num_edges, generator=torch.Generator().manual_seed(0))]
    starts = torch.tensor([0, 4, 9]), torch.arange(4), torch.zeros(1, dtype=torch.int64)
    graphs = [*(K.full_graph(s) for s in starts), K.full_graph(torch.tensor([0, 3, 6]), loop=True)]
    for graph in (*graphs, K.NeighborList.from_edge_index(shuffled, 20), shuffled):
        num = 20 if graph is shuffled else graph.num_nodes
        w = normal(graph.shape[1] if graph is shuffled else graph.num_edges, 6)
        found, exact = (K.gather_multiply_sum(X[:num], w, graph, backend=body) for body in ("chunked", "torch"))
        torch.testing.assert_close(found, exact, rtol=1e-14, atol=1e-14)


def test_an_operation_and_its_gradient_do_not_load_the_compiler():
    code = (
        "import sys, torch, scidiff.kernels as K\n"
        "x, g = torch.randn(8, 4, requires_grad=True), K.full_graph(torch.tensor([0, 4, 8]))\n"
        "K.gather_multiply_sum(x, torch.randn(24, 4), g, backend='chunked').sum().backward()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
