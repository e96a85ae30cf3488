"""PaiNN against its equations, written pair by pair; parameter counts of the published size."""

import math

import pytest
import torch
from torch.nn.functional import silu

from scidiff.nn.painn import PaiNN, PaiNNMessage, PaiNNUpdate, lengths
from tests.scidiff.nn.cases import IN_CHANNELS, batch_of, network, sparse


def radial_basis(name, r, k, radius):
    """K functions of one distance."""
    if name == "bessel":
        return torch.stack([torch.sin(n * math.pi * r / radius) / r for n in range(1, k + 1)])
    if name == "gaussian":
        spacing = radius / (k - 1)
        return torch.stack([torch.exp(-((r - n * spacing) ** 2) / (2 * spacing**2)) for n in range(k)])
    first = math.exp(-radius)
    beta = (2 / k * (1 - first)) ** -2
    centres = [first + n * (1 - first) / (k - 1) for n in range(k)]
    return torch.stack([torch.exp(-beta * (torch.exp(-5 / radius * r) - c) ** 2) for c in centres])


def envelope(r, cutoff):
    return 1.0 if cutoff is None else 0.5 * (math.cos(math.pi * r / cutoff) + 1) if r < cutoff else 0.0


def layer_by_pairs(message, update, h, v, pos, e, options):
    """h (N, F), v (N, F, 3) after one layer; e (N, N, c)."""
    cutoff, width = options.get("cutoff"), h.shape[1]
    dh, dv = torch.zeros_like(h), torch.zeros_like(v)
    for i in range(len(h)):
        for j in range(len(h)):
            r = (pos[j] - pos[i]).norm()
            if i == j:
                continue
            basis = radial_basis(options.get("basis", "bessel"), r, 20, cutoff or options.get("radius", 10.0))
            w = envelope(r, cutoff) * message.filter(torch.cat([basis, e[i, j]]))
            a, b, c = (message.phi[2](silu(message.phi[0](h[j]))) * w).split(width)
            dh[i] += a
            dv[i] += v[j] * b[:, None] + c[:, None] * (pos[j] - pos[i]) / r
    h, v = h + dh, v + dv
    u, w = update.vectors.weight[:width] @ v, update.vectors.weight[width:] @ v
    a, b, c = update.phi[2](silu(update.phi[0](torch.cat([h, w.norm(dim=-1)], -1)))).split(width, -1)
    return h + a + b * (u * w).sum(-1), v + c[..., None] * u


@pytest.mark.parametrize(
    "options",
    [{}, {"cutoff": 3.0}, {"basis": "gaussian", "radius": 5.0}, {"basis": "expnorm", "cutoff": 4.0}],
    ids=["complete", "cutoff", "gaussian", "expnorm"],
)
def test_equations(options):
    net, x = network("painn", time_channels=0, out_vectors=2, **options), batch_of([6])
    edges = {k: v for k, v in sparse(x)[1].items() if k.startswith("edge")}
    with torch.no_grad():
        out = net(x.h[0], x.pos[0], v=x.v[0], **edges)
        h, v = net.embedding(x.h[0]), net.lift.weight @ x.v[0]
        for message, update in zip(net.messages, net.updates):
            h, v = layer_by_pairs(message, update, h, v, x.pos[0], x.edge_attr[0], options)
        torch.testing.assert_close(out.h, net.readout(h), rtol=0, atol=1e-10)
        torch.testing.assert_close(out.v, net.vector_readout.weight @ v, rtol=0, atol=1e-10)


def test_parameters():
    """Published size: 128 features, 20 Bessel functions; phi, filter, U and V, phi' counted by hand."""
    f, k = 128, 20
    message = (f * f + f) + (f * 3 * f + 3 * f) + (k * 3 * f + 3 * f)
    update = 2 * f * f + (2 * f * f + f) + (f * 3 * f + 3 * f)
    assert sum(p.numel() for p in PaiNNMessage(f, k).parameters()) == message
    assert sum(p.numel() for p in PaiNNUpdate(f).parameters()) == update
    net = PaiNN(4, hidden=f, num_layers=3, out_channels=1, cutoff=5.0)
    heads = (4 * f + f) + (f * f + f) + (f + 1) + f
    assert sum(p.numel() for p in net.parameters()) == 3 * (message + update) + heads


def test_output_ends_smoothly_at_the_cutoff():
    """The filters vanish with their slope at the cutoff: moving a node out changes the output by O(gap^2)."""
    net = network("painn", cutoff=2.0, edge_channels=0)
    x = batch_of([2])

    def out(distance):
        pos = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=torch.float64)
        return net(x.h[0], pos, x.t, v=x.v[0]).h

    outside = out(2.1)
    gaps = [(out(2.0 - gap) - outside).abs().max().item() for gap in (2e-4, 1e-4)]
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.05)


def test_lengths_are_differentiable_at_zero():
    v = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    lengths(v).sum().backward()
    assert torch.equal(v.grad, torch.zeros(2, 3).double())
    torch.testing.assert_close(lengths(torch.tensor([[3.0, 0.0, 4.0]])), torch.tensor([5.0]))


def test_bad_basis():
    with pytest.raises(ValueError, match="basis must be one of 'bessel', 'gaussian', 'expnorm', got 'gauss'"):
        PaiNN(IN_CHANNELS, basis="gauss")
