r"""`VectorEGTN`: messages between nodes and mixing over frames for scalars and vectors, on whitened trajectories.

The state is y = (x - mean) / spread, with the given entries in ``mean``. From X^0 = mean + spread alpha y every layer
adds to the output F and moves the positions that the next layer sees:

    m_ij = phi_m(h_i, h_j, rbf |d_ij|, e_ij, <P v_i, u_ij>, <P v_j, u_ij>),   u_ij = d_ij / |d_ij|
    h_i <- h_i + phi_h(h_i, mean_j m_ij, |U v_i|),   v_i <- v_i + mean_j phi_g(m_ij) u_ij
    h_f <- h_f + sum_s a_fs W h_s,   v_f <- v_f + sum_s (a_fs W_1 + k_{f-s} W_2) v_s
    F <- F + (w(h) + w'(h) / spread) v,   X^{l+1} = mean + spread (alpha y + sigma F)

The kernels k_{f-s} hold ramps and exponentials of the time difference, so that sums of forces over time, and sums of
these, are one product: one layer can be a step of Picard's iteration for the equations of motion. Vibrations need
kernels that change sign from frame to frame: ``num_lags`` adds free numbers for each of the nearest differences. Bonds
need a resolution far below their length: ``num_near`` adds narrow radial functions. Both start without effect.

Han et al. 2024, "Geometric Trajectory Diffusion Models" (messages and attention over frames); Schuett et al. 2021,
"Equivariant message passing for the prediction of tensorial properties and molecular spectra" (scalars and vectors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from scidiff.configurable import Configurable
from trajectories.conditions import condition_features

__all__ = ["VectorEGTN"]

_NOISE_WAVES = (0.25, 0.5, 1.0, 2.0)  # per unit of log(sigma / alpha)
_DECAYS = (1.0, 2.5, 6.0, 15.0)  # frames
_NUM_KERNELS = 4 + 2 * len(_DECAYS)
_PROBES = 4  # vectors of a node that a message sees along its direction
_CLEAN = -6.0  # log(sigma / alpha) that stands for given entries
_TINY = 1e-12


class VectorEGTN(Configurable, nn.Module):
    r"""Network of whitened trajectories, called as ``network(y, c_noise, cond)`` with c_noise = log(sigma / alpha) / 4.

    For `Denoiser` with ``prediction="edm"`` and a variance-preserving schedule, where y has unit variance. ``y`` is (B,
    F, N, D), 0 at given entries; ``c_noise`` (B,), (B, F) or (B, F, N). Read from ``cond``: ``"mean"`` (B, F, N, D),
    the positions of given entries and the mean of the others, ``"spread"`` (B, F, N, 1), ``"pace"``, a mean step of a
    frame, (), all in the unit of the model; ``"h"`` node features (B, N, in_channels) or (B, F, N, in_channels),
    ``"edge_attr"`` (B, N, N, edge_channels), ``"given"`` bool (B, F, N), ``"node_mask"`` True for real nodes, bool (B,
    N). Returns F (B, F, N, D).

    Symmetry: E(D), for any D.

    Args:
        in_channels: Node features.
        edge_channels: Pair features.
        hidden: Scalar channels, a multiple of ``num_heads``.
        vector_channels: Vector channels, a multiple of ``num_heads``.
        num_layers: Layers.
        num_heads: Heads of the attention over frames.
        num_radial: Radial functions.
        length: Range of the radial functions: their centres lie between ``length`` / 20 and 20 ``length``, evenly in
            the logarithm.
        num_lags: Time differences up to this one have numbers of their own in every kernel over frames.
        num_near: Further radial functions, their centres between 0.4 and 1.6 ``length``, evenly; 0 or at least 2.
        conditions: Centre and scale of each number that describes a whole system, such as ``{"temperature": [400.0,
            100.0]}``; ``cond["condition"]`` (B, conditions) has them in this order, NaN where one is not known.

    Raises:
        ValueError: If a number is out of its range; when called, if a shape does not fit.
    """

    symmetry = "E(D)"

    def __init__(
        self,
        in_channels: int = 1,
        *,
        edge_channels: int = 0,
        hidden: int = 48,
        vector_channels: int = 16,
        num_layers: int = 4,
        num_heads: int = 4,
        num_radial: int = 12,
        length: float = 1.0,
        num_lags: int = 0,
        num_near: int = 0,
        conditions: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        if min(num_heads, num_layers) < 1 or num_radial < 2 or length <= 0:
            raise ValueError(
                "expected num_heads and num_layers of at least 1, num_radial of at least 2 and a positive length, "
                f"got {num_heads}, {num_layers}, {num_radial} and {length}."
            )
        if num_lags < 0 or num_near < 0 or num_near == 1:
            raise ValueError(
                f"expected num_lags of at least 0 and num_near of 0 or at least 2, got {num_lags} and {num_near}."
            )
        if hidden % num_heads or vector_channels % num_heads:
            raise ValueError(
                "hidden and vector_channels must be multiples of num_heads, "
                f"got {hidden}, {vector_channels} and {num_heads}."
            )
        self.in_channels, self.edge_channels = in_channels, edge_channels
        self.hidden, self.vector_channels = hidden, vector_channels
        self.num_radial, self.length, self.num_near = num_radial, length, num_near
        self.conditions = {name: (float(c), float(scale)) for name, (c, scale) in (conditions or {}).items()}
        channels = in_channels + 2 * len(self.conditions)
        self.embedding = nn.Linear(channels + 1 + 2 * len(_NOISE_WAVES) + 7, hidden)
        self.vectors = nn.Linear(4, vector_channels, bias=False)
        self.layers = nn.ModuleList(
            _Layer(hidden, vector_channels, edge_channels, num_heads, num_radial, num_lags, num_near)
            for _ in range(num_layers)
        )

    def forward(self, y: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """F (B, F, N, D), 0 at given entries; see the class."""
        self._check(y, cond)
        mean, spread, pace, given = (cond[name] for name in ("mean", "spread", "pace", "given"))
        live = ~given[..., None]
        log_rho = 4 * t.to(y.dtype).reshape(t.shape + (1,) * (4 - t.ndim)).expand(*y.shape[:3], 1)
        alpha, sigma = torch.sigmoid(-2 * log_rho).sqrt(), torch.sigmoid(2 * log_rho).sqrt()
        start, size = mean + spread * alpha * y, spread * sigma
        pos = torch.where(live, start, mean)
        h, v = self._start(y, pos, log_rho, cond)
        edge_attr = cond["edge_attr"] if self.edge_channels else None
        pairs = _Pairs(self.length, self.num_radial, self.num_near, edge_attr, cond.get("node_mask"))
        frames = torch.arange(y.shape[1], device=y.device)
        time = _kernels(frames[:, None] - frames, y.dtype)
        out = torch.zeros_like(y)
        for layer in self.layers:
            h, v, step = layer(h, v, pos, pairs, time, pace / spread)
            out = out + step
            pos = torch.where(live, start + size * out, mean)
        return torch.where(live, out, 0)

    def _start(self, y: Tensor, pos: Tensor, log_rho: Tensor, cond: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """First scalars (B, F, N, hidden) and vectors (B, F, N, D, vector_channels)."""
        given, spread, pace = cond["given"], cond["spread"], cond["pace"]
        nodes = []
        if self.in_channels:
            h = cond["h"].to(y.dtype)
            nodes = [h if h.ndim == 4 else h[:, None].expand(*y.shape[:2], *h.shape[1:])]
        nodes += condition_features(y, self.conditions, cond)
        noise = torch.where(given[..., None], _CLEAN, log_rho)
        waves = noise * y.new_tensor(_NOISE_WAVES)
        number = torch.arange(y.shape[1], device=y.device)[:, None]
        last = torch.where(given, number, 0).amax(1, keepdim=True)
        anchor = pos.gather(1, last[..., None].expand(-1, -1, -1, y.shape[-1]))
        back, ahead = torch.diff(pos, dim=1, prepend=pos[:, :1]), torch.diff(pos, dim=1, append=pos[:, -1:])
        vectors = [y, back / pace, ahead / pace, (pos - anchor) / pace]
        place = ((number - last) / 10.0)[..., None].to(y.dtype)
        features = [noise / 4, waves.sin(), waves.cos(), given[..., None].to(y.dtype), (spread / pace).log() / 3, place]
        features += [0.25 * torch.log(x.square().sum(-1, keepdim=True) + 1e-4) for x in vectors]
        return self.embedding(torch.cat([*nodes, *features], -1)), self.vectors(torch.stack(vectors, -1))

    def _check(self, y: Tensor, cond: dict[str, Tensor]) -> None:
        b, f, n, _ = y.shape
        missing = [name for name in ("mean", "spread", "pace", "given") if name not in cond]
        if missing:
            raise ValueError(f"VectorEGTN needs whitened trajectories: pass prior=InformedWalk(). Missing: {missing}.")
        shapes = [(b, n, self.in_channels), (b, f, n, self.in_channels)]
        if self.in_channels and _shape(cond, "h") not in shapes:
            raise ValueError(f"node features h must have shape {shapes[0]} or {shapes[1]}, got {_shape(cond, 'h')}.")
        pairs = (b, n, n, self.edge_channels)
        if self.edge_channels and _shape(cond, "edge_attr") != pairs:
            raise ValueError(f"pair features edge_attr must have shape {pairs}, got {_shape(cond, 'edge_attr')}.")


class _Pairs:
    """Directions, radial functions and weights of all pairs of a frame, with the features that do not change."""

    def __init__(
        self, length: float, num_radial: int, num_near: int, edge_attr: Tensor | None, present: Tensor | None
    ) -> None:
        self.length, self.num_radial, self.num_near = length, num_radial, num_near
        self.edge_attr, self.present = edge_attr, present

    def __call__(self, pos: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """u_ij (B, F, N, N, D), features (..., num_radial + 1), weights of a mean (..., N, N), narrow functions."""
        n = pos.shape[2]
        difference = pos[:, :, :, None] - pos[:, :, None]
        squared = difference.square().sum(-1, keepdim=True) + _TINY
        unit = difference * squared.rsqrt()
        log = 0.5 * torch.log(squared / self.length**2 + 1e-6)
        reach = math.log(20.0)
        centres = torch.linspace(-reach, reach, self.num_radial, device=pos.device, dtype=pos.dtype)
        width = (self.num_radial - 1) / (2 * reach)
        radial = torch.exp(-0.5 * ((log - centres) * width).square())
        linked = 1 - torch.eye(n, device=pos.device, dtype=pos.dtype).expand(1, 1, n, n)
        if self.present is not None:
            present = self.present[:, None]
            linked = linked * (present[..., None] & present[..., None, :])
        weight = linked / linked.sum(-1, keepdim=True).clamp_min(1)
        return unit, torch.cat([radial, log / 3], -1), weight, self._near(squared)

    def _near(self, squared: Tensor) -> Tensor | None:
        """Gaussians of the distance (..., num_near), as wide as their centres are apart."""
        if not self.num_near:
            return None
        centres = torch.linspace(0.4, 1.6, self.num_near, device=squared.device, dtype=squared.dtype)
        step = 1.2 / (self.num_near - 1)
        return torch.exp(-0.5 * ((squared.sqrt() / self.length - centres) / step).square())


class _Layer(nn.Module):
    """Messages, mixing over frames, update; see the module. O(N^2 F + N F^2) time."""

    def __init__(
        self,
        hidden: int,
        vectors: int,
        edge_channels: int,
        num_heads: int,
        num_radial: int,
        num_lags: int,
        num_near: int,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_lags = num_heads, num_lags
        self.norm = nn.LayerNorm(hidden)
        self.probe = nn.Linear(vectors, _PROBES, bias=False)
        self.ends = nn.Linear(hidden, 2 * hidden)
        self.pair = nn.Linear(num_radial + 1 + edge_channels + _PROBES, hidden, bias=False)
        self.second = nn.Linear(hidden, hidden)
        self.gate = nn.Linear(hidden, vectors)
        self.invariant = nn.Linear(vectors, vectors, bias=False)
        self.node = nn.Sequential(nn.Linear(2 * hidden + vectors, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.norm2 = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.bias = nn.Linear(_NUM_KERNELS, num_heads)
        self.out = nn.Linear(hidden, hidden)
        self.sent = nn.Linear(vectors, 2 * vectors, bias=False)
        self.sent_gate = nn.Linear(hidden, 2 * vectors)
        self.kernel = nn.Linear(_NUM_KERNELS, vectors, bias=False)
        self.norm3 = nn.LayerNorm(hidden)
        self.invariant2 = nn.Linear(vectors, vectors, bias=False)
        outputs = hidden + 3 * vectors
        self.feed = nn.Sequential(nn.Linear(hidden + vectors, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, outputs))
        self.mix = nn.Linear(vectors, vectors, bias=False)
        nn.init.zeros_(self.feed[2].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.feed[2].bias)  # pyright: ignore[reportArgumentType]
        if num_lags:
            self.lags = nn.Parameter(torch.zeros(vectors + num_heads, 2 * num_lags + 1))
        if num_near:
            self.near = nn.Linear(num_near, hidden, bias=False)
            nn.init.zeros_(self.near.weight)

    def forward(
        self, h: Tensor, v: Tensor, pos: Tensor, pairs: _Pairs, time: Tensor, whitening: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New scalars (B, F, N, hidden) and vectors (B, F, N, D, C), and the step of F (B, F, N, D)."""
        if pos.shape[2] > 1:
            h, v = self._between_nodes(h, v, pos, pairs)
        h, v = self._over_frames(h, v, time)
        v = _bounded(v)
        inner = torch.cat([self.norm3(h), _lengths(self.invariant2(v))], -1)
        sizes = [h.shape[-1], v.shape[-1], v.shape[-1], v.shape[-1]]
        dh, gate, plain, white = self.feed(inner).split(sizes, -1)
        step = (v * (plain + white * whitening)[..., None, :]).sum(-1)
        return h + dh, v + self.mix(v) * gate[..., None, :], step

    def _between_nodes(self, h: Tensor, v: Tensor, pos: Tensor, pairs: _Pairs) -> tuple[Tensor, Tensor]:
        unit, radial, weight, near = pairs(pos)
        inner = self.norm(h)
        receiver, sender = self.ends(inner).chunk(2, -1)
        own = unit @ self.probe(_bounded(v))  # <P v_i, u_ij>; <P v_j, u_ij> is minus its transpose
        features = [radial, own + own.transpose(2, 3)]
        if pairs.edge_attr is not None:
            features.append(pairs.edge_attr[:, None].to(h.dtype).expand(*unit.shape[:4], -1))
        m = self.pair(torch.cat(features, -1)) + receiver[:, :, :, None] + sender[:, :, None]
        if near is not None:
            m = m + self.near(near)
        m = nn.functional.silu(self.second(nn.functional.silu(m)))
        v = v + (unit * weight[..., None]).mT @ self.gate(m)
        total = (m * weight[..., None]).sum(3)
        return h + self.node(torch.cat([inner, total, _lengths(self.invariant(v))], -1)), v

    def _over_frames(self, h: Tensor, v: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.norm2(h)
        b, f, n, c = h.shape
        d, vectors = v.shape[-2:]
        heads = self.num_heads
        q, k, value = self.qkv(inner).reshape(b, f, n, 3, heads, -1).permute(3, 0, 2, 4, 1, 5)  # (B, N, H, F, c / H)
        bias, kernel = self.bias(time).permute(2, 0, 1), self.kernel(time / 8).permute(2, 0, 1)  # (heads or C, F, F)
        if self.num_lags:
            free = self._free(f)
            bias, kernel = bias + free[vectors:], kernel + free[:vectors]
        attention = (q @ k.mT * (heads / c) ** 0.5 + bias).softmax(-1)
        mixed = (attention @ value).permute(0, 3, 1, 2, 4).reshape(b, f, n, c)
        sent = self.sent(_bounded(v)) * self.sent_gate(inner)[..., None, :]
        seen, plain = sent.chunk(2, -1)
        seen = seen.reshape(b, f, n, d, heads, -1).permute(0, 2, 4, 1, 3, 5).flatten(-2)
        seen = (attention @ seen).unflatten(-1, (d, -1)).permute(0, 3, 1, 4, 2, 5).reshape(b, f, n, d, vectors)
        plain = kernel @ plain.permute(4, 1, 0, 2, 3).flatten(2)  # (C, F, B N D)
        plain = plain.reshape(vectors, f, b, n, d).permute(2, 1, 3, 4, 0)
        return h + self.out(mixed), v + seen + plain

    def _free(self, num_frames: int) -> Tensor:
        """The free numbers of every f - s, 0 beyond the last one, (C + heads, F, F)."""
        number = torch.arange(num_frames, device=self.lags.device)
        most = self.num_lags + 1
        place = (number[:, None] - number).clamp(-most, most) + most
        return nn.functional.pad(self.lags, (1, 1))[:, place]


def _kernels(steps: Tensor, dtype: torch.dtype) -> Tensor:
    """Functions of f - s (F, F) -> (F, F, 12): forward and backward ramps and exponentials, the present, the past."""
    s = steps.to(dtype)[..., None]
    decay = torch.exp(-s.abs() / s.new_tensor(_DECAYS))
    later, earlier = (s > 0).to(dtype), (s < 0).to(dtype)
    parts = [s.clamp_min(0) / 10, (-s).clamp_min(0) / 10, (s == 0).to(dtype), decay * later, decay * earlier, later]
    return torch.cat(parts, -1)


def _bounded(v: Tensor) -> Tensor:
    """Vectors (..., D, C), shorter where their mean square is not small against 100."""
    return v * (1 + v.square().sum(-2, keepdim=True).mean(-1, keepdim=True) / 100).rsqrt()


def _lengths(v: Tensor) -> Tensor:
    """log(1 + |v|^2) / 2 of vectors (..., D, C), (..., C)."""
    return 0.5 * torch.log1p(v.square().sum(-2))


def _shape(cond: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(cond[name].shape) if name in cond else None
