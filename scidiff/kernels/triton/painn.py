"""The PaiNN message with its filter made in the kernel, and its two-pass backward.

With w = f_c(d) (basis(d) W + bias) and (a, b, c) = phi_source * w: dh_i = sum a, dv_i = sum (b v_source + c unit). The
receiver pass gives the gradients of dist, unit, W and bias, the sender pass, on the transpose, those of phi and v.
Vectors have the layout (N, 3, F).

References: Schütt et al. 2021, "Equivariant message passing for the prediction of tensorial properties and molecular
spectra", eq. 7-8.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (kernels are typed by Triton's compiler)

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from scidiff.kernels.triton._common import (
    PARTIALS,
    accumulator,
    ceil_div,
    contiguous,
    index_type,
    launch,
    pad,
    precision,
    tiles,
    torch_type,
)
from scidiff.kernels.triton.cfconv import cfconv, cfconv_backward
from scidiff.kernels.triton.radial import radial_arguments, radial_functions

__all__ = ["cfconv", "cfconv_backward", "painn", "painn_backward"]


@contiguous
def painn(
    phi: Tensor, v: Tensor, dist: Tensor, unit: Tensor, W: Tensor, bias: Tensor, source: Tensor, ptr: Tensor,
    target: Tensor, radial: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dh (N, F) and dv (N, 3, F); phi (*, 3F), v (*, 3, F), dist (E,), unit (E, 3), W (K, 3F), bias (3F,)."""
    num_nodes, width = ptr.shape[0] - 1, v.shape[2]
    dh, dv = phi.new_empty(num_nodes, width), v.new_empty(num_nodes, 3, width)
    tile, acc = tiles(width, most=64), accumulator(phi, v, dist, W)
    numbers, constants = radial_arguments(radial, acc, v.device)
    launch(
        _painn,
        (num_nodes, ceil_div(width, tile.channels)),
        (phi, v, dist, unit, W, bias, source, ptr, numbers, dh, dv),
        F=width, KP=pad(radial.basis.num_basis), ACC=acc, INDEX=index_type(phi, v, dv), PRECISION=precision(acc),
        BLOCK_E=tile.edges, BLOCK_F=tile.channels, warps=4, **constants,
    )  # fmt: skip
    return dh, dv


