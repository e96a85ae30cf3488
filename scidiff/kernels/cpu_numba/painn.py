"""Messages whose filters are made from distances: continuous-filter convolution and PaiNN.

The filter of all edges never exists: pieces of it, w = [f_c basis, f_c] [W; bias] for 2048 edges, are made by a matrix
product and used at once. Forward rows have one owner each. Backward goes through the edges in their order, so that sums
at the sources run over ascending targets; threads share the channels, and a sum over channels is always taken in the
same slices. So no result depends on the number of threads but for the matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numba import prange
from torch import Tensor

from scidiff.kernels.basis import Basis, BesselBasis, RadialPair
from scidiff.kernels.cpu_numba._threads import SUMS, compiled, launch
from scidiff.kernels.cpu_numba.gms import bounds

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
        self.dweight.addmm_(inputs.t(), dw)
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


def _slices(width: int) -> int:
    """Slices of channels, a function of the width alone."""
    return 4 if width >= 256 else 2 if width >= 32 else 1


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
    nodes, rows = (x.numpy(), source.numpy(), ptr.numpy()), target.numpy()
    for first, last, w in _Filters(dist, W, bias, radial):
        parts = _rows_of(nodes[-1], rows, first, last, float(w.numel()))
        launch(_cfconv_all, _cfconv_parallel, float(w.numel()), *nodes, w.numpy(), out.numpy(), first, last, parts)
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
        work, slices = 2.0 * w.numel(), _slices(x.shape[1])
        launch(_cfconv_back_all, _cfconv_back_parallel, work, *arrays, w.numpy(), dx.numpy(), first, last, slices)
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
    arrays = phi.numpy(), v.numpy(), unit.numpy(), source.numpy(), ptr.numpy()
    rows, results = target.numpy(), (dh.numpy(), dv.numpy())
    for first, last, w in _Filters(dist, W, bias, radial):
        work = 3.0 * w.numel()
        parts = _rows_of(arrays[-1], rows, first, last, work)
        launch(_painn_all, _painn_parallel, work, *arrays, w.numpy(), *results, first, last, parts)
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
    slices = _slices(v.shape[2])
    dphi, dv, dunit = torch.zeros_like(phi), torch.zeros_like(v), unit.new_empty(slices, *unit.shape)
    filters = _Filters(dist, W, bias, radial)
    arrays = tuple(t.numpy() for t in (gh, gv, phi, v, unit, source, target))
    results = dphi.numpy(), dv.numpy(), dunit.numpy()
    for first, last, w in filters:
        work = 6.0 * w.numel()
        launch(_painn_back_all, _painn_back_parallel, work, *arrays, w.numpy(), *results, first, last, slices)
        filters.collect(first, last, w)
    ddist, dW, dbias = filters.gradients
    return dphi, dv, ddist, dunit.sum(0), dW, dbias


def _rows_of(ptr: np.ndarray, target: np.ndarray, first: int, last: int, work: float) -> np.ndarray:
    """Blocks of the rows that have edges in a piece."""
    begin, end = int(target[first]), int(target[last - 1]) + 1
    return begin + bounds(ptr[begin : end + 1] - ptr[begin], work)


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
def _cfconv_all(x, source, ptr, w, out, first, last, parts):  # type: ignore
    _cfconv_rows(x, source, ptr, w, out, first, last, parts[0], parts[-1])


@compiled(fastmath=SUMS, parallel=True)
def _cfconv_parallel(x, source, ptr, w, out, first, last, parts):  # type: ignore
    for p in prange(parts.shape[0] - 1):
        _cfconv_rows(x, source, ptr, w, out, first, last, parts[p], parts[p + 1])


@compiled(fastmath=SUMS)
def _weigh(x, p, w, dp):  # type: ignore
    """dp += x w, then w <- x p: the gradients of one block of p w with respect to p and w."""
    for f in range(x.shape[0]):
        dp[f] += x[f] * w[f]
    for f in range(x.shape[0]):
        w[f] = x[f] * p[f]


@compiled(fastmath=SUMS)
def _cfconv_back(g, x, source, target, w, dx, first, last, begin, end):  # type: ignore
    for e in range(first, last):
        i, j = target[e], source[e]
        _weigh(g[i, begin:end], x[j, begin:end], w[e - first, begin:end], dx[j, begin:end])


@compiled(fastmath=SUMS)
def _cfconv_back_all(g, x, source, target, w, dx, first, last, slices):  # type: ignore
    _cfconv_back(g, x, source, target, w, dx, first, last, 0, x.shape[1])


@compiled(fastmath=SUMS, parallel=True)
def _cfconv_back_parallel(g, x, source, target, w, dx, first, last, slices):  # type: ignore
    width = x.shape[1]
    for s in prange(slices):
        _cfconv_back(g, x, source, target, w, dx, first, last, s * width // slices, (s + 1) * width // slices)


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
def _painn_all(phi, v, unit, source, ptr, w, dh, dv, first, last, parts):  # type: ignore
    _painn_rows(phi, v, unit, source, ptr, w, dh, dv, first, last, parts[0], parts[-1])


@compiled(fastmath=SUMS, parallel=True)
def _painn_parallel(phi, v, unit, source, ptr, w, dh, dv, first, last, parts):  # type: ignore
    for p in prange(parts.shape[0] - 1):
        _painn_rows(phi, v, unit, source, ptr, w, dh, dv, first, last, parts[p], parts[p + 1])


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
def _painn_back(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit, first, last, begin, end):  # type: ignore
    width, n = gh.shape[1], end - begin
    xb, xc = np.empty(n, phi.dtype), np.empty(n, phi.dtype)
    b, c = np.empty(n, phi.dtype), np.empty(n, phi.dtype)
    for e in range(first, last):
        i, j, we = target[e], source[e], w[e - first]
        pj, dpj, ga = phi[j], dphi[j], gh[i, begin:end]
        gx, gy, gz = gv[i, 0, begin:end], gv[i, 1, begin:end], gv[i, 2, begin:end]
        vx, vy, vz = v[j, 0, begin:end], v[j, 1, begin:end], v[j, 2, begin:end]
        ux, uy, uz = unit[e, 0], unit[e, 1], unit[e, 2]
        for f in range(n):
            xb[f] = gx[f] * vx[f] + gy[f] * vy[f] + gz[f] * vz[f]
        for f in range(n):
            xc[f] = gx[f] * ux + gy[f] * uy + gz[f] * uz
        p2, w2 = pj[width + begin : width + end], we[width + begin : width + end]
        p3, w3 = pj[2 * width + begin : 2 * width + end], we[2 * width + begin : 2 * width + end]
        for f in range(n):
            b[f] = p2[f] * w2[f]
        for f in range(n):
            c[f] = p3[f] * w3[f]
        _weigh(ga, pj[begin:end], we[begin:end], dpj[begin:end])
        _weigh(xb, p2, w2, dpj[width + begin : width + end])
        _weigh(xc, p3, w3, dpj[2 * width + begin : 2 * width + end])
        dunit[e, 0] = _vector_back(gx, vx, dv[j, 0, begin:end], b, c)
        dunit[e, 1] = _vector_back(gy, vy, dv[j, 1, begin:end], b, c)
        dunit[e, 2] = _vector_back(gz, vz, dv[j, 2, begin:end], b, c)


@compiled(fastmath=SUMS)
def _painn_back_all(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit, first, last, slices):  # type: ignore
    width = gh.shape[1]
    for s in range(slices):
        begin, end = s * width // slices, (s + 1) * width // slices
        _painn_back(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit[s], first, last, begin, end)


@compiled(fastmath=SUMS, parallel=True)
def _painn_back_parallel(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit, first, last, slices):  # type: ignore
    width = gh.shape[1]
    for s in prange(slices):
        begin, end = s * width // slices, (s + 1) * width // slices
        _painn_back(gh, gv, phi, v, unit, source, target, w, dphi, dv, dunit[s], first, last, begin, end)
