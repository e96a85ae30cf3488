"""Noise laws, the spaces they live on, and the source that draws them.

A law (`scidiff.laws.GaussianNoise`) says how unit noise is distributed; a space (`Free`, `ZeroMean`, `Symmetric`,
`Masked`) says which numbers of a state are noised and how they are tied. Masks are read from ``cond``, never from a
constructor, so the same process serves ragged batches. A `NoiseSource` gives every sample its own streams: the noise of
a sample depends on its seed, the component and the number of the draw, not on the batch or on padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scidiff import random
from scidiff.brownian import BrownianPath
from scidiff.configurable import Configurable
from scidiff.laws import GaussianNoise, NoiseLaw

__all__ = ["Compose", "Free", "GaussianNoise", "Masked", "NoiseLaw", "NoiseSource", "Space", "Symmetric", "ZeroMean"]

Cond = Mapping[str, Any] | None
NODE_MASK = "node_mask"


class Space(Configurable):
    """Which numbers of a state (B, ...) carry noise, and how they are tied. The base class is the free space."""

    def live(self, x: Tensor, cond: Cond) -> Tensor | None:
        """True where an independent number is drawn, broadcastable to ``x``; None if everywhere."""
        return None

    def fixed(self, x: Tensor, cond: Cond) -> Tensor | None:
        """True where the state keeps a given value, broadcastable to ``x``; None if nowhere."""
        return None

    def project(self, x: Tensor, cond: Cond) -> Tensor:
        """Orthogonal projection of noise, predictions and gradients (B, ...) onto the space."""
        return x

    def arrange(self, values: Tensor, cond: Cond) -> Tensor:
        """Place independent numbers, zero outside ``live``, into the space (mirror, centre)."""
        return self.project(values, cond)

    def mirror(self, x: Tensor) -> Tensor:
        """Copy independent numbers (B, ...) of any dtype to the entries that are tied to them."""
        return x

    def total(self, values: Tensor, cond: Cond) -> Tensor:
        """Sum (B,) of elementwise ``values`` over the independent numbers: each pair once, padding never."""
        live = self.live(values, cond)
        values = values if live is None else torch.where(live, values, 0)
        return values.reshape(len(values), -1).sum(1)

    def count(self, x: Tensor, cond: Cond) -> Tensor:
        """Number (B,) of entries that `total` sums over."""
        return self.total(torch.ones_like(x), cond)

    def dims(self, x: Tensor, cond: Cond) -> Tensor:
        """Dimension (B,) of the space for each sample."""
        return self.count(x, cond)


class Free(Space):
    """All numbers are independent. Entries outside ``cond[mask]`` (True = real, axes 0.. of the state) are padding.

    Args:
        mask: Key of the mask in ``cond``; ignored when ``cond`` lacks it.
    """

    def __init__(self, mask: str = NODE_MASK) -> None:
        self.mask = mask

    def live(self, x: Tensor, cond: Cond) -> Tensor | None:
        return _mask_like(cond, self.mask, x)

    def project(self, x: Tensor, cond: Cond) -> Tensor:
        live = self.live(x, cond)
        return x if live is None else torch.where(live, x, 0)


class ZeroMean(Free):
    """Vectors whose mean over the elements vanishes: the translation-free space of point clouds, (n - 1) d dimensions.

    Args:
        axes: Axes that are averaged over; (1,) for (B, N, d), (1, 2) for trajectories (B, N, F, d) centred as a whole.
        mask: Key of the mask in ``cond`` over the leading axes (B, N) or (B, N, F).
    """

    def __init__(self, axes: Sequence[int] = (1,), mask: str = NODE_MASK) -> None:
        super().__init__(mask)
        self.axes = tuple(axes)

    def project(self, x: Tensor, cond: Cond) -> Tensor:
        return self.remove_mean(x, self.live(x, cond))

    def remove_mean(self, x: Tensor, live: Tensor | None) -> Tensor:
        """Subtract the mean over the ``live`` entries; zero elsewhere."""
        if live is None:
            return x - x.mean(self.axes, keepdim=True)
        x = torch.where(live, x, 0)
        count = live.expand(x.shape).sum(self.axes, keepdim=True).clamp_min(1)
        return torch.where(live, x - x.sum(self.axes, keepdim=True) / count, 0)

    def dims(self, x: Tensor, cond: Cond) -> Tensor:
        return self.count(x, cond) - self.count_means(x, self.live(x, cond))

    def count_means(self, x: Tensor, live: Tensor | None) -> Tensor:
        """Number (B,) of means that are removed: groups of averaged entries with at least one live entry."""
        is_live = torch.ones_like(x, dtype=torch.bool) if live is None else live.expand(x.shape)
        return is_live.any(self.axes).reshape(len(x), -1).sum(1).to(x.dtype)


class Symmetric(Space):
    """Symmetric matrices (B, N, N, ...) with a zero diagonal: one number an unordered pair of real nodes.

    Args:
        mask: Key of the node mask (B, N) in ``cond``.
    """

    def __init__(self, mask: str = NODE_MASK) -> None:
        self.mask = mask

    def live(self, x: Tensor, cond: Cond) -> Tensor | None:
        n = x.shape[1]
        upper = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)[None]
        mask = None if cond is None else cond.get(self.mask)
        if mask is not None:
            upper = upper & mask[:, :, None] & mask[:, None, :]
        return upper.reshape(upper.shape + (1,) * (x.ndim - 3))

    def project(self, x: Tensor, cond: Cond) -> Tensor:
        live = self.live(x, cond)
        assert live is not None
        return torch.where(live | live.transpose(1, 2), (x + x.transpose(1, 2)) / 2, 0)

    def arrange(self, values: Tensor, cond: Cond) -> Tensor:
        return values + values.transpose(1, 2)

    def mirror(self, x: Tensor) -> Tensor:
        """Copy the upper triangle to the lower one and clear the diagonal; keeps integers integers."""
        n = x.shape[1]
        upper = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        upper = upper.reshape((1, n, n) + (1,) * (x.ndim - 3))
        half = torch.where(upper, x, torch.zeros_like(x))
        return half + half.transpose(1, 2)


class Masked(Space):
    """Only entries where ``cond[mask]`` is True are noised; the others keep their given value.

    Args:
        mask: Key of the mask in ``cond``, over the leading axes of the state.
        invert: Noise the entries where the mask is False instead (a mask of observed values).
    """

    def __init__(self, mask: str = "live", invert: bool = False) -> None:
        self.mask, self.invert = mask, invert

    def live(self, x: Tensor, cond: Cond) -> Tensor | None:
        mask = _mask_like(cond, self.mask, x)
        return ~mask if mask is not None and self.invert else mask

    def fixed(self, x: Tensor, cond: Cond) -> Tensor | None:
        live = self.live(x, cond)
        return None if live is None else ~live

    def project(self, x: Tensor, cond: Cond) -> Tensor:
        live = self.live(x, cond)
        return x if live is None else torch.where(live, x, 0)


class Compose(Space):
    """Intersection of spaces, projected from left to right; put `ZeroMean` or `Symmetric` last.

    `ZeroMean` averages over the entries that all spaces leave free: beside fixed entries the free ones have mean zero.

    Args:
        spaces: The spaces; not both `ZeroMean` and `Symmetric`.

    Raises:
        ValueError: If `ZeroMean` and `Symmetric` are mixed, which have no common projection here.
    """

    def __init__(self, spaces: Sequence[Space]) -> None:
        self.spaces = tuple(spaces)
        if any(isinstance(s, ZeroMean) for s in spaces) and any(isinstance(s, Symmetric) for s in spaces):
            raise ValueError(
                "Compose cannot mix ZeroMean and Symmetric: use one component for points and one for pairs."
            )

    def live(self, x: Tensor, cond: Cond) -> Tensor | None:
        masks = [m for m in (s.live(x, cond) for s in self.spaces) if m is not None]
        return None if not masks else _all(masks)

    def fixed(self, x: Tensor, cond: Cond) -> Tensor | None:
        masks = [~m for m in (s.fixed(x, cond) for s in self.spaces) if m is not None]
        return None if not masks else ~_all(masks)

    def project(self, x: Tensor, cond: Cond) -> Tensor:
        for space in self.spaces:
            if isinstance(space, ZeroMean):
                x = space.remove_mean(x, self.live(x, cond))
            else:
                x = space.project(x, cond)
        return x

    def arrange(self, values: Tensor, cond: Cond) -> Tensor:
        if any(isinstance(space, Symmetric) for space in self.spaces):
            return self.project(2 * values, cond)  # the lower triangle of ``values`` is zero
        return self.project(values, cond)

    def mirror(self, x: Tensor) -> Tensor:
        for space in self.spaces:
            x = space.mirror(x)
        return x

    def dims(self, x: Tensor, cond: Cond) -> Tensor:
        live, count = self.live(x, cond), self.count(x, cond)
        for space in self.spaces:
            if isinstance(space, ZeroMean):
                count = count - space.count_means(x, live)
        return count


class NoiseSource:
    """Random numbers for a batch of samples: own streams for each sample, or a recorded list.

    Args:
        seed: An int s (samples get (s, 0), (s, 1), ...), or one int or pair per sample.
        num_samples: Batch size.
        device: Where the numbers are made; the bits do not depend on it.
        recorded: Noises of an earlier run, one entry a draw, in order of use; replaces all random numbers.
        path: Brownian path that supplies the normal numbers while ``interval`` is set.

    Attributes:
        interval: Times (t, s) of the step that is drawn for, if it follows the path.
    """

    def __init__(
        self,
        seed: random.Seeds,
        num_samples: int,
        *,
        device: torch.device | str = "cpu",
        recorded: Sequence[Any] | None = None,
        path: BrownianPath | None = None,
    ) -> None:
        self.path = path
        self.interval: tuple[float, float] | None = None
        self._last: dict[str, tuple[float, Tensor]] = {}
        self.seeds = random.seed_table(seed, num_samples).to(device)
        self.recorded = None if recorded is None else list(recorded)
        self.history: list[Any] = []
        self._draws: dict[str, int] = {}

    def normal(self, like: Tensor, name: str = "", live: Tensor | None = None) -> Tensor:
        """Independent N(0, 1) numbers of the shape of ``like`` (B, ...) where ``live``, zero elsewhere."""
        if self.path is not None and self.interval is not None:
            return self._spread(self._increment(self.path, *self.interval, name, like[0].numel()), like, live)
        return self._place(random.standard_normal, like, name, live)

    def uniform(self, like: Tensor, name: str = "", live: Tensor | None = None) -> Tensor:
        """Independent U(0, 1) numbers of the shape of ``like`` (B, ...) where ``live``, zero elsewhere."""
        numbers = self._place(random.uniform, like, name, live)
        return numbers.clamp_max(1 - torch.finfo(numbers.dtype).eps / 2)  # rounding may reach 1

    def replay(self) -> Any:
        """Next recorded noise.

        Raises:
            ValueError: If more draws are asked for than were recorded.
        """
        assert self.recorded is not None
        index = len(self.history)
        if index >= len(self.recorded):
            raise ValueError(
                f"the recorded noise has {len(self.recorded)} draws, but draw {index + 1} was asked for. "
                "Was it recorded with the same solver, steps and state?"
            )
        self.history.append(self.recorded[index])
        return self.recorded[index]

    def _place(self, make: Any, like: Tensor, name: str, live: Tensor | None) -> Tensor:
        draw = self._draws.get(name, 0)
        self._draws[name] = draw + 1
        return self._spread(make(self.seeds, random.stream_id(name), draw, like[0].numel()), like, live)

    def _increment(self, path: BrownianPath, t: float, s: float, name: str, num_elements: int) -> Tensor:
        """(W(t) - W(s))/sqrt(t - s); the value at s is kept for the step that follows."""
        upper, lower = path.round(t), path.round(s)
        if upper == lower:
            raise ValueError(
                f"the Brownian path does not resolve [{s:.9g}, {t:.9g}]; use more levels than {path.levels}."
            )
        known_at, value = self._last.get(name, (None, None))
        if known_at != upper or value is None or value.shape[1] != num_elements:
            value = path.value(self.seeds, name, upper, num_elements)
        below = path.value(self.seeds, name, lower, num_elements)
        self._last[name] = (lower, below)
        return (value - below) / math.sqrt(upper - lower)

    def _spread(self, flat: Tensor, like: Tensor, live: Tensor | None) -> Tensor:
        """Numbers (B, n) in the dtype and shape of ``like``: the k-th live element takes the k-th number."""
        dtype = like.dtype if like.dtype.is_floating_point else torch.get_default_dtype()
        flat = flat.to(dtype)
        if live is None:
            return flat.reshape(like.shape)
        mask = live.expand(like.shape).reshape(len(like), -1)
        rank = (mask.cumsum(1) - 1).clamp_min(0)
        return torch.where(mask, flat.gather(1, rank), 0).reshape(like.shape)


def _mask_like(cond: Cond, key: str, x: Tensor) -> Tensor | None:
    mask = None if cond is None else cond.get(key)
    return None if mask is None else mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))


def _all(masks: list[Tensor]) -> Tensor:
    result = masks[0]
    for mask in masks[1:]:
        result = result & mask
    return result
