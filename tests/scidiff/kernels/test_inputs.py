"""Inputs that do not fit the graph or each other raise under every body, before anything is read."""

import pytest
import torch

import scidiff.kernels as K
from tests.scidiff.kernels.loops import normal
from tests.scidiff.kernels.test_ops import BODIES, CASES, GRAPH, E, F, N, inputs

ALL = [*BODIES, *((op, "torch") for op in CASES)]
MADE_INSIDE = {("cfconv", 1), ("painn_message", 2)}  # distances that the case itself makes
BASIS, CUTOFF = K.BesselBasis(5, 4.0), K.CosineCutoff(4.0)
x, w, phi, v, unit = normal(N, F), normal(E, F), normal(N, 3 * F), normal(N, F, 3), normal(E, 3)
dist, W, W3 = torch.ones(E).double(), normal(5, F), normal(5, 3 * F)
mlp = {"d2": dist, "wd": w[0], "W2": normal(F, 3), "b2": normal(3)}


@pytest.mark.parametrize(("op", "body"), ALL)
def test_each_missing_row(op, body):
    tensors = [t.detach() for t in inputs(op)]
    for k, t in enumerate(tensors):
        if (op, k) in MADE_INSIDE or t.shape == (1,):
            continue
        with pytest.raises(ValueError, match=f"{op.split()[0]} needs"):
            CASES[op][0](*tensors[:k], t[:-1], *tensors[k + 1 :], backend=body)


WRONG = {
    "gms is not broadcast": lambda **kw: K.gather_multiply_sum(x, w[:, :1], GRAPH, **kw),
    "gms other device": lambda **kw: K.gather_multiply_sum(x, w.to("meta"), GRAPH, **kw),
    "gms of a vector": lambda **kw: K.gather_multiply_sum(x[:, 0], w, GRAPH, **kw),
    "gms edges": lambda **kw: K.gather_multiply_sum(x, w[:-1], GRAPH.edge_index, **kw),
    "heads of unequal width": lambda **kw: K.weighted_sum(x, w[:, :3], GRAPH, **kw),
    "weights of three axes": lambda **kw: K.weighted_sum(x, w[:, :, None], GRAPH, **kw),
    "products of unequal width": lambda **kw: K.edge_dot(x, x[:, :3], GRAPH, **kw),
    "products in no heads": lambda **kw: K.edge_dot(x, x, GRAPH, 0, **kw),
    "cfconv basis": lambda **kw: K.cfconv(x, dist, W[:4], x[0], GRAPH, BASIS, CUTOFF, **kw),
    "cfconv dist": lambda **kw: K.cfconv(x, dist[:, None], W, x[0], GRAPH, BASIS, CUTOFF, **kw),
    "painn basis": lambda **kw: K.painn_message(phi, v, dist, unit, W3[:4], phi[0], GRAPH, BASIS, CUTOFF, **kw),
    "painn dist": lambda **kw: K.painn_message(phi, v, dist[1:], unit, W3, phi[0], GRAPH, BASIS, CUTOFF, **kw),
    "painn layout": lambda **kw: K.painn_message(
        phi, v.mT.contiguous(), dist, unit, W3, phi[0], GRAPH, BASIS, CUTOFF, **kw
    ),
    "softmax": lambda **kw: K.softmax_gather_sum(w[:, :1], x, GRAPH, **kw),
    "ponita orientations": lambda **kw: K.ponita_conv(
        normal(N, 3, 2), normal(E, 1, 4), normal(4, 2), normal(3, 3, 2), GRAPH, **kw
    ),
}
NETWORK = {
    "edge_mlp width": lambda **kw: K.edge_mlp(x, x[:, :3], GRAPH, **mlp, **kw),
    "edge_mlp d2": lambda **kw: K.edge_mlp(x, x, GRAPH, **mlp | {"d2": dist[:, None]}, **kw),
    "edge_mlp vectors": lambda **kw: K.edge_mlp(x, x, GRAPH, **mlp, coord=normal(3), vec=unit[1:], **kw),
}


@pytest.mark.parametrize("body", [None, "torch", "numba"])
@pytest.mark.parametrize("case", WRONG)
def test_each_wrong_width(case, body):
    with pytest.raises(ValueError, match=r"needs|must be blocks of equal width"):
        WRONG[case](backend=body)


@pytest.mark.parametrize("body", ["torch", "chunked"])
@pytest.mark.parametrize("case", NETWORK)
def test_each_wrong_width_of_edge_networks(case, body):
    with pytest.raises(ValueError, match="edge_mlp needs"):
        NETWORK[case](backend=body)


@pytest.mark.parametrize("op", [K.segment_sum, K.segment_mean, K.segment_max, K.segment_softmax])
def test_segments_of_another_graph(op):
    with pytest.raises(ValueError, match=f"needs .* of shape \\({E}, {F}\\)"):
        op(w[:-1], GRAPH)
    with pytest.raises(ValueError, match=f"{E} edges, got \\(\\)"):
        op(w.sum(), GRAPH)


def test_keywords_only():
    assert torch.equal(K.gather_multiply_sum(x=x, w=w, g=GRAPH), K.gather_multiply_sum(x, w, GRAPH))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(K.segment_sum(v=w, g=GRAPH), K.segment_sum(w, GRAPH))
