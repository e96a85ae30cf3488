"""Operations of heads in numba against the float64 definition, for every way that channels can fill vectors or not."""

import pytest
import torch

import scidiff.kernels as K
from tests.scidiff.kernels.loops import normal

N, E = 40, 400


def edges():
    """Random edges in canonical order; the last nodes have none."""
    generator = torch.Generator().manual_seed(0)
    return K.NeighborList.from_edge_index(torch.randint(0, N - 4, (2, E), generator=generator).unique(dim=1), N)


G = edges()
CASES = {
    "edge_dot": (lambda t, b: K.edge_dot(t["q"].flatten(1), t["k"].flatten(1), G, t["q"].shape[1], backend=b), "q k"),
    "weighted_sum": (lambda t, b: K.weighted_sum(t["v"].flatten(1), t["b"], G, backend=b), "v b"),
    "attention": (lambda t, b: K.neighbor_attention(t["q"], t["k"], t["v"], G, t["b"], backend=b)[0], "q k v b"),
    "attention without bias": (lambda t, b: K.neighbor_attention(t["q"], t["k"], t["v"], G, backend=b)[0], "q k v"),
}


def run(op, heads, width, channels, body, dtype, threads=1):
    function, names = CASES[op]
    shapes = {"q": (N, heads, width), "k": (N, heads, width), "v": (N, heads, channels), "b": (G.num_edges, heads)}
    t = {name: 2 * normal(*shapes[name], seed=ord(name)).to(dtype) for name in names.split()}
    leaves = [x.requires_grad_() for x in t.values()]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out = function(t, body)
        return [out, *torch.autograd.grad((out * normal(*out.shape, seed=9).to(dtype)).sum(), leaves)]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("op", CASES)
@pytest.mark.parametrize(("width", "channels"), [(5, 5), (16, 16), (32, 16), (16, 20), (48, 64)])
@pytest.mark.parametrize("heads", [1, 2, 8, 9, 16])
def test_heads_equal_the_definition(op, heads, width, channels):
    """In norm; sums have at most ``N`` edges and ``width`` channels, there and back, and an exponential in between."""
    exact = run(op, heads, width, channels, "torch", torch.float64)
    for dtype in (torch.float32, torch.float64):
        bound = 2 * (N + width + channels) * torch.finfo(dtype).eps
        for found, expected in zip(run(op, heads, width, channels, "numba", dtype), exact, strict=True):
            assert (found - expected).norm() <= bound * expected.norm()


def test_rows_do_not_feel_the_number_of_threads():
    for one, two in zip(*(run("attention", 8, 16, 16, "numba", torch.float32, n) for n in (1, 2)), strict=True):
        assert torch.equal(one, two)


def test_attention_over_logits_far_apart():
    """Heads whose largest logits are 600 apart, and edges that a bias of -inf takes out."""
    q, v, b = normal(N, 8, 16).float(), normal(N, 8, 16, seed=1).float(), torch.zeros(G.num_edges, 8)
    b += 100 * torch.arange(-3.0, 5.0)
    b[G.ptr[3] : G.ptr[4] - 1] = -torch.inf  # all edges of node 3 but one
    out = K.neighbor_attention(q, q, v, G, b, backend="numba")[0]
    expected = K.neighbor_attention(q.double(), q.double(), v.double(), G, b.double(), backend="torch")[0]
    assert (out - expected).norm() <= 2 * (N + 32) * torch.finfo(torch.float32).eps * expected.norm()
    assert torch.equal(out[3], v[G.source[G.ptr[4] - 1]])
    assert not out[-4:].any()


def test_attention_keeps_what_is_not_a_number():
    q, v = normal(N, 8, 16).float(), normal(N, 8, 16, seed=1).float()
    q[2, 3, 4] = torch.nan
    bodies = (K.neighbor_attention(q, q, v, G, backend=body)[0].isnan() for body in ("numba", "torch"))
    numba, definition = bodies
    assert definition.any()
    assert torch.equal(numba, definition)
