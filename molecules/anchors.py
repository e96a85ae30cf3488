r"""Molecules with fixed atoms: their state, their denoiser, and random parts to train on.

Atoms named by ``cond["fixed"]`` (B, N) keep their positions and classes, the pairs in ``cond["fixed_pair"]`` (B, N, N)
their bonds. Such a molecule lives in the frame of its fixed atoms, their mean at the origin: where the whole molecule
has its centre is not known when only a part is given. Noise of the other atoms is then not centred. Molecules without
fixed atoms live in the zero-mean space as ever, so one network learns both.

References: Igashov et al. 2024 (DiffLinker: the frame of the given fragments).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import one_hot

from scidiff import random
from scidiff.couplings import Coupling, EquivariantOT
from scidiff.denoiser import Denoiser, Prediction
from scidiff.noise import Compose, Free, Masked, Symmetric, ZeroMean
from scidiff.process import State, Times

__all__ = [
    "Anchored",
    "AnchoredOT",
    "MoleculeDenoiser",
    "centred_on_fixed",
    "held_pairs",
    "held_sites",
    "random_parts",
]

_NEVER = -1e4  # logit of a class that cannot be predicted; finite, so that differences of logits stay numbers
Cond = Mapping[str, Any] | None


class Anchored(ZeroMean):
    """Positions (B, N, 3): fixed atoms keep theirs; the mean is removed from molecules without fixed atoms only.

    Without ``fixed`` in ``cond`` this is the zero-mean space.

    Args:
        fixed: Key of the mask of fixed atoms (B, N) in ``cond``.
        mask: Key of the mask of real atoms.
    """

    def __init__(self, fixed: str = "fixed", mask: str = "node_mask") -> None:
        super().__init__(mask=mask)
        self.key = fixed

    def live(self, x: Tensor, cond: Cond) -> Tensor | None:
        live, fixed = super().live(x, cond), self.fixed(x, cond)
        if fixed is None:
            return live
        return ~fixed if live is None else live & ~fixed

    def fixed(self, x: Tensor, cond: Cond) -> Tensor | None:
        fixed = None if cond is None else cond.get(self.key)
        return None if fixed is None else fixed[..., None]

    def project(self, x: Tensor, cond: Cond) -> Tensor:
        live, fixed = self.live(x, cond), self.fixed(x, cond)
        centred = self.remove_mean(x, live)
        if fixed is None:
            return centred
        assert live is not None
        return torch.where(fixed.any(1, keepdim=True), torch.where(live, x, 0), centred)

    def dims(self, x: Tensor, cond: Cond) -> Tensor:
        fixed, dims = self.fixed(x, cond), super().dims(x, cond)
        return dims if fixed is None else torch.where(fixed.flatten(1).any(1), self.count(x, cond), dims)


def held_sites() -> Compose:
    """Space of the classes of atoms, those in ``cond["fixed"]`` held."""
    return Compose([Free(), Masked("fixed", invert=True)])


def held_pairs() -> Compose:
    """Space of the bonds, those in ``cond["fixed_pair"]`` held."""
    return Compose([Symmetric(), Masked("fixed_pair", invert=True)])


class MoleculeDenoiser(Denoiser):
    """A `Denoiser` of molecules that knows fixed atoms and mask classes.

    Fixed atoms are clean at every time: they are predicted where they are, and an earlier prediction that the network
    is shown says so, too. The mask class of an absorbing prior is never predicted.

    Args:
        network: As for `Denoiser`, like the other common arguments.
        process: Schedules, laws and spaces.
        prediction: What the network predicts.
        self_conditioning: Whether the network takes its earlier prediction.
        heuristic: Allow methods that are only approximate.
        masked: Components whose last class is the mask.
    """

    def __init__(
        self,
        network: Any,
        process: Any,
        prediction: str | Mapping[str, str] = "x0",
        self_conditioning: bool = False,
        heuristic: bool = False,
        masked: Sequence[str] = (),
    ) -> None:
        super().__init__(network, process, prediction, self_conditioning, heuristic)
        self.masked = tuple(masked)

    def forward(self, x_t: State, t: Times, cond: Cond = None, x_1: State | None = None) -> Prediction:
        """See `Denoiser`; ``cond`` may have ``fixed`` (B, N) and ``fixed_pair`` (B, N, N)."""
        fixed = None if cond is None else cond.get("fixed")
        if fixed is None or cond is None:
            prediction = super().forward(x_t, t, cond, x_1)
        else:
            assert isinstance(x_t, dict)
            assert isinstance(t, Tensor)
            if self.self_conditioning:
                cond = {**cond, "self_cond": self._known(x_t, cond)}
            own = torch.where(fixed, 0, t[:, None])
            prediction = super().forward(x_t, {**dict.fromkeys(x_t, t), "pos": own}, cond, x_1)
        if not self.masked:
            return prediction
        hidden = {name: _without_last(prediction.logits[name]) for name in self.masked}
        return prediction.replace(logits=hidden)

    def _inputs(self, states: Any, times: Any, ends: Any, t: Times) -> tuple[dict[str, Tensor], Times]:
        """The network sees the time of the free atoms."""
        inputs, time = super()._inputs(states, times, ends, t)
        return inputs, time["atom"] if isinstance(time, Mapping) else time

    def _known(self, x_t: Mapping[str, Tensor], cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """The earlier prediction (zeros if there is none), with what is fixed in its place."""
        previous = cond.get("self_cond") or {}
        known: dict[str, Tensor] = {}
        for name, x in x_t.items():
            mask = cond["fixed_pair" if name == "bond" else "fixed"][..., None]
            dtype = x_t["pos"].dtype
            value = x if name == "pos" else one_hot(x, self.process.discrete[name].num_classes).to(dtype)
            known[name] = torch.where(mask, value, previous.get(name, torch.zeros_like(value)))
        return known


class AnchoredOT(Coupling):
    """`EquivariantOT` for molecules without fixed atoms; beside fixed atoms the free ones are assigned, nothing turned.

    Fixed atoms tell the directions apart, so noise that was turned onto the molecule would betray where it lies; which
    of the exchangeable free atoms has which noise betrays nothing.
    """

    def __init__(self) -> None:
        self._whole = EquivariantOT()

    def couple(self, x_0: Tensor, x_1: Tensor, cond: Cond = None) -> Tensor:
        coupled = self._whole.couple(x_0, x_1, cond)
        fixed = None if cond is None else cond.get("fixed")
        if fixed is None or cond is None:
            return coupled
        free, rows = cond["node_mask"] & ~fixed, fixed.any(1)
        order = np.tile(np.arange(x_0.shape[1]), (len(x_0), 1))
        cost = -(x_0.double() @ x_1.double().transpose(1, 2)).cpu().numpy()
        for k in torch.nonzero(rows).flatten().tolist():
            index = np.flatnonzero(free[k].cpu().numpy())
            order[k, index] = index[linear_sum_assignment(cost[k][np.ix_(index, index)])[1]]
        assigned = x_1.gather(1, torch.as_tensor(order, device=x_1.device)[..., None].expand_as(x_1))
        return torch.where(rows[:, None, None], assigned, coupled)


def centred_on_fixed(pos: Tensor, fixed: Tensor) -> Tensor:
    """``pos`` (B, N, 3) moved so that the mean of the fixed atoms (B, N) is 0; unmoved where no atom is fixed."""
    weight = fixed[..., None].to(pos.dtype)
    return pos - (pos * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)


def random_parts(
    bond: Tensor, node_mask: Tensor, share: float, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Random fixed parts of molecules to train on: ``fixed`` (B, N) and ``fixed_pair`` (B, N, N).

    A molecule of n >= 2 atoms is chosen with probability ``share``. A connected group of 1 to n - 1 atoms grows from a
    random atom along bonds. With equal chances the group is fixed (a scaffold to grow), or all others are (ends to
    link: mostly several fragments).

    Args:
        bond: Bond classes (B, N, N), 0 = none.
        node_mask: Real atoms (B, N).
        share: Probability that a molecule has fixed atoms.
        generator: Source of the random numbers.
    """
    b, n = node_mask.shape
    u = random.drawn(torch.rand, (b, n + 3), generator=generator, device=bond.device)
    count = node_mask.sum(1)
    goal = (1 + u[:, 0] * (count - 1)).long().clamp(max=n)
    score = torch.where(node_mask, u[:, 3:], -1.0)
    group = one_hot(score.argmax(1), n).bool()
    for size in range(1, n - 1):
        edge = ((bond > 0) & group[:, None]).any(2) & ~group & node_mask
        best = torch.where(edge, score, -1.0).argmax(1)
        grows = edge.any(1) & (goal > size)
        group = group | (one_hot(best, n).bool() & grows[:, None])
    fixed = torch.where((u[:, 1] < 0.5)[:, None], group, node_mask & ~group)
    fixed = fixed & ((u[:, 2] < share) & (count > 1))[:, None]
    return {"fixed": fixed, "fixed_pair": fixed[:, :, None] & fixed[:, None]}


def _without_last(logits: Tensor) -> Tensor:
    return torch.cat([logits[..., :-1], torch.full_like(logits[..., -1:], _NEVER)], -1)
