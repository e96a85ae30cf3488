"""Messages whose filters are made from distances: continuous-filter convolution and PaiNN.

The filter of all edges never exists: pieces of it, w = [f_c basis, f_c] [W; bias] for 2048 edges, are made by a matrix
product and used at once. Forward rows have one owner each. Backward goes through the edges in their order, so that sums
at the sources run over ascending targets; each thread takes the edges of its own sources, every so many numbers. So no
result depends on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numba import prange
from torch import Tensor

from scidiff.kernels.basis import Basis, BesselBasis, RadialPair
from scidiff.kernels.cpu_numba._threads import SUMS, compiled, cut, launch, part_count, thread_count
from scidiff.kernels.products import tall_product

__all__ = ["cfconv", "cfconv_backward", "painn", "painn_backward"]

_TILE = 2048
_NEAR = 0.01  # of the cutoff: nearer, (k cos k d - sin(k d) / d) / d loses more than three digits


class _Filters:
    """Filters in pieces: for each, its first and last edge, [f_c basis, f_c] and the product with [W; bias]."""

    def __init__(self, dist: Tensor, W: Tensor, bias: Tensor, radial: RadialPair) -> None:
        self.dist, self.radial = dist, radial
        self.weight = torch.cat([W, bias[None]])
        rows = min(_TILE, max(dist.shape[0], 1))
        self.inputs = dist.new_empty(rows, W.shape[0] + 1)
        self.product = dist.new_empty(rows, W.shape[1])
        self.dweight = torch.zeros_like(self.weight)
        self.ddist = torch.empty_like(dist)

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        for first in range(0, self.dist.shape[0], _TILE):
            last = min(first + _TILE, self.dist.shape[0])
            inputs = self.inputs[: last - first]
            d, (basis, cutoff) = self.dist[first:last], self.radial
            inputs[:, :-1] = _with_slope(basis, d, slope=False)[0]
            inputs[:, -1] = 1
            if cutoff is not None:
                inputs *= cutoff(d)[:, None]
            yield first, last, torch.mm(inputs, self.weight, out=self.product[: last - first])

    def collect(self, first: int, last: int, dw: Tensor) -> None:
        """Add what one piece of dL/dw gives to the gradients of weights and distances."""
        inputs = self.inputs[: last - first]
        self.dweight += tall_product(inputs, dw)
        d, (basis, cutoff) = self.dist[first:last], self.radial
        slope = torch.zeros_like(inputs)
        value, derivative = _with_slope(basis, d)
        if cutoff is None:
            slope[:, :-1] = derivative
        else:
            slope[:, -1] = cutoff.derivative(d)
            torch.addcmul(derivative.mul_(cutoff(d)[:, None]), value, slope[:, -1:], out=slope[:, :-1])
        self.ddist[first:last] = torch.mm(dw, self.weight.t()).mul_(slope).sum(1)

    @property
    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """ddist, dW, dbias."""
        return self.ddist, self.dweight[:-1].clone(), self.dweight[-1].clone()


def _with_slope(basis: Basis, d: Tensor, slope: bool = True) -> tuple[Tensor, Tensor]:
    """Values and, unless not wanted, derivatives; sines and cosines are shared where no distance is near 0."""
    if type(basis) is not BesselBasis or d.min() < _NEAR * basis.cutoff:
        return basis(d), basis.derivative(d) if slope else d
    frequency = torch.arange(1, basis.num_basis + 1, dtype=d.dtype, device=d.device) * (math.pi / basis.cutoff)
    x, factor = d[:, None] * frequency, basis.constants[1]
    value = torch.sin(x).mul_((factor / d)[:, None])
    if not slope:
        return value, d
    return value, torch.cos(x).mul_(factor * frequency).sub_(value).div_(d[:, None])


def cfconv(
    x: Tensor,
    dist: Tensor,
    W: Tensor,
    bias: Tensor,
    source: Tensor,
    ptr: Tensor,
    target: Tensor,
    radial: RadialPair,
) -> Tensor:
    """out_i = sum_{e -> i} x_source w(d_e)."""
    out = x.new_zeros(ptr.shape[0] - 1, x.shape[1])
    arrays, result = tuple(t.numpy() for t in (x, source, ptr, target)), out.numpy()
    for first, last, w in _Filters(dist, W, bias, radial):
        work = float(w.numel())
        launch(_cfconv_all, _cfconv_parallel, work, *arrays, w.numpy(), result, first, last, part_count(work))
    return out


def cfconv_backward(
    g: Tensor,
    x: Tensor,
    dist: Tensor,
    W: Tensor,
    bias: Tensor,
    source: Tensor,
    ptr: Tensor,
    target: Tensor,
    t_ptr: Tensor,
    t_target: Tensor,
    t_edge: Tensor,
    radial: RadialPair,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx, ddist, dW, dbias."""
    dx = torch.zeros_like(x)
    filters = _Filters(dist, W, bias, radial)
    arrays = g.numpy(), x.numpy(), source.numpy(), target.numpy()
    for first, last, w in filters:
        work = 2.0 * w.numel()
        piece = w.numpy(), dx.numpy(), first, last, thread_count(work)
        launch(_cfconv_back_all, _cfconv_back_parallel, work, *arrays, *piece)
        filters.collect(first, last, w)
    return dx, *filters.gradients


