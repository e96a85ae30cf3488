"""Graphs and comparisons of the body tests. Degrees cover empty rows, one edge, a full tile and a row of many tiles."""

import os
from typing import NamedTuple

import torch

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DEGREES = (3, 0, 40, 1, 16, 0, 7, 17)
# relative error in the norm: a few roundings of the result's format, sums being exact to float32 or better
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


class Graph(NamedTuple):
    """source, ptr, target, t_ptr, t_target, t_edge, in the order in which bodies take them."""

    source: torch.Tensor
    ptr: torch.Tensor
    target: torch.Tensor
    t_ptr: torch.Tensor
    t_target: torch.Tensor
    t_edge: torch.Tensor


def graph(degrees=DEGREES, index=torch.int32, seed=0):
    degrees = torch.tensor(degrees, dtype=torch.int64)
    n, count = len(degrees), int(degrees.sum())
    target = torch.arange(n).repeat_interleave(degrees)
    source = torch.randint(max(n, 1), (count,), generator=torch.Generator().manual_seed(seed))
    t_edge = source.argsort(stable=True)
    parts = source, pointers(degrees), target, pointers(torch.bincount(source, minlength=n)), target[t_edge], t_edge
    return Graph(*(part.to(DEVICE, index) for part in parts))


def pointers(degrees):
    return torch.cat([torch.zeros(1, dtype=torch.int64), degrees.cumsum(0)])


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def twins(*tensors):
    """Float64 leaves with the same values, for the definition."""
    return [t if t is None else t.double().clone().requires_grad_() for t in tensors]


def assert_close(got, expected, dtype=torch.float32, factor=1.0):
    assert got.shape == expected.shape
    error = (got.double() - expected.detach().double()).norm()
    assert error <= factor * TOLERANCE[dtype] * expected.double().norm().clamp_min(1e-300), float(error)
