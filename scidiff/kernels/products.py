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

_ROWS = 256
"""Rows of a block; products over fewer than about 600 rows are not shared out."""


def tall_product(x: Tensor, g: Tensor) -> Tensor:
    """x^T g of x (E, K) and g (E, N) -> (K, N): products of blocks of rows, summed in one order."""
    whole = x.shape[0] - x.shape[0] % _ROWS
    result = torch.mm(x[whole:].t(), g[whole:])
    if whole:
        blocks = [t[:whole].unflatten(0, (-1, _ROWS)) for t in (x, g)]
        result += torch.bmm(blocks[0].transpose(1, 2), blocks[1]).sum(0)
    return result


def row_dot(x: Tensor, w: Tensor) -> Tensor:
    """x w of x (E, K) and w (K,) -> (E,)."""
    return (x * w).sum(1)


def elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of the entries of a vector, all of them by vector code."""
    return function(F.pad(x, (0, _VECTOR)))[: x.shape[0]]
