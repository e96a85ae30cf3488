r"""Representers: K starts of a sampler whose forecasts lie about the possible futures better than K samples do.

In the whitened space of a trajectory the slowest mode of the noise, its mean over the frames, decides where a forecast
goes; K forecasts cannot cover all other modes as well. So they start at the K points c_k of the optimal quantizer of
the slowest mode z ~ N(0, I),

    minimise  E min_k |z - c_k|^2,

turned by a random rotation, with all other modes at their mean, 0. These forecasts are no samples of the model: a
spread, a coverage or a CRPS of theirs means nothing. The best of them is nearer to the truth, in expectation, than the
best of K samples, which is what a best-of-K score asks for.

References: Lloyd 1982 and Linde, Buzo and Gray 1980 (fixed point); Zador 1982 (the points lie wider than the law);
Pages and Printems 2003 (quantizers of the normal law). Their use as starts of a probability flow is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from scidiff import random
from scidiff.noise import NoiseSource

__all__ = ["QuantizedSource", "gaussian_quantizer"]

_POINTS, _POINTS_A_CENTRE = 2**13, 64
_ROUNDS = 300


@functools.cache
def gaussian_quantizer(size: int, dims: int) -> Tensor:
    """Points (size, dims) of a quadratic quantizer of N(0, I), float64: Lloyd's fixed point on a Sobol sequence."""
    count = max(_POINTS, _POINTS_A_CENTRE * size)
    u = torch.quasirandom.SobolEngine(dims, scramble=True, seed=0).draw(count, dtype=torch.float64)
    z = torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9)).numpy()
    return torch.from_numpy(kmeans2(z, z[:size], iter=_ROUNDS, minit="matrix")[0])


class QuantizedSource(NoiseSource):
    """In the place of normal numbers (B, F, N, D): representer ``places[b]`` of ``size``, constant in time.

    Args:
        seeds: One seed a row; the same for all representers of a system, which are turned together.
        places: Number of the representer, int64 (B,).
        size: How many a system has.
        device: Where the numbers are made.
    """

    def __init__(
        self, seeds: Sequence[tuple[int, int]], places: Tensor, size: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(seeds, len(seeds), device=device)
        self.places, self.size = places, size

    def normal(self, like: Tensor, name: str = "", live: Tensor | None = None) -> Tensor:
        """See `scidiff.noise.NoiseSource`; the mode of a node has the norm 1 over its live frames."""
        b, _, nodes, axes = like.shape
        live = torch.ones_like(like[..., :1], dtype=torch.bool) if live is None else live.expand(*like.shape[:3], 1)
        frames = live.sum(1)
        is_moving = frames[..., 0] > 0
        z = like.new_zeros(b, nodes, axes)
        for count in is_moving.sum(1).unique().tolist():
            rows = is_moving.sum(1) == count
            points = gaussian_quantizer(self.size, count * axes)[self.places[rows.cpu()]]
            z[rows[:, None] & is_moving] = points.reshape(-1, axes).to(z)
        normal = random.standard_normal(self.seeds, random.stream_id(f"{name}/rotation"), 0, axes * axes)
        z = z @ _rotations(normal.double().unflatten(1, (axes, axes))).to(z)
        return torch.where(live, (z / frames.clamp_min(1).sqrt())[:, None], 0)


def _rotations(normal: Tensor) -> Tensor:
    """Uniform orthogonal matrices from normal ones (B, D, D): QR with a positive diagonal of R (Mezzadri 2007)."""
    q, r = torch.linalg.qr(normal)
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
