"""The operations as loops over edges and channels in plain Python, and small graphs to try them on."""

import math

import torch

from scidiff.kernels import NeighborList


def random_edges(num_nodes=9, num_edges=31, seed=0):
    """An edge list in random order with an isolated node (the last) and repeated pairs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, max(num_nodes - 1, 1), (2, num_edges), generator=generator)


def random_list(num_nodes=9, num_edges=31, seed=0):
    return NeighborList.from_edge_index(random_edges(num_nodes, num_edges, seed), num_nodes)


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def incoming(edge_index, num_nodes):
    """(edge, source) pairs of each target."""
    rows = [[] for _ in range(num_nodes)]
    for e, (j, i) in enumerate(edge_index.T.tolist()):
        rows[i].append((e, j))
    return rows


def loop_gms(x, w, edge_index):
    out = torch.zeros_like(x)
    for i, row in enumerate(incoming(edge_index, len(x))):
        for e, j in row:
            for f in range(x.shape[1]):
                out[i, f] += x[j, f] * w[e, f]
    return out


def loop_softmax(logits, edge_index, num_nodes):
    out = torch.zeros_like(logits)
    for row in incoming(edge_index, num_nodes):
        for c in range(logits.shape[1]):
            values = [math.exp(float(logits[e, c])) for e, _ in row]
            for (e, _), value in zip(row, values, strict=True):
                out[e, c] = value / sum(values)
    return out


def loop_painn(phi, v, dist, unit, W, bias, edge_index, basis, cutoff):
    """v and the result in (N, F, 3)."""
    width = v.shape[1]
    dh, dv = torch.zeros(len(phi), width, dtype=phi.dtype), torch.zeros_like(v)
    for i, row in enumerate(incoming(edge_index, len(phi))):
        for e, j in row:
            rbf, envelope = basis(dist[e : e + 1])[0], cutoff(dist[e : e + 1])[0]
            for f in range(width):
                a, b, c = (
                    phi[j, k * width + f] * envelope * (sum(rbf * W[:, k * width + f]) + bias[k * width + f])
                    for k in range(3)
                )
                dh[i, f] += a
                for axis in range(3):
                    dv[i, f, axis] += b * v[j, f, axis] + c * unit[e, axis]
    return dh, dv
