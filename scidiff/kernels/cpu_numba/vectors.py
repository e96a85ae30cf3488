"""Vectors of LLVM in the making of intrinsics: blocks of contiguous arrays, whatever registers the machine has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

__all__ = ["load", "place", "shuffled", "spread", "store"]

_INT = ir.IntType(32)


def place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Pointer to an element of a contiguous array, counted from its beginning."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def load(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int) -> Any:
    """The numbers of an array from an element on."""
    vector = ir.VectorType(context.get_value_type(kind.dtype), lanes)
    start = builder.bitcast(place(context, builder, kind, array, index), vector.as_pointer())
    return builder.load(start, align=kind.dtype.bitwidth // 8)


def store(context: Any, builder: Any, kind: Any, array: Any, index: Any, value: Any) -> None:
    """Write a vector into an array from an element on."""
    start = builder.bitcast(place(context, builder, kind, array, index), value.type.as_pointer())
    builder.store(value, start, align=kind.dtype.bitwidth // 8)


def shuffled(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    """The lanes of a and then b that are named."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(lanes)), list(lanes)))


def spread(builder: Any, number: Any, lanes: int) -> Any:
    """A number in every lane."""
    nothing = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    return shuffled(builder, builder.insert_element(nothing, number, _INT(0)), nothing, [0] * lanes)
