r"""Soft equivariance: a free head beside an equivariant network, and penalties that find the symmetry of the data.

For a group G let P_G be the orthogonal projection of the weights W (3 x 3 blocks between vectors) and the bias b on
those that commute with G. The penalty of a head is

    R_G = 1/2 sum |W - P_G W|^2 + 1/2 sum |b - P_G b|^2,     loss + sum_G lambda_G R_G.

With a the axis and 1 the identity:

=====  ==========================================================  =====================
G      P_G W                                                       P_G b
=====  ==========================================================  =====================
O(3)   tr(W)/3 1                                                   0
O(2)a  (tr W - W_aa)/2 (1 - a a^T) + W_aa a a^T                    a a^T b
SO(2)a the same + (W_yx - W_xy)/2 (the turn by 90 degrees)         a a^T b
=====  ==========================================================  =====================

(x, y the plane across the axis.) Strengths are found by themselves: after a number of updates the smallest R of every
group is kept over as many more, then lambda_G <- lambda_G / (R_G / min R)^power, once: the symmetries that the data
violates least weigh most.

Reference: Kim et al. 2023, "Regularizing Towards Soft Equivariance Under Mixed Symmetries" (projection-based
equivariance regularizer); the closed forms and the head are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from scidiff.assets import suggestion
from scidiff.configurable import Configurable
from scidiff.testing import random_rotation
from trajectories.networks.egtn import EGTN

__all__ = [
    "GROUPS",
    "ProjectionPenalty",
    "SoftEGTN",
    "VectorLinear",
    "projected",
    "relative_equivariance_error",
    "sample_penalty",
]

_AXES = {"x": 0, "y": 1, "z": 2}
GROUPS = ("O(3)", *(f"{kind}{axis}" for kind in ("O(2)", "SO(2)") for axis in _AXES))
"""Groups by name: all rotations and reflections, and those about an axis, with and without reflections."""
_TINY = 1e-12


def projected(weight: Tensor, bias: Tensor | None, group: str) -> tuple[Tensor, Tensor | None]:
    """P_G of weights (..., 3, ..., 3), out of the head (outputs, 3, inputs, 3), and of a bias (outputs, 3).

    Raises:
        ValueError: If the group is unknown.
    """
    if group not in GROUPS:
        raise ValueError(f"no group {group!r}{suggestion(group, list(GROUPS))}.")
    blocks = weight.transpose(1, 2)  # (outputs, inputs, 3, 3)
    one = torch.eye(3, dtype=weight.dtype, device=weight.device)
    trace = blocks.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    if group == "O(3)":
        return (trace / 3 * one).transpose(1, 2), None if bias is None else torch.zeros_like(bias)
    k = _AXES[group[-1]]
    along = torch.diag(one[k])
    own = blocks[..., k, k][..., None, None]
    result = (trace - own) / 2 * (one - along) + own * along
    if group.startswith("SO"):
        i, j = (k + 1) % 3, (k + 2) % 3
        turn = torch.zeros_like(one)
        turn[i, j], turn[j, i] = -1.0, 1.0
        result = result + ((blocks[..., j, i] - blocks[..., i, j]) / 2)[..., None, None] * turn
    return result.transpose(1, 2), None if bias is None else bias * one[k]


class VectorLinear(nn.Module):
    """Any linear map between stacked vectors: (..., inputs, 3) -> (..., outputs, 3), with a bias.

    Args:
        inputs: Vectors in.
        outputs: Vectors out.
        gain: Standard deviation of the first weights times sqrt(3 inputs).
    """

    def __init__(self, inputs: int, outputs: int, gain: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(gain * torch.randn(outputs, 3, inputs, 3) / (3 * inputs) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(outputs, 3))

    def forward(self, v: Tensor) -> Tensor:
        """Apply the map."""
        return torch.einsum("oaib,...ib->...oa", self.weight, v) + self.bias


class ProjectionPenalty(Configurable, nn.Module):
    """sum_G lambda_G R_G of the `VectorLinear` layers of a module, with strengths that set themselves.

    Args:
        groups: Names in `GROUPS`.
        strength: lambda of every group at first.
        power: How strongly violated symmetries lose.
        warmup: Updates before the smallest violations are kept, and updates over which they are.

    Raises:
        ValueError: If a group is unknown or a number is out of range.

    Attributes:
        strengths: lambda (groups,).
        smallest: Smallest R of each group since the warm-up.
    """

    strengths: Tensor
    smallest: Tensor
    updates: Tensor

    def __init__(
        self,
        groups: Sequence[str] = ("O(3)", "O(2)x", "O(2)y", "O(2)z"),
        *,
        strength: float = 1.0,
        power: float = 1.0,
        warmup: int = 50,
    ) -> None:
        super().__init__()
        for group in groups:
            projected(torch.zeros(1, 3, 1, 3), None, group)
        if strength <= 0 or power < 0 or warmup < 1:
            raise ValueError(f"expected strength > 0, power >= 0, warmup >= 1, got {strength}, {power}, {warmup}.")
        self.groups, self.power, self.warmup = tuple(groups), power, warmup
        self.register_buffer("strengths", torch.full((len(self.groups),), float(strength)))
        self.register_buffer("smallest", torch.full((len(self.groups),), torch.inf))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def violations(self, module: nn.Module) -> Tensor:
        """R of each group (groups,), summed over the layers of ``module``."""
        layers = [layer for layer in module.modules() if isinstance(layer, VectorLinear)]
        totals = []
        for group in self.groups:
            parts = []
            for layer in layers:
                weight, bias = projected(layer.weight, layer.bias, group)
                assert bias is not None
                parts.append((layer.weight - weight).square().sum() + (layer.bias - bias).square().sum())
            totals.append(0.5 * torch.stack(parts).sum())
        return torch.stack(totals)

    def forward(self, module: nn.Module) -> Tensor:
        """The penalty of ``module``; a call in training counts as an update."""
        found = self.violations(module)
        if self.training:
            with torch.no_grad():
                self.updates += 1
                lower = torch.minimum(self.smallest, found.to(self.smallest))
                self.smallest.copy_(torch.where(self.updates > self.warmup, lower, self.smallest))
                ratio = (self.smallest + _TINY) / (self.smallest.min() + _TINY)
                is_due = self.updates == 2 * self.warmup
                self.strengths.copy_(torch.where(is_due, self.strengths / ratio**self.power, self.strengths))
        return (self.strengths.to(found) * found).sum()


class SoftEGTN(Configurable, nn.Module):
    """An equivariant `EGTN` plus a small free head on vectors, for data whose symmetry is broken or not known.

    The head sees the steps to the frames before and after and the way from the last given position of each node, and
    adds a displacement: two `VectorLinear` maps with a gate between that depends on lengths only, so that it is
    equivariant exactly as far as its weights are. Its last weights start at 0.

    Symmetry: translations; of rotations, what the penalty leaves.

    Args:
        network: The equivariant network, in three dimensions.
        penalty: Penalty of the head.
        channels: Vectors between the two maps.

    References: see `trajectories.soft`.
    """

    symmetry = "translations"

    def __init__(self, network: EGTN, penalty: ProjectionPenalty | None = None, *, channels: int = 8) -> None:
        super().__init__()
        self.network = network
        self.regulariser = penalty if penalty is not None else ProjectionPenalty()
        self.first, self.last = VectorLinear(3, channels), VectorLinear(channels, 1, gain=0.0)
        self.gate = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Displacement (B, F, N, 3); arguments as for `EGTN`."""
        steps = torch.diff(x_t, dim=1)
        none = torch.zeros_like(x_t[:, :1])
        before, after = torch.cat([none, steps], 1), torch.cat([steps, none], 1)
        v = self.first(torch.stack([before, after, x_t - _anchor(x_t, cond.get("given"))], -2))
        size = (v.square().sum(-1) + _TINY).sqrt()
        moved = self.last(v * torch.sigmoid(self.gate(size))[..., None])[..., 0, :]
        mask = cond.get("node_mask")
        if mask is not None:
            moved = torch.where(mask[:, None, :, None], moved, 0)
        return self.network(x_t, t, cond) + moved

    def penalty(self) -> Tensor:
        """The penalty of the head, added to the loss in training."""
        return self.regulariser(nn.ModuleList([self.first, self.last]))


