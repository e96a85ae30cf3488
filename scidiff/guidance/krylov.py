"""Batched Krylov solvers for A u = b with one A per sample, given as products; fixed numbers of iterations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients", "gmres"]

Operator = Callable[[Tensor], Tensor]


def conjugate_gradients(operator: Operator, b: Tensor, iterations: int) -> Tensor:
    """Solution of A u = b (B, ...) for symmetric positive definite A after ``iterations`` products, from u = 0.

    A sample that has converged stays where it is.

    References: Hestenes and Stiefel 1952.
    """
    u, residual, direction = torch.zeros_like(b), b, b
    rr = _dot(residual, residual)
    for _ in range(iterations):
        image = operator(direction)
        step = _ratio(rr, _dot(direction, image))
        u = u + step * direction
        residual = residual - step * image
        new = _dot(residual, residual)
        direction = residual + _ratio(new, rr) * direction
        rr = new
    return u


def gmres(operator: Operator, b: Tensor, iterations: int) -> Tensor:
    """Solution of A u = b (B, ...) for any A: least residual in the Krylov space of ``iterations`` products.

    References: Saad and Schultz 1986.
    """
    scale = _dot(b, b).sqrt()
    basis = [_ratio(b, scale)]
    hessenberg = b.new_zeros(len(b), iterations + 1, iterations)
    columns = []
    for _ in range(iterations):
        image = operator(basis[-1])
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
    return sum((weights[:, j, 0].reshape(scale.shape) * basis[j] for j in range(iterations)), torch.zeros_like(b))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b = 0."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1), 0)
