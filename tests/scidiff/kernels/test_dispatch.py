"""Choice of bodies, transforms, dtypes, layouts, order of edges, independence of batch, threads and repetition."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad

import scidiff.kernels as K
from scidiff.kernels import _dispatch
from tests.scidiff.kernels.loops import loop_gms, normal, random_edges
from tests.scidiff.kernels.test_ops import BODIES, CASES, GRAPH, E, F, N, flat, gradients, inputs

SIMILAR = {"edge_mlp head", "edge_mlp plain", "weighted_sum heads", "edge_dot heads", "gather target"}
AUTO = [op for op in CASES if op not in SIMILAR]
BASIS, CUTOFF = K.BesselBasis(5, 4.0), K.CosineCutoff(4.0)


def last(op):
    return next(r for r in K.report() if r["op"] == op.split()[0])


def test_private_names_of_torch_still_mean_what_they_meant():
    assert _dispatch.transforms_active() is False
    inside = []
    torch.func.jvp(lambda x: inside.append(_dispatch.transforms_active()) or x, (torch.ones(1),), (torch.ones(1),))
    torch.vmap(lambda x: inside.append(_dispatch.transforms_active()) or x)(torch.ones(2))
    torch.func.grad(lambda x: inside.append(_dispatch.transforms_active()) or x.sum())(torch.ones(2))
    with forward_ad.dual_level():
        inside.append(_dispatch.transforms_active())
    assert inside == [True] * 4
    assert _dispatch.transforms_active() is False


@pytest.mark.parametrize("op", AUTO)
def test_transforms_equal_the_definition(op):
    tensors = [t.detach() for t in inputs(op)]
    tangents = [normal(*t.shape, seed=70 + k) for k, t in enumerate(tensors)]

    def run(body):
        return lambda *args: flat(CASES[op][0](*args, backend=body))

    exact = torch.func.jvp(run("torch"), tuple(tensors), tuple(tangents))[1]
    plain = torch.func.jvp(run(None), tuple(tensors), tuple(tangents))[1]
    with forward_ad.dual_level():
        out = run(None)(*(forward_ad.make_dual(t, s) for t, s in zip(tensors, tangents, strict=True)))
        dual = [forward_ad.unpack_dual(o).tangent for o in out]
    for values in (plain, dual):
        for value, expected in zip(values, exact, strict=True):
            assert value.abs().sum() > 0
            assert torch.equal(value, expected)
    assert "torch.func" in last(op)["reason"]
    jacobian = torch.func.jacrev(lambda x: run(None)(x, *tensors[1:])[0].sum(0))(tensors[0])
    reverse = torch.autograd.functional.jacobian(lambda x: run("torch")(x, *tensors[1:])[0].sum(0), tensors[0])
    torch.testing.assert_close(jacobian, reverse)
    batch = torch.stack([tensors[0], 2 * tensors[0]])
    many = torch.vmap(lambda x: run(None)(x, *tensors[1:])[0])(batch)
    torch.testing.assert_close(many[1], run("torch")(batch[1], *tensors[1:])[0])


@pytest.mark.parametrize("op", ["gather_multiply_sum", "weighted_sum", "edge_dot", "cfconv", "painn_message"])
def test_forward_over_reverse_of_an_older_graph(op):
    """A graph recorded before the level of forward mode is differentiated inside it with a dual gradient."""

    def tangents(body):
        tensors = inputs(op)
        out = flat(CASES[op][0](*tensors, backend=body))
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(normal(*o.shape, seed=80), normal(*o.shape, seed=81)) for o in out]
            grads = torch.autograd.grad(out, tensors, duals)
            return [forward_ad.unpack_dual(g).tangent for g in grads]

    for value, expected in zip(tangents("numba"), tangents("torch"), strict=True):
        assert value.abs().sum() > 0
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op", AUTO)
def test_graph_compiles_whole(op):
    tensors = inputs(op)
    torch.compiler.reset()
    compiled = torch.compile(CASES[op][0], fullgraph=True, dynamic=True, backend="aot_eager")
    expected = gradients(op, tensors, None)
    out = flat(compiled(*tensors))
    loss = sum((o * normal(*o.shape, seed=50 + k)).sum() for k, o in enumerate(out))
    for value, other in zip((*out, *torch.autograd.grad(loss, tensors)), expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12)


def test_first_call_may_be_the_compiled_one():
    code = (
        "import torch, scidiff.kernels as K\n"
        "g = K.NeighborList.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]), 3)\n"
        "x, w = torch.rand(3, 4), torch.rand(3, 4)\n"
        "run = torch.compile(lambda x, w: K.gather_multiply_sum(x, w, g), fullgraph=True, backend='aot_eager')\n"
        "assert torch.allclose(run(x, w), K.gather_multiply_sum(x, w, g, backend='torch'))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_compiled_calls_hear_use_backend():
    x, w = (t.detach() for t in inputs("gather_multiply_sum"))
    torch.compiler.reset()
    asked = []

    def record(module, _):
        asked.append({str(node.target).split(".")[0] for node in module.graph.nodes if node.op == "call_function"})
        return module

    run = torch.compile(lambda x, w: K.gather_multiply_sum(x, w, GRAPH), fullgraph=True, backend=record)
    run(x, w)
    with K.use_backend("torch"):
        run(x, w)
    run(x, w)
    assert [any("scidiff" in name for name in names) for names in asked] == [True, False]


def test_named_backend_that_cannot_run_says_why(monkeypatch):
    x, w = inputs("gather_multiply_sum")
    for name, reason in (("triton", "needs tensors on cuda"), ("dense", "has the bodies numba, chunked, torch")):
        with pytest.raises(ValueError, match=f"backend '{name}' cannot run gather_multiply_sum: .*{reason}"):
            K.gather_multiply_sum(x, w, GRAPH, backend=name)
    with pytest.raises(ValueError, match="must be one of"):
        K.gather_multiply_sum(x, w, GRAPH, backend="fast")
    with pytest.raises(ValueError, match="must be one of"), K.use_backend("fast"):
        pass
    with pytest.raises(ValueError, match="the basis or cutoff is not one of"):
        K.cfconv(x, torch.ones(E), normal(5, F), normal(F), GRAPH, lambda d: BASIS(d), CUTOFF, backend="numba")
    monkeypatch.setenv("SCIDIFF_KERNELS", "chunked")
    K.gather_multiply_sum(x, w, GRAPH)
    assert last("gather_multiply_sum")["backend"] == "chunked"
    with K.use_backend("torch"):
        K.gather_multiply_sum(x, w, GRAPH)
        assert last("gather_multiply_sum")["backend"] == "torch"
        K.gather_multiply_sum(x, w, GRAPH, backend="numba")
        assert last("gather_multiply_sum")["backend"] == "numba"


def test_a_context_spares_operations_without_such_a_body():
    """A network has many operations: those that have the body asked for take it, the others say what they took."""
    q, x, w = normal(N, 2, 3), normal(N, F), normal(E, F)
    with K.use_backend("chunked"):
        K.neighbor_attention(q, q, q, GRAPH)
        K.gather_multiply_sum(x, w, GRAPH)
        assert torch.equal(K.segment_sum(w, GRAPH), K.segment_sum(w, GRAPH, backend="numba"))
    assert (last("neighbor_attention")["backend"], last("gather_multiply_sum")["backend"]) == ("numba", "chunked")
    assert (
        last("neighbor_attention")["reason"] == "chunked: this operation has the bodies numba, dense, torch and triton"
    )
    assert last("gather_multiply_sum")["reason"] == "asked for"
    with pytest.raises(ValueError, match="cannot run neighbor_attention: this operation has the bodies"):
        K.neighbor_attention(q, q, q, GRAPH, backend="chunked")


@pytest.mark.parametrize(
    ("sizes", "body"), [((18, 18), "numba"), ((24,), "numba"), ((25,), "dense"), ((60, 9), "numba")]
)
def test_attention_takes_matrices_for_large_full_graphs(sizes, body):
    """Not where padding would waste more than half."""
    q, starts = normal(sum(sizes), 2, 3), torch.tensor([0, *sizes]).cumsum(0)
    K.neighbor_attention(q, q, q, K.full_graph(starts))
    assert last("neighbor_attention")["backend"] == body
    K.neighbor_attention(q, q, q, K.full_graph(starts).edge_index)
    assert last("neighbor_attention")["backend"] == "numba"


def test_width_that_triton_cannot_hold(monkeypatch):
    small, wide = ((normal(N, 1, c), normal(E, 1, 2), normal(2, c), normal(1, 1, c), GRAPH) for c in (128, 129))
    with pytest.raises(ValueError, match="at most 128 x 128, and these need 129"):
        K.ponita_conv(*wide, backend="triton")
    K.ponita_conv(*small, backend="torch")
    monkeypatch.setattr(_dispatch, "_no_triton", lambda device, body: "")
    assert _dispatch._choose("ponita_conv", "cuda", GRAPH, "auto", "", "") == "triton"
    assert _dispatch._choose("ponita_conv", "cuda", GRAPH, "auto", "", "too wide") == "torch"


def test_fallback_is_said_once(caplog):
    x = normal(N, F)
    _dispatch._logged.clear()
    with caplog.at_level(logging.INFO, logger="scidiff.kernels"):
        for _ in range(3):
            out = K.cfconv(x, torch.ones(E).double(), normal(5, F), normal(F), GRAPH, lambda d: BASIS(d), CUTOFF)
    assert [r.levelname for r in caplog.records] == ["INFO"]
    assert "numba: the basis or cutoff is not one of" in caplog.text
    expected = K.cfconv(x, torch.ones(E).double(), normal(5, F), normal(F), GRAPH, BASIS, CUTOFF)
    torch.testing.assert_close(out, expected)


def test_without_numba():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch, scidiff.kernels as K\n"
        "from tests.scidiff.kernels.test_ops import CASES, flat, inputs\n"
        "for op in CASES:\n"
        "    a, b = (flat(CASES[op][0](*inputs(op), backend=body)) for body in (None, 'torch'))\n"
        "    assert all(torch.allclose(x, y, rtol=1e-12, atol=1e-12) for x, y in zip(a, b)), op\n"
        "assert {r['backend'] for r in K.report()} <= {'torch', 'chunked', 'dense'}\n"
        "try:\n"
        "    CASES['gather_multiply_sum'][0](*inputs('gather_multiply_sum'), backend='numba')\n"
        "except ValueError as error:\n"
        "    assert 'numba cannot be imported' in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("op", "body"), BODIES)
def test_order_of_edges_is_free(op, body):
    if op in ("neighbor_attention", "weighted_sum full"):
        pytest.skip("dense attention takes full graphs")
    tensors = [t.detach() for t in inputs(op)]
    edges = GRAPH.edge_index
    shuffle = torch.randperm(E, generator=torch.Generator().manual_seed(3))
    expected = flat(CASES[op][0](*tensors, backend=body))
    swapped = [t[shuffle] if t.shape[0] == E else t for t in tensors]
    CASES[op][0].__globals__["DIST"], saved = (
        CASES[op][0].__globals__["DIST"][shuffle],
        CASES[op][0].__globals__["DIST"],
    )
    CASES[op][0].__globals__["GRAPH"] = edges[:, shuffle]
    try:
        found = flat(CASES[op][0](*swapped, backend=body))
    finally:
        CASES[op][0].__globals__["GRAPH"], CASES[op][0].__globals__["DIST"] = GRAPH, saved
    for value, other in zip(found, expected, strict=True):
        other = other[shuffle] if other.shape[0] == E else other
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12)


def test_direction():
    """One edge 0 -> 1 changes node 1 only, by what stands at node 0."""
    x, w = normal(3, 4), normal(1, 4)
    out = K.gather_multiply_sum(x, w, torch.tensor([[0], [1]]))
    assert torch.equal(out, torch.stack([0 * x[0], x[0] * w[0], 0 * x[0]]))


def test_equals_pyg():
    nn = pytest.importorskip("torch_geometric.nn")

    class Layer(nn.MessagePassing):
        def __init__(self):
            super().__init__(aggr="add")

        def forward(self, x, w, edge_index):
            return self.propagate(edge_index, x=x, w=w)

        def message(self, x_j, w):
            return x_j * w

    x, w = normal(N, F), normal(E, F)
    torch.testing.assert_close(K.gather_multiply_sum(x, w, GRAPH), Layer()(x, w, GRAPH.edge_index))
    edges = random_edges(N, E, seed=4)
    torch.testing.assert_close(K.gather_multiply_sum(x, w, edges), Layer()(x, w, edges))
    torch.testing.assert_close(K.gather_multiply_sum(x, w, edges), loop_gms(x, w, edges))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_and_autocast(dtype):
    x, w = normal(N, F).to(dtype), normal(E, F, dtype=torch.float32)
    out = K.gather_multiply_sum(x, w, GRAPH)
    assert out.dtype == dtype
    assert torch.equal(out, K.gather_multiply_sum(x.float(), w, GRAPH).to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        full = K.cfconv(x.float(), torch.ones(E), normal(5, F).float(), normal(F).float(), GRAPH, BASIS, CUTOFF)
    exact = K.cfconv(x.float(), torch.ones(E), normal(5, F).float(), normal(F).float(), GRAPH, BASIS, CUTOFF)
    assert torch.equal(full, exact)


def test_layouts_of_vectors():
    """(N, F, 3) in either memory order, and strided features, give the same numbers."""
    phi, v, unit = normal(N, 3 * F), normal(N, F, 3), normal(E, 3)
    W, bias, d = normal(5, 3 * F), normal(3 * F), torch.ones(E).double()
    other = v.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.stack([phi, phi], dim=2)[:, :, 0]
    one = K.painn_message(phi, v, d, unit, W, bias, GRAPH, BASIS, CUTOFF)
    two = K.painn_message(wide, other, d, unit[:, :], W, bias, GRAPH, BASIS, CUTOFF)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert one[1].transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(("op", "body"), BODIES)
@pytest.mark.parametrize("size", [0, 3], ids=["no nodes", "no edges"])
def test_empty_graphs(op, body, size):
    if op in ("neighbor_attention", "weighted_sum full"):
        pytest.skip("covered by isolated nodes")
    graph = K.NeighborList.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), size)
    names = CASES[op][0].__globals__
    saved, names["GRAPH"], dist = GRAPH, graph, names["DIST"]
    names["DIST"] = dist[:0]
    tensors = [
        t.detach()[:0] if t.shape[0] == E else t.detach()[:size] if t.shape[0] == N else t.detach() for t in inputs(op)
    ]
    tensors = [t.requires_grad_() for t in tensors]
    try:
        out = flat(CASES[op][0](*tensors, backend=body))
        grads = torch.autograd.grad(sum(o.sum() for o in out), tensors)
    finally:
        names["GRAPH"], names["DIST"] = saved, dist
    if op == "ponita_conv":  # the bias is added at every node and orientation
        assert (grads[-1] == 3 * size).all()
        grads, tensors = grads[:-1], tensors[:-1]
    assert all(torch.equal(g, torch.zeros_like(t)) for g, t in zip(grads, tensors, strict=True))
    assert all((o == 0).all() for o in out if o.shape[0] == size and op != "ponita_conv")


def big_case():
    """300 nodes in three graphs; enough work that a parallel region runs."""
    graph = K.full_graph(torch.tensor([0, 40, 100, 130]))
    n, e, f = graph.num_nodes, graph.num_edges, 64
    tensors = [
        normal(*s, seed=k, dtype=torch.float32) for k, s in enumerate([(n, f), (e, f), (n, 3 * f), (n, f, 3), (e, 3)])
    ]
    W, bias, d = normal(20, 3 * f).float(), normal(3 * f).float(), 0.2 + 3 * normal(e).sigmoid().float()
    return graph, tensors, (W, bias, d)


def run_big(graph, tensors, weights):
    x, w, phi, v, unit = (t.clone().requires_grad_() for t in tensors)
    W, bias, d = weights
    out = K.gather_multiply_sum(x, w, graph)
    h, dv = K.painn_message(phi, v, d, unit, W, bias, graph, K.BesselBasis(20, 4.0), CUTOFF)
    soft = K.softmax_gather_sum(w, x, graph)
    loss = out.square().sum() + h.square().sum() + dv.square().sum() + soft.square().sum()
    return (out, h, dv, soft, *torch.autograd.grad(loss, (x, w, phi, v, unit)))


def test_repetition_and_threads_change_no_bit():
    case = big_case()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = run_big(*case)
        torch.set_num_threads(2)
        for _ in range(20):
            assert all(torch.equal(a, b) for a, b in zip(first, run_big(*case), strict=True))
    finally:
        torch.set_num_threads(before)


def test_graph_alone_equals_graph_in_batch():
    graph, tensors, weights = big_case()
    alone = K.full_graph(torch.tensor([0, 60]))
    nodes, edges = slice(40, 100), slice(40 * 39, 40 * 39 + 60 * 59)
    parts = [t[nodes] if t.shape[0] == graph.num_nodes else t[edges] for t in tensors]
    W, bias, d = weights
    small, large = run_big(alone, parts, (W, bias, d[edges])), run_big(graph, tensors, weights)
    for a, b in zip(small, large, strict=True):
        assert torch.equal(a, b[nodes] if b.shape[0] == graph.num_nodes else b[edges])


def test_allocator():
    code = "import platform; from scidiff.kernels import tune_malloc\n"
    code += "assert tune_malloc() == (platform.libc_ver()[0] == 'glibc')"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.slow
def test_all_bodies_can_be_compiled_before_their_first_use(tmp_path):
    """What `scidiff doctor --compile` does, with an empty cache."""
    code = (
        "from scidiff.kernels import warm\nbodies = warm.compile_bodies()\nassert bodies.cached and not bodies.missing"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=1800).returncode == 0
