"""Batched Krylov solvers for A u = b with one A per sample, given as products; fixed numbers of iterations.

A product may bring linear by-products along, B u for any B: the solvers return A's solution u, and B u for it, which is
put together from the by-products without another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Solution", "conjugate_gradients", "gmres"]

Products = dict[str, Tensor]
Operator = Callable[[Tensor], tuple[Tensor, Products]]


class Solution(NamedTuple):
    """u (B, ...) and the by-products B u."""

    u: Tensor
    products: Products


def conjugate_gradients(operator: Operator, b: Tensor, iterations: int) -> Solution:
    """Solution of A u = b (B, ...) for symmetric positive definite A after ``iterations`` products, from u = 0.

    A sample that has converged stays where it is.

    Args:
        operator: u to A u and by-products, each a linear map of u with the samples on axis 0.
        b: Right-hand side.
        iterations: At least 1.

    References: Hestenes and Stiefel 1952.
    """
    u, residual, direction = torch.zeros_like(b), b, b
    products: Products = {}
    rr = _dot(residual, residual)
    for _ in range(iterations):
        image, others = operator(direction)
        step = _ratio(rr, _dot(direction, image))
        u = u + step * direction
        products = {name: _add(products.get(name), step, value) for name, value in others.items()}
        residual = residual - step * image
        new = _dot(residual, residual)
        direction = residual + _ratio(new, rr) * direction
        rr = new
    return Solution(u, products)


def gmres(operator: Operator, b: Tensor, iterations: int) -> Solution:
    """Solution of A u = b (B, ...) for any A: least residual in the Krylov space of ``iterations`` products.

    Arguments as in `conjugate_gradients`.

    References: Saad and Schultz 1986.
    """
    scale = _dot(b, b).sqrt()
    basis = [_ratio(b, scale)]
    hessenberg = b.new_zeros(len(b), iterations + 1, iterations)
    columns, others = [], []
    for _ in range(iterations):
        image, by_products = operator(basis[-1])
        others.append(by_products)
        column = []
        for vector in basis:  # modified Gram-Schmidt
            overlap = _dot(vector, image)
            image = image - overlap * vector
            column.append(overlap.flatten())
        norm = _dot(image, image).sqrt()
        # a remainder at rounding level ends the Krylov space of that sample: its further vectors are zero
        is_new = norm > 1e3 * torch.finfo(b.dtype).eps * torch.stack(column).abs().amax(0).reshape(norm.shape)
        norm = torch.where(is_new, norm, 0)
        basis.append(_ratio(image, norm))
        columns.append(torch.stack([*column, norm.flatten()], dim=1))
    for j, column in enumerate(columns):
        hessenberg[:, : j + 2, j] = column
    target = b.new_zeros(len(b), iterations + 1, 1)
    target[:, 0, 0] = scale.flatten()
    weights = torch.linalg.pinv(hessenberg) @ target
    u, products = torch.zeros_like(b), {}
    for j in range(iterations):
        u = _add(u, weights[:, j], basis[j])
        products = {name: _add(products.get(name), weights[:, j], value) for name, value in others[j].items()}
    return Solution(u, products)


def _add(total: Tensor | None, weight: Tensor, value: Tensor) -> Tensor:
    """total + weight value, one weight a sample; no total yet counts as 0."""
    term = weight.reshape(-1, *(1,) * (value.ndim - 1)) * value
    return term if total is None else total + term


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b = 0."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1), 0)
