"""Spatial half of the PONITA convolution: kernels of a few edges, made and used while in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.kernels.cpu_numba._threads import launch
from scidiff.kernels.cpu_numba.painn import (
    _cfconv_all,
    _cfconv_back_all,
    _cfconv_back_parallel,
    _cfconv_parallel,
    _rows_of,
    _slices,
)

__all__ = ["ponita", "ponita_backward"]

_TILE_NUMBERS = 1 << 18  # kernel values in one piece: 1 MB of float32


def _step(x: Tensor) -> int:
    return max(_TILE_NUMBERS // max(x[0].numel(), 1), 1) if x.shape[0] else 1


def ponita(x: Tensor, basis: Tensor, W: Tensor, source: Tensor, ptr: Tensor, target: Tensor) -> Tensor:
    """y_ioc = sum_{e -> i} (basis_eo W)_c x_source,oc."""
    width, count, step = x.shape[1] * x.shape[2], source.shape[0], _step(x)
    out = x.new_zeros(ptr.shape[0] - 1, *x.shape[1:])
    arrays = x.flatten(1).numpy(), source.numpy(), ptr.numpy()
    rows, result = target.numpy(), out.view(-1, width).numpy()
    buffer = x.new_empty(min(step, count) * x.shape[1], x.shape[2])
    for first in range(0, count, step):
        last = min(first + step, count)
        w = torch.mm(basis[first:last].flatten(0, 1), W, out=buffer[: (last - first) * x.shape[1]])
        work, kernels = float(w.numel()), w.view(-1, width).numpy()
        parts = _rows_of(arrays[2], rows, first, last, work)
        launch(_cfconv_all, _cfconv_parallel, work, *arrays, kernels, result, first, last, parts)
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
    result, slices = dx.view(-1, width).numpy(), _slices(width)
    buffer = x.new_empty(min(step, count) * x.shape[1], x.shape[2])
    for first in range(0, count, step):
        last = min(first + step, count)
        inputs = basis[first:last].flatten(0, 1)
        w = torch.mm(inputs, W, out=buffer[: (last - first) * x.shape[1]])
        kernels = w.view(-1, width).numpy()
        launch(_cfconv_back_all, _cfconv_back_parallel, 2.0 * w.numel(), *arrays, kernels, result, first, last, slices)
        dW.addmm_(inputs.t(), w)
        torch.mm(w, W.t(), out=dbasis[first:last].flatten(0, 1))
    return dx, dbasis, dW
