"""Products and sums of heads in vector instructions, a block of `LANES` channels at a time.

The loop vectoriser takes several vectors a step and leaves the rest number by number: all of it where a head has a
dozen channels. Here a block is one vector, whatever registers the machine has for it, and sums stay in registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from scidiff.kernels.cpu_numba._threads import SUMS, compiled
from scidiff.kernels.cpu_numba.vectors import load, place, shuffled, spread, store

__all__ = ["LANES", "head_dots", "head_sums"]

LANES = 16
_GROUP = 8  # heads whose products are summed together
_INT = ir.IntType(32)
_FLAGS = tuple(sorted(SUMS))


def _halved(builder: Any, a: Any, b: Any, part: int) -> Any:
    """The lanes of a, then of b, their parts of ``part`` lanes added up to half of them."""
    lanes = range(2 * a.type.count if b is not a else a.type.count)
    halves = ([lane for lane in lanes if (lane % part < part // 2) == first] for first in (True, False))
    return builder.fadd(*(shuffled(builder, a, b, half) for half in halves), flags=_FLAGS)


def _lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """A vector with the sum of the lanes of each (a power of two of vectors)."""
    part = LANES
    while part > 1:
        pairs = zip(vectors[::2], vectors[1::2]) if len(vectors) > 1 else [(vectors[0], vectors[0])]
        vectors = [_halved(builder, a, b, part) for a, b in pairs]
        part //= 2
    return vectors[0]


def _dots(heads: int) -> Any:
    """out[h] to out[h + heads - 1]: products x . y of heads of whole blocks."""

    @intrinsic
    def dots(_typing: Any, out: Any, h: Any, x: Any, y: Any, width: Any) -> Any:
        def make(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            result, head, left, right, size = args
            zero = ir.Constant(ir.VectorType(context.get_value_type(x.dtype), LANES), None)
            totals = [cgutils.alloca_once_value(builder, zero) for _ in range(heads)]
            for total in totals:
                builder.store(zero, total)
            with cgutils.for_range_slice(builder, size.type(0), size, size.type(LANES)) as (channel, _):
                for k, total in enumerate(totals):
                    index = builder.add(channel, builder.mul(size, builder.add(head, size.type(k))))
                    blocks = [
                        load(context, builder, kind, side, index, LANES) for kind, side in ((x, left), (y, right))
                    ]
                    product = builder.fmul(*blocks, flags=_FLAGS)
                    builder.store(builder.fadd(builder.load(total), product, flags=_FLAGS), total)
            sums = _lane_sums(builder, [builder.load(total) for total in totals])
            store(context, builder, out, result, head, sums)
            return context.get_dummy_value()

        return types.void(out, types.intp, x, y, types.intp), make

    return dots


_dots_of_group, _dots_of_one = _dots(_GROUP), _dots(1)


@intrinsic
def _gathered(_typing: Any, out: Any, c: Any, scale: Any, weights: Any, h: Any, x: Any, source: Any) -> Any:
    """Block c of out: scale sum_e weights[e, h] x[source[e], c]."""

    def make(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        result, channel, factor, weight, head, values, sources = args
        zero, size = ir.Constant(ir.VectorType(context.get_value_type(x.dtype), LANES), None), channel.type
        total = cgutils.alloca_once_value(builder, zero)
        builder.store(zero, total)
        edges, heads, width = (
            builder.extract_value(context.make_array(kind)(context, builder, array).shape, axis)
            for kind, array, axis in ((source, sources, 0), (weights, weight, 1), (x, values, 1))
        )

        with cgutils.for_range_slice(builder, size(0), edges, size(1)) as (edge, _):
            node = builder.load(place(context, builder, source, sources, edge))
            node = context.cast(builder, node, source.dtype, types.intp)
            block = load(context, builder, x, values, builder.add(builder.mul(node, width), channel), LANES)
            own = builder.load(place(context, builder, weights, weight, builder.add(builder.mul(edge, heads), head)))
            product = builder.fmul(spread(builder, own, LANES), block, flags=_FLAGS)
            builder.store(builder.fadd(builder.load(total), product, flags=_FLAGS), total)
        scaled = builder.fmul(spread(builder, factor, LANES), builder.load(total), flags=_FLAGS)
        store(context, builder, out, result, channel, scaled)
        return context.get_dummy_value()

    return types.void(out, types.intp, out.dtype, weights, types.intp, x, source), make


@compiled(fastmath=SUMS, inline="always")
def head_dots(out, x, y):  # type: ignore
    """out[h] = x_h . y_h of two rows of heads."""
    heads = out.shape[0]
    width = x.shape[0] // heads
    grouped = heads // _GROUP * _GROUP
    if width % LANES == 0:
        for h in range(0, grouped, _GROUP):
            _dots_of_group(out, h, x, y, width)
        for h in range(grouped, heads):
            _dots_of_one(out, h, x, y, width)
    else:
        for h in range(heads):
            total = x.dtype.type(0)
            for c in range(h * width, (h + 1) * width):
                total += x[c] * y[c]
            out[h] = total


@compiled(fastmath=SUMS, inline="always")
def head_sums(out, scale, weights, x, source):  # type: ignore
    """out_h = scale_h sum_e weights_eh x_source,h of the edges of one row; weights (E, H), x (N, F), source (E,)."""
    heads = weights.shape[1]
    width = x.shape[1] // heads
    whole = width // LANES * LANES
    for h in range(heads):
        for c in range(h * width, h * width + whole, LANES):
            _gathered(out, c, scale[h], weights, h, x, source)  # pyright: ignore[reportCallIssue]
        for c in range(h * width + whole, (h + 1) * width):
            total = x.dtype.type(0)
            for e in range(source.shape[0]):
                total += weights[e, h] * x[source[e], c]
            out[c] = scale[h] * total
