r"""Activations of rows of features, with their slopes, in loops that the compiler turns into vector instructions.

exp(z) = 2^k exp(r) with k = round(z / log 2), and exp(r) by its Taylor series on |r| <= log(2) / 2. The library's
exponential is a call for each number; this one is arithmetic alone, exact within a unit or two in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from scidiff.kernels.cpu_numba._threads import compiled

__all__ = ["CODES", "activate", "exp", "silu", "silu_slope"]

CODES = {"silu": 0, "relu": 1, "tanh": 2}


@intrinsic
def _power_of_two(_typing: Any, k: Any) -> Any:
    """2^k of a whole number k in floating point, put into the bits of the exponent; 0 below the smallest exponent."""
    bits, fraction = (32, 23) if k == types.float32 else (64, 52)

    def make(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        integer = ir.IntType(bits)
        biased = builder.add(builder.fptosi(args[0], integer), integer(2 ** (bits - fraction - 2) - 1))
        return builder.bitcast(builder.shl(biased, integer(fraction)), args[0].type)

    return k(k), make


def _make_exp(kind: type, bits: int, degree: int) -> Callable[[Any], Any]:
    """exp in one precision; the low ``bits`` of log 2 are subtracted apart, so that the remainder r is exact."""
    log2e, half, two, one = kind(1 / math.log(2)), kind(0.5), kind(2), kind(1)
    high = kind(round(math.log(2) * 2**bits) / 2**bits)
    low = kind(Decimal(2).ln() - Decimal(float(high)))
    least, most = kind(np.log(float(np.finfo(kind).tiny)) + 0.3), kind(np.log(float(np.finfo(kind).max)) + 0.3)
    series = tuple(kind(1 / math.factorial(k)) for k in range(degree, 1, -1))

    def exp(z):  # type: ignore
        z = min(max(z, least), most)
        k = np.floor(z * log2e + half)
        r = (z - k * high) - k * low
        total = series[0]
        for c in series[1:]:
            total = total * r + c
        return ((total * r * r + r) + one) * _power_of_two(k - one) * two  # pyright: ignore[reportCallIssue]

    return exp


_EXP = {types.float32: _make_exp(np.float32, 9, 7), types.float64: _make_exp(np.float64, 32, 13)}


def _exp(z: Any) -> Any:
    """exp(z) inside a body."""
    return np.exp(z)


@overload(_exp)
def _(z):  # type: ignore
    return _EXP.get(z)


@compiled(fastmath={"contract"})  # another order of sums would take r apart
def exp(z):  # type: ignore
    """exp(z) within two units in the last place; 0 where it is less than twice the smallest normal number."""
    return _exp(z)


@compiled(fastmath={"contract"})
def silu(x):  # type: ignore
    """x sigmoid(x) of a row, in place."""
    one = x.dtype.type(1)
    for f in range(x.shape[0]):
        x[f] = x[f] * (one / (one + exp(-x[f])))


@compiled(fastmath={"contract"})
def silu_slope(x, slope):  # type: ignore
    """x sigmoid(x) of a row, in place, and its derivative."""
    one = x.dtype.type(1)
    for f in range(x.shape[0]):
        s = one / (one + exp(-x[f]))
        value = x[f] * s
        slope[f] = s + value * (one - s)
        x[f] = value


@compiled()
def activate(x, slope, code):  # type: ignore
    """Another activation of a row, in place, and its derivative; a choice in one loop would keep it from vectors."""
    for f in range(x.shape[0]):
        if code == 1:
            is_up = not x[f] <= 0  # a NaN stays
            x[f] = x[f] if is_up else 0
            slope[f] = 1 if is_up else 0
        else:
            x[f] = np.tanh(x[f])
            slope[f] = 1 - x[f] * x[f]