def sample_penalty(function: Callable[[Tensor], Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
    """E |f(g x) - g f(x)|^2 / E |f(x)|^2 for one random rotation or reflection g, for any network.

    Args:
        function: From positions (B, ..., D) to displacements (B, ..., D).
        x: Positions.
        generator: Source of g.
    """
    coin = bool(torch.rand((), generator=generator) < 0.5)
    turn = random_rotation(generator, torch.float64, x.shape[-1], reflect=coin).to(x)
    plain = function(x)
    return (function(x @ turn.T) - plain @ turn.T).square().mean() / plain.square().mean().clamp_min(_TINY)


@torch.no_grad()
def relative_equivariance_error(function: Callable[[Tensor], Tensor], x: Tensor, turn: Tensor) -> float:
    """|f(g x) - g f(x)| / (|f(g x)| + |g f(x)|), in [0, 1], for one orthogonal matrix g."""
    turned, plain = function(x @ turn.T), function(x) @ turn.T
    return float((turned - plain).norm() / (turned.norm() + plain.norm()).clamp_min(_TINY))


def _anchor(x_t: Tensor, given: Tensor | None) -> Tensor:
    """Last given position of each node, (B, 1, N, 3); the first frame for nodes that are never given."""
    if given is None:
        return x_t[:, :1]
    frames = torch.arange(x_t.shape[1], device=x_t.device)[:, None]
    last = torch.where(given, frames, 0).amax(1)
    return x_t.gather(1, last[:, None, :, None].expand(-1, 1, -1, x_t.shape[-1]))
