"""The e3nn convolution: conventions, its equations with written coupling, PaiNN-type messages, higher degrees."""

import math
import subprocess
import sys

import pytest
import torch

pytest.importorskip("e3nn")

from e3nn import o3

from scidiff.nn.e3nn_conv import E3NNConv
from scidiff.testing import assert_equivariant, random_rotation
from tests.scidiff.nn.cases import batch_of, network, sparse

F64 = torch.float64
SILU_NORM, SIGMOID_NORM = 1.6790, 1.8462  # e3nn scales gates to unit second moment under a normal distribution


def test_vectors_and_1o_are_the_same_numbers():
    """D(R) of 1o is R itself; Y_1 = sqrt(3) u in the order x, y, z."""
    turn = random_rotation(torch.Generator().manual_seed(0))
    torch.testing.assert_close(o3.Irrep("1o").D_from_matrix(turn), turn, rtol=0, atol=1e-6)
    mirror = random_rotation(torch.Generator().manual_seed(1), reflect=True)
    torch.testing.assert_close(o3.Irrep("1o").D_from_matrix(mirror), mirror, rtol=0, atol=1e-6)
    u = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0, -3.0]], dtype=F64))
    y = o3.spherical_harmonics([0, 1], u, normalize=False, normalization="component")
    torch.testing.assert_close(y, torch.cat([torch.ones(1, 1, dtype=F64), math.sqrt(3) * u], -1))


def test_messages_of_degree_one_span_those_of_painn():
    """By hand: one edge, one channel. Each path is a multiple of a PaiNN term (a h, c h u, b v) or of v . u."""
    net = network("e3nn", hidden=1, edge_channels=0, time_channels=0)
    product = net.layers[0].product
    assert [(ins.i_in1, ins.i_in2) for ins in product.instructions] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    h, v = torch.tensor([[0.7]], dtype=F64), torch.tensor([[0.3, -1.0, 0.5]], dtype=F64)
    u = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0, -3.0]], dtype=F64))
    y = o3.spherical_harmonics([0, 1], u, normalize=False, normalization="component")
    for path, wanted in enumerate([h, math.sqrt(3) * h * u, v, (v * u).sum(-1, keepdim=True)]):
        w = torch.zeros(1, 4, dtype=F64)
        w[0, path] = 1
        out = product(torch.cat([h, v], -1), y, w)
        start = [0, 1, 4, 7][path]
        got = out[:, start : start + wanted.shape[1]]
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
        assert float(out.abs().sum() - got.abs().sum()) == pytest.approx(0, abs=1e-9)


def linear(layer, *inputs):
    """`o3.Linear` on blocks (n, mul) or (n, mul, 3): weights in the order of the paths, biases in that of scalars."""
    outputs = [0 for _ in layer.irreps_out]
    start, paths = 0, [path for path in layer.instructions if path.i_in >= 0]
    for path in paths:
        shape = (layer.irreps_in[path.i_in].mul, layer.irreps_out[path.i_out].mul)
        mixing = layer.weight[start : start + math.prod(shape)].view(shape) * path.path_weight
        start += math.prod(shape)
        outputs[path.i_out] = outputs[path.i_out] + torch.einsum("ni...,io->no...", inputs[path.i_in], mixing)
    start = 0
    for i, (mul, irrep) in enumerate(layer.irreps_out):
        if layer.bias_numel and irrep.l == 0:
            outputs[i] = outputs[i] + layer.bias[start : start + mul]
            start += mul
    return outputs


def radial_basis(r, k, radius):
    return torch.stack([torch.sin(n * math.pi * r / radius) / r for n in range(1, k + 1)])


def test_equations():
    """Degree 1 with written coupling: 1 x 0 and 0 x 1 are products, 1 x 1 -> 0 is v . Y / sqrt(3) times sqrt(1)."""
    net, x = network("e3nn", time_channels=0, hidden=4, out_vectors=2), batch_of([5])
    edges = {k: v for k, v in sparse(x)[1].items() if k.startswith("edge")}
    pos, e = x.pos[0], x.edge_attr[0]
    with torch.no_grad():
        out = net(x.h[0], pos, v=x.v[0], **edges)
        h, v = linear(net.embedding, x.h[0], x.v[0])
        for layer in net.layers:
            a, b, c, d = (torch.zeros_like(s) for s in (h, v, v, h))
            for i in range(5):
                for j in range(5):
                    if i == j:
                        continue
                    r = pos[j] - pos[i]
                    y = math.sqrt(3) * r / r.norm()
                    w = layer.radial(torch.cat([radial_basis(r.norm(), 16, 10.0), e[i, j]])).split(4)
                    a[i] += w[0] * h[j] / 2
                    b[i] += w[1][:, None] * h[j][:, None] * y / 2
                    c[i] += w[2][:, None] * v[j] / 2
                    d[i] += w[3] * (v[j] @ y) / math.sqrt(3) / 2
            mixed = linear(layer.mix, a, b, c, d)
            own = linear(layer.own, h, v)
            both, vectors = (m + o for m, o in zip(mixed, own))
            scalars, gates = both.split(4, -1)
            h = norm_of(layer.gate.act_scalars, SILU_NORM) * torch.nn.functional.silu(scalars)
            v = norm_of(layer.gate.act_gates, SIGMOID_NORM) * torch.sigmoid(gates)[..., None] * vectors
        wanted_h, wanted_v = linear(net.readout, h, v)
    torch.testing.assert_close(out.h, wanted_h, rtol=0, atol=1e-6)
    torch.testing.assert_close(out.v, wanted_v, rtol=0, atol=1e-6)


def norm_of(activation, wanted):
    factor = float(activation.acts[0].cst)
    assert factor == pytest.approx(wanted, abs=5e-3)
    return factor


def test_degree_two_is_equivariant():
    """Coupling coefficients of e3nn are stored in single precision in part: 1e-8."""
    net, x = network("e3nn", lmax=2, hidden=4), batch_of([5, 4])

    def fn(pos, v):
        x.pos, x.v = pos, v
        return x.call(net)

    assert_equivariant(fn, (x.pos, x.v), kinds=("point", "vector"), out=("scalar", "vector"), tolerance=1e-8)
    with pytest.raises(ValueError, match="lmax must be at least 1"):
        E3NNConv(3, lmax=0)


def test_e3nn_is_imported_by_its_own_network_only():
    code = (
        "import sys, scidiff.nn as nn; nn.get_network('egnn', 3); assert 'e3nn' not in sys.modules; "
        "assert 'e3nn' in nn.network_names()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
