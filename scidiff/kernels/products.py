"""Products and functions whose bits depend neither on the number of threads nor on other rows, as far as BLAS allows.

A product of many rows with a small matrix gives each row the same bits whatever the other rows are, and however many
threads share them; a single row, or a single column, goes another way (gemv), which sums in another order. A product
over many rows, as for the gradient of weights, is shared out among threads along the sum. Functions of many numbers
take the last few by another formula (scalar code) than the rest (vector code).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["elementwise", "row_dot", "tall_product"]

_VECTOR = 32
"""More numbers than vector code takes at once."""

_ROWS = 512
"""Rows of a block; a product over fewer than about 600 rows is not shared out, but for that of one column."""


def tall_product(x: Tensor, g: Tensor) -> Tensor:
    """x^T g of x (E, K) and g (E, N) -> (K, N): products of blocks of rows, summed in one order."""
    if g.shape[1] < x.shape[1]:
        return tall_product(g, x).t()
    if x.shape[0] < 2 * _ROWS:  # a single block would be shared out
        return _short_product(x, g)
    whole = x.shape[0] - x.shape[0] % _ROWS
    blocks = [t[:whole].unflatten(0, (-1, _ROWS)) for t in (x, g)]
    result = torch.bmm(blocks[0].transpose(1, 2), blocks[1]).sum(0)
    return result if whole == x.shape[0] else result.add_(_short_product(x[whole:], g[whole:]))


def _short_product(x: Tensor, g: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return (x * g).sum(0, keepdim=True)
    if x.shape[0] <= _ROWS:
        return torch.mm(x.t(), g)
    half = x.shape[0] // 2
    return torch.mm(x[:half].t(), g[:half]).addmm_(x[half:].t(), g[half:])


def row_dot(x: Tensor, w: Tensor) -> Tensor:
    """x w of x (E, K) and w (K,) -> (E,)."""
    return (x * w).sum(1)


def elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of the entries of a vector, all of them by vector code."""
    return function(F.pad(x, (0, _VECTOR)))[: x.shape[0]]
