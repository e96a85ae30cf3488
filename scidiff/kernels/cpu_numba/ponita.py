"""Spatial half of the PONITA convolution: kernels of a few edges, made and used while in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.kernels.cpu_numba._threads import launch, part_count, thread_count
from scidiff.kernels.cpu_numba.painn import (
    _cfconv_all,
    _cfconv_back_all,
    _cfconv_back_parallel,
    _cfconv_parallel,
)
from scidiff.kernels.products import tall_product

__all__ = ["ponita", "ponita_backward"]

_TILE_NUMBERS = 1 << 18  # kernel values in one piece: 1 MB of float32


def _step(x: Tensor) -> int:
    return max(_TILE_NUMBERS // max(x[0].numel(), 1), 1) if x.shape[0] else 1


def ponita(x: Tensor, basis: Tensor, W: Tensor, source: Tensor, ptr: Tensor, target: Tensor) -> Tensor:
    """y_ioc = sum_{e -> i} (basis_eo W)_c x_source,oc."""
    width, count, step = x.shape[1] * x.shape[2], source.shape[0], _step(x)
    out = x.new_zeros(ptr.shape[0] - 1, *x.shape[1:])
    arrays = tuple(t.numpy() for t in (x.flatten(1), source, ptr, target))
    result = out.view(-1, width).numpy()
    buffer = x.new_empty(min(step, count) * x.shape[1], x.shape[2])
    for first in range(0, count, step):
        last = min(first + step, count)
        w = torch.mm(basis[first:last].flatten(0, 1), W, out=buffer[: (last - first) * x.shape[1]])
        work, kernels = float(w.numel()), w.view(-1, width).numpy()
        launch(_cfconv_all, _cfconv_parallel, work, *arrays, kernels, result, first, last, part_count(work))
    return out


def ponita_backward(
    g: Tensor,
    x: Tensor,
    basis: Tensor,
    W: Tensor,
    source: Tensor,
    ptr: Tensor,
    target: Tensor,
    t_ptr: Tensor,
    t_target: Tensor,
    t_edge: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dbasis, dW."""
    width, count, step = x.shape[1] * x.shape[2], source.shape[0], _step(x)
    dx, dbasis, dW = torch.zeros_like(x), torch.empty_like(basis), torch.zeros_like(W)
    arrays = g.flatten(1).numpy(), x.flatten(1).numpy(), source.numpy(), target.numpy()
    result = dx.view(-1, width).numpy()
    buffer = x.new_empty(min(step, count) * x.shape[1], x.shape[2])
    for first in range(0, count, step):
        last = min(first + step, count)
        inputs = basis[first:last].flatten(0, 1)
        w = torch.mm(inputs, W, out=buffer[: (last - first) * x.shape[1]])
        kernels = w.view(-1, width).numpy()
        work = 2.0 * w.numel()
        piece = kernels, result, first, last, thread_count(work)
        launch(_cfconv_back_all, _cfconv_back_parallel, work, *arrays, *piece)
        dW += tall_product(inputs, w)
        torch.mm(w, W.t(), out=dbasis[first:last].flatten(0, 1))
    return dx, dbasis, dW
