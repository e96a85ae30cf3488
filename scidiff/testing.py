"""Reusable checks: equivariance, order of convergence, replays with transformed noise.

They are public so that a network or solver of your own can be held to the same standards::

    assert_equivariant(lambda pos, h: layer(pos, h), (pos, h), kinds=("point", "scalar"), out=("vector", "scalar"))
    assert convergence_order(lambda n: error_with(n), [20, 40, 80])[-1] > 1.75

References: e3nn (equivariance as a reusable test); diffrax (tests that measure the order of convergence).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "assert_equivariant",
    "assert_permutation_equivariant",
    "convergence_order",
    "random_rotation",
    "record_noise",
    "transform_noise",
]

KINDS = ("scalar", "vector", "point", "matrix")
Axes = int | tuple[int, ...] | None
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def random_rotation(
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    dims: int = 3,
    reflect: bool = False,
) -> Tensor:
    """Haar-distributed rotation (dims, dims), or a rotation times a reflection (determinant -1)."""
    q, r = torch.linalg.qr(torch.randn(dims, dims, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    wanted = -1.0 if reflect else 1.0
    q[:, 0] *= wanted * torch.linalg.det(q).sign()
    return q.to(dtype)


def assert_equivariant(
    fn: Callable[..., Any],
    inputs: Sequence[Tensor],
    *,
    kinds: Sequence[str],
    out: str | Sequence[str],
    translate: bool = True,
    reflect: bool = True,
    num_rotations: int = 3,
    tolerance: float | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Check fn(g inputs) = g fn(inputs) for random rotations, one reflection and (with ``translate``) translations.

    Args:
        fn: Called with the inputs as positional arguments; returns a tensor or a sequence of tensors.
        inputs: Tensors; geometric ones have a last axis of d coordinates.
        kinds: How each input transforms: ``"scalar"`` (not at all), ``"vector"`` (rotates), ``"point"`` (rotates and
            translates), ``"matrix"`` (last two axes, R M R^T).
        out: The same for the outputs.
        translate: Whether points are shifted as well.
        reflect: Whether a reflection is tried as well; False for SE(3).
        num_rotations: Number of random rotations.
        tolerance: Largest error relative to the largest output; default 1e-9 in float64, 1e-4 in float32.
        generator: Source of the transformations; default: seed 0.

    Raises:
        AssertionError: If an output transforms differently; the message names the transformation and the error.
        ValueError: If a kind is unknown.
    """
    wanted_kinds = [out] if isinstance(out, str) else list(out)
    unknown = {*kinds, *wanted_kinds} - set(KINDS)
    if unknown:
        raise ValueError(f"kinds must be of {KINDS}, got {sorted(unknown)}.")
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    dims = next(x.shape[-1] for x, kind in zip(inputs, kinds, strict=True) if kind != "scalar")
    plain = _as_list(fn(*inputs))
    for trial in range(num_rotations + int(reflect)):
        is_reflected = trial == num_rotations
        rotation = random_rotation(generator, torch.float64, dims, reflect=is_reflected)
        shift = 10 * torch.randn(dims, generator=generator, dtype=torch.float64) * float(translate)
        moved = [_move(x, kind, rotation, shift) for x, kind in zip(inputs, kinds, strict=True)]
        name = ("reflection" if is_reflected else "rotation") + (" and translation" if translate else "")
        for i, (value, before) in enumerate(zip(_as_list(fn(*moved)), plain, strict=True)):
            _assert_close(value, _move(before, wanted_kinds[i], rotation, shift), f"{name}, output {i}", tolerance)