def painn(
    phi: Tensor,
    v: Tensor,
    dist: Tensor,
    unit: Tensor,
    W: Tensor,
    bias: Tensor,
    source: Tensor,
    ptr: Tensor,
    target: Tensor,
    radial: RadialPair,
) -> tuple[Tensor, Tensor]:
    """(a, b, c) = phi_source w(d); dh_i = sum a, dv_i = sum (b v_source + c unit); v (N, 3, F)."""
    num_nodes, width = ptr.shape[0] - 1, v.shape[2]
    dh, dv = phi.new_zeros(num_nodes, width), phi.new_zeros(num_nodes, 3, width)
    arrays, results = tuple(t.numpy() for t in (phi, v, unit, source, ptr, target)), (dh.numpy(), dv.numpy())
    for first, last, w in _Filters(dist, W, bias, radial):
        work = 3.0 * w.numel()
        launch(_painn_all, _painn_parallel, work, *arrays, w.numpy(), *results, first, last, part_count(work))
    return dh, dv


def painn_backward(
    gh: Tensor,
    gv: Tensor,
    phi: Tensor,
    v: Tensor,
    dist: Tensor,
    unit: Tensor,
    W: Tensor,
    bias: Tensor,
    source: Tensor,
    ptr: Tensor,
    target: Tensor,
    t_ptr: Tensor,
    t_target: Tensor,
    t_edge: Tensor,
    radial: RadialPair,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dphi, dv, ddist, dunit, dW, dbias."""
    dphi, dv, dunit = torch.zeros_like(phi), torch.zeros_like(v), torch.empty_like(unit)
    filters = _Filters(dist, W, bias, radial)
    arrays = tuple(t.numpy() for t in (gh, gv, phi, v, unit, source, target))
    results = dphi.numpy(), dv.numpy(), dunit.numpy()
    for first, last, w in filters:
        work = 6.0 * w.numel()
        piece = w.numpy(), *results, first, last, thread_count(work)
        launch(_painn_back_all, _painn_back_parallel, work, *arrays, *piece)
        filters.collect(first, last, w)
    ddist, dW, dbias = filters.gradients
    return dphi, dv, ddist, dunit, dW, dbias


@compiled()
def _part(ptr, target, first, last, part, parts):  # type: ignore
    """First and last row of one part of those with edges in a piece."""
    begin, end = target[first], target[last - 1] + 1
    return cut(ptr, begin, end, part, parts), cut(ptr, begin, end, part + 1, parts)


@compiled(fastmath=SUMS)
def _cfconv_rows(x, source, ptr, w, out, first, last, begin, end):  # type: ignore
    width = x.shape[1]
    for i in range(begin, end):
        total = out[i]
        for e in range(max(ptr[i], first), min(ptr[i + 1], last)):
            message, features = w[e - first], x[source[e]]
            for f in range(width):
                total[f] += features[f] * message[f]


@compiled(fastmath=SUMS)
def _cfconv_all(x, source, ptr, target, w, out, first, last, parts):  # type: ignore
    _cfconv_rows(x, source, ptr, w, out, first, last, *_part(ptr, target, first, last, 0, 1))


@compiled(fastmath=SUMS, parallel=True)
def _cfconv_parallel(x, source, ptr, target, w, out, first, last, parts):  # type: ignore
    for p in prange(parts):
        _cfconv_rows(x, source, ptr, w, out, first, last, *_part(ptr, target, first, last, p, parts))


@compiled(fastmath=SUMS)
def _weigh(x, p, w, dp):  # type: ignore
    """dp += x w, then w <- x p: the gradients of one block of p w with respect to p and w."""
    for f in range(x.shape[0]):
        dp[f] += x[f] * w[f]
    for f in range(x.shape[0]):
        w[f] = x[f] * p[f]


@compiled(fastmath=SUMS)
def _cfconv_back(g, x, source, target, w, dx, first, last, part, parts):  # type: ignore
    for e in range(first, last):
        j = source[e]
        if j % parts == part:
            _weigh(g[target[e]], x[j], w[e - first], dx[j])


@compiled(fastmath=SUMS)
def _cfconv_back_all(g, x, source, target, w, dx, first, last, parts):  # type: ignore
    _cfconv_back(g, x, source, target, w, dx, first, last, 0, 1)


@compiled(fastmath=SUMS, parallel=True)
def _cfconv_back_parallel(g, x, source, target, w, dx, first, last, parts):  # type: ignore
    for p in prange(parts):
        _cfconv_back(g, x, source, target, w, dx, first, last, p, parts)


@compiled(fastmath=SUMS)
def _painn_rows(phi, v, unit, source, ptr, w, dh, dv, first, last, begin, end):  # type: ignore
    width = dh.shape[1]
    b, c = np.empty(width, phi.dtype), np.empty(width, phi.dtype)
    for i in range(begin, end):
        total, x, y, z = dh[i], dv[i, 0], dv[i, 1], dv[i, 2]
        for e in range(max(ptr[i], first), min(ptr[i + 1], last)):
            j, we = source[e], w[e - first]
            pa, pb, pc = phi[j, :width], phi[j, width : 2 * width], phi[j, 2 * width :]
            wa, wb, wc = we[:width], we[width : 2 * width], we[2 * width :]
            vx, vy, vz = v[j, 0], v[j, 1], v[j, 2]
            ux, uy, uz = unit[e, 0], unit[e, 1], unit[e, 2]
            for f in range(width):
                total[f] += pa[f] * wa[f]
            for f in range(width):
                b[f] = pb[f] * wb[f]
            for f in range(width):
                c[f] = pc[f] * wc[f]
            for f in range(width):
                x[f] += b[f] * vx[f] + c[f] * ux
            for f in range(width):
                y[f] += b[f] * vy[f] + c[f] * uy
            for f in range(width):
                z[f] += b[f] * vz[f] + c[f] * uz


@compiled(fastmath=SUMS)
def _painn_all(phi, v, unit, source, ptr, target, w, dh, dv, first, last, parts):  # type: ignore
    _painn_rows(phi, v, unit, source, ptr, w, dh, dv, first, last, *_part(ptr, target, first, last, 0, 1))


@compiled(fastmath=SUMS, parallel=True)
def _painn_parallel(phi, v, unit, source, ptr, target, w, dh, dv, first, last, parts):  # type: ignore
    for p in prange(parts):
        _painn_rows(phi, v, unit, source, ptr, w, dh, dv, first, last, *_part(ptr, target, first, last, p, parts))


@compiled(fastmath=SUMS)
def _vector_back(gk, vk, dvk, b, c):  # type: ignore
    """dv_source += g b along one axis; returns the sum of g c, dL/dunit along it."""
    for f in range(b.shape[0]):
        dvk[f] += gk[f] * b[f]
    total = gk[0] * 0
    for f in range(b.shape[0]):
        total += gk[f] * c[f]
    return total


@compiled(fastmath=SUMS)
def _painn_back(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit, first, last, part, parts):  # type: ignore
    n = gh.shape[1]
    xb, xc = np.empty(n, phi.dtype), np.empty(n, phi.dtype)
    b, c = np.empty(n, phi.dtype), np.empty(n, phi.dtype)
    for e in range(first, last):
        i, j, we = target[e], source[e], w[e - first]
        if j % parts != part:
            continue
        pj, dpj, ga, gx, gy, gz = phi[j], dphi[j], gh[i], gv[i, 0], gv[i, 1], gv[i, 2]
        vx, vy, vz, ux, uy, uz = v[j, 0], v[j, 1], v[j, 2], unit[e, 0], unit[e, 1], unit[e, 2]
        for f in range(n):
            xb[f] = gx[f] * vx[f] + gy[f] * vy[f] + gz[f] * vz[f]
        for f in range(n):
            xc[f] = gx[f] * ux + gy[f] * uy + gz[f] * uz
        p2, w2, p3, w3 = pj[n : 2 * n], we[n : 2 * n], pj[2 * n :], we[2 * n :]
        for f in range(n):
            b[f] = p2[f] * w2[f]
        for f in range(n):
            c[f] = p3[f] * w3[f]
        _weigh(ga, pj[:n], we[:n], dpj[:n])
        _weigh(xb, p2, w2, dpj[n : 2 * n])
        _weigh(xc, p3, w3, dpj[2 * n :])
        dunit[e, 0] = _vector_back(gx, vx, dv[j, 0], b, c)
        dunit[e, 1] = _vector_back(gy, vy, dv[j, 1], b, c)
        dunit[e, 2] = _vector_back(gz, vz, dv[j, 2], b, c)


@compiled(fastmath=SUMS)
def _painn_back_all(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit, first, last, parts):  # type: ignore
    _painn_back(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit, first, last, 0, 1)


@compiled(fastmath=SUMS, parallel=True)
def _painn_back_parallel(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit, first, last, parts):  # type: ignore
    for p in prange(parts):
        _painn_back(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit, first, last, p, parts)