@contiguous
def painn_backward(
    gh: Tensor, gv: Tensor, phi: Tensor, v: Tensor, dist: Tensor, unit: Tensor, W: Tensor, bias: Tensor,
    source: Tensor, ptr: Tensor, target: Tensor, t_ptr: Tensor, t_target: Tensor, t_edge: Tensor, radial: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of phi, v, dist, unit, W and bias for those of dh, gh (N, F), and dv, gv (N, 3, F)."""
    inputs = (gh, gv, phi, v, dist, unit, W, bias)
    return *_senders(*inputs, t_target, t_ptr, t_edge, radial), *_receivers(*inputs, source, target, radial)


def _receivers(
    gh: Tensor, gv: Tensor, phi: Tensor, v: Tensor, dist: Tensor, unit: Tensor, W: Tensor, bias: Tensor,
    source: Tensor, target: Tensor, radial: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of dist (E,), unit (E, 3), W (K, 3F) and bias (3F,)."""
    num_edges, width = source.shape[0], v.shape[2]
    acc = accumulator(gh, phi, v, dist, W)
    wide, tile = torch_type(acc), tiles(width, edges=32, most=64)
    blocks, programs = ceil_div(width, tile.channels), min(PARTIALS, ceil_div(num_edges, tile.edges))
    numbers, constants = radial_arguments(radial, acc, v.device)
    d_dist, d_unit = dist.new_empty(3, blocks, num_edges, dtype=wide), unit.new_empty(blocks, num_edges, 3, dtype=wide)
    d_W, d_bias = W.new_empty(programs, *W.shape, dtype=wide), W.new_empty(programs, 3 * width, dtype=wide)
    inputs = (gh, gv, phi, v, dist, unit, W, bias)
    for part in range(3):  # one launch a part of the filter: together they would not fit into registers
        launch(
            _painn_receivers,
            (programs, blocks),
            (*inputs, source, target, numbers, d_dist[part], d_unit, d_W, d_bias, num_edges),
            F=width, PART=part, KP=pad(radial.basis.num_basis), ACC=acc, INDEX=index_type(phi, v, d_unit, d_W),
            PRECISION=precision(acc), BLOCK_E=tile.edges, BLOCK_F=tile.channels, warps=8, **constants,
        )  # fmt: skip
    sums = (d_dist.sum((0, 1)), d_unit.sum(0), d_W.sum(0), d_bias.sum(0))
    return tuple(total.to(like.dtype) for total, like in zip(sums, (dist, unit, W, bias)))


def _senders(
    gh: Tensor, gv: Tensor, phi: Tensor, v: Tensor, dist: Tensor, unit: Tensor, W: Tensor, bias: Tensor,
    t_target: Tensor, t_ptr: Tensor, t_edge: Tensor, radial: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of phi (N, 3F) and v (N, 3, F), summed over the edges that leave each node."""
    width, num_nodes = v.shape[2], t_ptr.shape[0] - 1
    acc = accumulator(gh, phi, v, dist, W)
    d_phi, d_v = phi.new_empty(num_nodes, 3 * width), v.new_empty(num_nodes, 3, width)
    tile = tiles(width, most=64)
    numbers, constants = radial_arguments(radial, acc, v.device)
    launch(
        _painn_senders,
        (num_nodes, ceil_div(width, tile.channels)),
        (gh, gv, phi, v, dist, unit, W, bias, t_target, t_ptr, t_edge, numbers, d_phi, d_v),
        F=width, KP=pad(radial.basis.num_basis), ACC=acc, INDEX=index_type(phi, v, gv), PRECISION=precision(acc),
        BLOCK_E=tile.edges, BLOCK_F=tile.channels, warps=4, **constants,
    )  # fmt: skip
    return d_phi, d_v


@triton.jit
def _part(W, bias, k, f, part: tl.constexpr, F: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr):
    """Columns of one of the three parts of the filter's weight, and of its bias."""
    at = k[:, None] * (3 * F) + part * F + f[None, :]
    weight = tl.load(W + at, mask=(k < K)[:, None] & (f < F)[None, :], other=0.0).to(ACC)
    return weight, tl.load(bias + part * F + f, mask=f < F, other=0.0).to(ACC)[None, :]


@triton.jit
def _product(a, b, PRECISION: tl.constexpr, ACC: tl.constexpr):
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def _painn(
    phi, v, dist, unit, W, bias, source, ptr, numbers, dh, dv,
    F: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BASIS: tl.constexpr, CUTOFF: tl.constexpr,
    POWER: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(INDEX)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, KP)
    start = tl.load(ptr + i)
    stop = tl.load(ptr + i + 1)
    W_a, bias_a = _part(W, bias, k, f, 0, F, K, ACC)
    W_b, bias_b = _part(W, bias, k, f, 1, F, K, ACC)
    W_c, bias_c = _part(W, bias, k, f, 2, F, K, ACC)
    h = tl.zeros((BLOCK_F,), dtype=ACC)
    vx = tl.zeros((BLOCK_F,), dtype=ACC)
    vy = tl.zeros((BLOCK_F,), dtype=ACC)
    vz = tl.zeros((BLOCK_F,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        is_edge = e < stop
        mask = is_edge[:, None] & (f < F)[None, :]
        at = tl.load(source + e, mask=is_edge, other=0).to(INDEX)[:, None] * (3 * F) + f[None, :]
        d = tl.load(dist + e, mask=is_edge, other=1.0).to(ACC)
        value, _, envelope, _ = radial_functions(d, k, numbers, BASIS, CUTOFF, POWER, K, ACC)
        a = tl.load(phi + at, mask=mask, other=0.0).to(ACC) * (_product(value, W_a, PRECISION, ACC) + bias_a)
        h += tl.sum(a * envelope[:, None], axis=0)
        b = tl.load(phi + at + F, mask=mask, other=0.0).to(ACC) * (_product(value, W_b, PRECISION, ACC) + bias_b)
        c = tl.load(phi + at + 2 * F, mask=mask, other=0.0).to(ACC) * (_product(value, W_c, PRECISION, ACC) + bias_c)
        b = b * envelope[:, None]
        c = c * envelope[:, None]
        ux = tl.load(unit + e * 3, mask=is_edge, other=0.0).to(ACC)[:, None]
        uy = tl.load(unit + e * 3 + 1, mask=is_edge, other=0.0).to(ACC)[:, None]
        uz = tl.load(unit + e * 3 + 2, mask=is_edge, other=0.0).to(ACC)[:, None]
        vx += tl.sum(b * tl.load(v + at, mask=mask, other=0.0).to(ACC) + c * ux, axis=0)
        vy += tl.sum(b * tl.load(v + at + F, mask=mask, other=0.0).to(ACC) + c * uy, axis=0)
        vz += tl.sum(b * tl.load(v + at + 2 * F, mask=mask, other=0.0).to(ACC) + c * uz, axis=0)
    tl.store(dh + i * F + f, h, mask=f < F)
    tl.store(dv + i * (3 * F) + f, vx, mask=f < F)
    tl.store(dv + i * (3 * F) + F + f, vy, mask=f < F)
    tl.store(dv + i * (3 * F) + 2 * F + f, vz, mask=f < F)


@triton.jit
def _painn_receivers(
    gh, gv, phi, v, dist, unit, W, bias, source, target, numbers, d_dist, d_unit, d_W, d_bias, num_edges,
    F: tl.constexpr, PART: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BASIS: tl.constexpr,
    CUTOFF: tl.constexpr, POWER: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    program, block = tl.program_id(0), tl.program_id(1)
    f = block * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, KP)
    weight, offset = _part(W, bias, k, f, PART, F, K, ACC)
    sum_W = tl.zeros((KP, BLOCK_F), dtype=ACC)
    sum_bias = tl.zeros((BLOCK_F,), dtype=ACC)
    slot = block.to(INDEX) * num_edges
    span = tl.cdiv(tl.cdiv(num_edges, BLOCK_E), tl.num_programs(0)) * BLOCK_E
    for first in range(program * span, tl.minimum(program * span + span, num_edges), BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        is_edge = e < num_edges
        mask = is_edge[:, None] & (f < F)[None, :]
        i = tl.load(target + e, mask=is_edge, other=0).to(INDEX)[:, None]
        at = tl.load(source + e, mask=is_edge, other=0).to(INDEX)[:, None] * (3 * F) + f[None, :]
        d = tl.load(dist + e, mask=is_edge, other=1.0).to(ACC)
        value, slope, envelope, falling = radial_functions(d, k, numbers, BASIS, CUTOFF, POWER, K, ACC)
        p = tl.load(phi + at + PART * F, mask=mask, other=0.0).to(ACC)
        if PART == 0:
            x = tl.load(gh + i * F + f[None, :], mask=mask, other=0.0).to(ACC)
        else:
            at_g = i * (3 * F) + f[None, :]
            gx = tl.load(gv + at_g, mask=mask, other=0.0).to(ACC)
            gy = tl.load(gv + at_g + F, mask=mask, other=0.0).to(ACC)
            gz = tl.load(gv + at_g + 2 * F, mask=mask, other=0.0).to(ACC)
            if PART == 1:
                x = gx * tl.load(v + at, mask=mask, other=0.0).to(ACC)
                x += gy * tl.load(v + at + F, mask=mask, other=0.0).to(ACC)
                x += gz * tl.load(v + at + 2 * F, mask=mask, other=0.0).to(ACC)
            else:
                x = gx * tl.load(unit + e * 3, mask=is_edge, other=0.0).to(ACC)[:, None]
                x += gy * tl.load(unit + e * 3 + 1, mask=is_edge, other=0.0).to(ACC)[:, None]
                x += gz * tl.load(unit + e * 3 + 2, mask=is_edge, other=0.0).to(ACC)[:, None]
                c = p * (_product(value, weight, PRECISION, ACC) + offset) * envelope[:, None]
                at_u = d_unit + (slot + e) * 3
                tl.store(at_u, tl.sum(gx * c, axis=1), mask=is_edge)
                tl.store(at_u + 1, tl.sum(gy * c, axis=1), mask=is_edge)
                tl.store(at_u + 2, tl.sum(gz * c, axis=1), mask=is_edge)
        dw = x * p
        q = _product(dw, tl.trans(weight), PRECISION, ACC)  # sum over f of dw_ef W_kf: all that the slope in d needs
        change = falling * (tl.sum(value * q, axis=1) + tl.sum(dw * offset, axis=1))
        change += envelope * tl.sum(slope * q, axis=1)
        tl.store(d_dist + slot + e, change, mask=is_edge)
        dw = dw * envelope[:, None]
        sum_W += _product(tl.trans(value), dw, PRECISION, ACC)
        sum_bias += tl.sum(dw, axis=0)
    at_w = k[:, None] * (3 * F) + PART * F + f[None, :]
    tl.store(d_W + program.to(INDEX) * (K * 3 * F) + at_w, sum_W, mask=(k < K)[:, None] & (f < F)[None, :])
    tl.store(d_bias + program * (3 * F) + PART * F + f, sum_bias, mask=f < F)


@triton.jit
def _painn_senders(
    gh, gv, phi, v, dist, unit, W, bias, target, ptr, edge, numbers, d_phi, d_v,
    F: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BASIS: tl.constexpr, CUTOFF: tl.constexpr,
    POWER: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0).to(INDEX)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, KP)
    start = tl.load(ptr + j)
    stop = tl.load(ptr + j + 1)
    W_a, bias_a = _part(W, bias, k, f, 0, F, K, ACC)
    W_b, bias_b = _part(W, bias, k, f, 1, F, K, ACC)
    W_c, bias_c = _part(W, bias, k, f, 2, F, K, ACC)
    own = j * (3 * F) + f
    p_b = tl.load(phi + own + F, mask=f < F, other=0.0).to(ACC)[None, :]
    vx = tl.load(v + own, mask=f < F, other=0.0).to(ACC)[None, :]
    vy = tl.load(v + own + F, mask=f < F, other=0.0).to(ACC)[None, :]
    vz = tl.load(v + own + 2 * F, mask=f < F, other=0.0).to(ACC)[None, :]
    d_a = tl.zeros((BLOCK_F,), dtype=ACC)
    d_b = tl.zeros((BLOCK_F,), dtype=ACC)
    d_c = tl.zeros((BLOCK_F,), dtype=ACC)
    dx = tl.zeros((BLOCK_F,), dtype=ACC)
    dy = tl.zeros((BLOCK_F,), dtype=ACC)
    dz = tl.zeros((BLOCK_F,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        n = first + tl.arange(0, BLOCK_E)
        is_edge = n < stop
        mask = is_edge[:, None] & (f < F)[None, :]
        i = tl.load(target + n, mask=is_edge, other=0).to(INDEX)[:, None]
        e = tl.load(edge + n, mask=is_edge, other=0).to(INDEX)
        d = tl.load(dist + e, mask=is_edge, other=1.0).to(ACC)
        value, _, envelope, _ = radial_functions(d, k, numbers, BASIS, CUTOFF, POWER, K, ACC)
        fc = envelope[:, None]
        gx = tl.load(gv + i * (3 * F) + f[None, :], mask=mask, other=0.0).to(ACC)
        gy = tl.load(gv + i * (3 * F) + F + f[None, :], mask=mask, other=0.0).to(ACC)
        gz = tl.load(gv + i * (3 * F) + 2 * F + f[None, :], mask=mask, other=0.0).to(ACC)
        ux = tl.load(unit + e * 3, mask=is_edge, other=0.0).to(ACC)[:, None]
        uy = tl.load(unit + e * 3 + 1, mask=is_edge, other=0.0).to(ACC)[:, None]
        uz = tl.load(unit + e * 3 + 2, mask=is_edge, other=0.0).to(ACC)[:, None]
        w = (_product(value, W_a, PRECISION, ACC) + bias_a) * fc
        d_a += tl.sum(w * tl.load(gh + i * F + f[None, :], mask=mask, other=0.0).to(ACC), axis=0)
        w = (_product(value, W_c, PRECISION, ACC) + bias_c) * fc
        d_c += tl.sum(w * (gx * ux + gy * uy + gz * uz), axis=0)
        w = (_product(value, W_b, PRECISION, ACC) + bias_b) * fc
        d_b += tl.sum(w * (gx * vx + gy * vy + gz * vz), axis=0)
        w = w * p_b
        dx += tl.sum(w * gx, axis=0)
        dy += tl.sum(w * gy, axis=0)
        dz += tl.sum(w * gz, axis=0)
    tl.store(d_phi + own, d_a, mask=f < F)
    tl.store(d_phi + own + F, d_b, mask=f < F)
    tl.store(d_phi + own + 2 * F, d_c, mask=f < F)
    tl.store(d_v + own, dx, mask=f < F)
    tl.store(d_v + own + F, dy, mask=f < F)
    tl.store(d_v + own + 2 * F, dz, mask=f < F)