def assert_permutation_equivariant(
    fn: Callable[..., Any],
    inputs: Sequence[Tensor],
    *,
    axes: Sequence[Axes],
    out: Axes | list[Axes] = 1,
    tolerance: float | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Check that permuting the elements of the inputs permutes the outputs.

    Args:
        fn: Called with the inputs as positional arguments; returns a tensor or a sequence of tensors.
        inputs: Tensors.
        axes: For each input the axis of the elements, a tuple for several (pairs), None for none.
        out: The same for the outputs: a list for several outputs; None means invariant.
        tolerance: As in `assert_equivariant`.
        generator: Source of the permutation; default: seed 0.

    Raises:
        AssertionError: If an output is permuted differently.
    """
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    wanted: list[Axes] = list(out) if isinstance(out, list) else [out]  # type: ignore[list-item]
    count = next(x.shape[_tuple(axis)[0]] for x, axis in zip(inputs, axes, strict=True) if axis is not None)
    order = torch.randperm(count, generator=generator)
    plain = _as_list(fn(*inputs))
    permuted = _as_list(fn(*(_permute(x, axis, order) for x, axis in zip(inputs, axes, strict=True))))
    for i, (value, before) in enumerate(zip(permuted, plain, strict=True)):
        _assert_close(value, _permute(before, wanted[i], order), f"permutation, output {i}", tolerance)


def convergence_order(run: Callable[[int], float | Tensor], steps: Sequence[int]) -> list[float]:
    """Slopes -d log(error)/d log(n) between successive numbers of steps.

    Args:
        run: Gives the error with n steps, a number or a tensor (then its largest absolute value counts).
        steps: Increasing numbers of steps, usually doublings.
    """
    errors = [float(torch.as_tensor(run(n)).abs().max()) for n in steps]
    pairs = zip(zip(steps, errors, strict=True), zip(steps[1:], errors[1:], strict=True), strict=False)
    return [math.log(e / f) / math.log(m / n) for (n, e), (m, f) in pairs]


def record_noise(den: Any, init: Any, **options: Any) -> tuple[Any, list[Any]]:
    """`scidiff.sample` that also returns the noises it drew, in order of use (the prior first for a shape)."""
    from scidiff.samplers import sample  # the engine need not be loaded by users of the geometric checks

    x, info = sample(den, init, save="none", **options)
    return x, info.noise


def transform_noise(
    noise: Sequence[Any], change: Callable[[Tensor], Tensor] | Mapping[str, Callable[[Tensor], Tensor]]
) -> list[Any]:
    """Recorded noises with ``change`` applied to every tensor; a mapping acts on the named components only."""

    def changed(entry: Any) -> Any:
        if not isinstance(entry, Mapping):
            assert callable(change)
            return change(entry)
        if callable(change):
            return {name: change(value) for name, value in entry.items()}
        return {name: change[name](value) if name in change else value for name, value in entry.items()}

    return [changed(entry) for entry in noise]


def _move(x: Tensor, kind: str, rotation: Tensor, shift: Tensor) -> Tensor:
    if kind == "scalar":
        return x
    turn = rotation.to(dtype=x.dtype, device=x.device)
    if kind == "matrix":
        return turn @ x @ turn.T
    return x @ turn.T + (shift.to(x) if kind == "point" else 0)


def _permute(x: Tensor, axes: Axes, order: Tensor) -> Tensor:
    for axis in _tuple(axes):
        x = x.index_select(axis, order.to(x.device))
    return x


def _tuple(axes: Axes) -> tuple[int, ...]:
    return () if axes is None else (axes,) if isinstance(axes, int) else axes


def _as_list(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _assert_close(value: Tensor, wanted: Tensor, what: str, tolerance: float | None) -> None:
    if not value.dtype.is_floating_point:
        assert torch.equal(value, wanted), f"{what}: integer outputs differ"
        return
    value, wanted = value.detach(), wanted.detach()
    limit = tolerance if tolerance is not None else _TOLERANCE.get(value.dtype, 1e-2)
    scale = max(float(wanted.abs().max()), 1e-12)
    error = float((value - wanted).abs().max()) / scale
    assert error <= limit, f"{what}: relative error {error:.2e} above {limit:.0e}"
