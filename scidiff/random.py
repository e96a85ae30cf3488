"""Counter-based random numbers: every element of a draw is a pure function of (seed, component, draw, element).

Philox-4x32-10 in integer tensor arithmetic: no state, the same bits on every device, no loop over samples, and the
number that an element gets depends neither on the batch it is in nor on padding.

References: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 5.3; Box and Muller 1958.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from torch import Tensor

__all__ = ["Seeds", "drawn", "philox", "seed_pairs", "seed_table", "standard_normal", "stream_id", "uniform"]

Seeds = int | Sequence[int | tuple[int, int]]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_ROUNDS = 10


def seed_pairs(seed: Seeds, num_samples: int) -> list[tuple[int, int]]:
    """(seed, index) of each sample: an int s stands for (s, 0), (s, 1), ...; in a list, an int s is (s, 0).

    Raises:
        ValueError: If a list has another length than the batch.
    """
    if isinstance(seed, int | Integral):
        return [(int(seed), i) for i in range(num_samples)]
    rows = [(int(s), 0) if isinstance(s, int | Integral) else (int(s[0]), int(s[1])) for s in seed]
    if len(rows) != num_samples:
        raise ValueError(f"expected one seed or one per sample ({num_samples}), got {len(rows)} seeds.")
    return rows


def seed_table(seed: Seeds, num_samples: int) -> Tensor:
    """One Philox key a sample, int64 (B, 2), hashed from its `seed_pairs` so that no pattern of seeds collides.

    Raises:
        ValueError: If a list has another length than the batch.
    """
    rows = seed_pairs(seed, num_samples)
    words = torch.tensor([(a & _LOW, (a >> 32) & _LOW, b & _LOW, (b >> 32) & _LOW) for a, b in rows], dtype=torch.int64)
    seed_low, seed_high, index_low, index_high = words.reshape(num_samples, 4).unbind(1)
    zero = torch.zeros_like(seed_low)
    return torch.stack(philox((index_low, index_high, zero, zero), (seed_low, seed_high))[:2], dim=1)


def drawn(
    make: Callable[..., Tensor],
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Numbers of ``make`` (`torch.rand`, `torch.randn`), drawn where the generator lives and moved to ``device``.

    A generator on the CPU gives the same numbers for states on every device.
    """
    home = device if generator is None else generator.device
    return make(tuple(shape), generator=generator, dtype=dtype, device=home).to(home if device is None else device)


def stream_id(name: str) -> int:
    """Stable 32-bit number of a component name."""
    return zlib.crc32(name.encode())


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox-4x32-10: four counter words and two key words (int64 tensors holding uint32) to four random words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product_1 >> 32) & _LOW) ^ c1 ^ k0,
            product_1 & _LOW,
            ((product_0 >> 32) & _LOW) ^ c3 ^ k1,
            product_0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def uniform(keys: Tensor, stream: int, draw: int, num_elements: int) -> Tensor:
    """Uniform numbers in (0, 1), float64 (B, num_elements): row i depends on ``keys[i]``, stream and draw only."""
    words = torch.stack(_words(keys, stream, draw, num_elements), dim=-1)
    return ((words.double() + 0.5) / 2**32).flatten(1)[:, :num_elements]


def standard_normal(keys: Tensor, stream: int, draw: int, num_elements: int) -> Tensor:
    """Standard normal numbers rounded to float32, (B, num_elements); Box-Muller in float64, |z| < 6.8."""
    u = uniform(keys, stream, draw, num_elements + num_elements % 2).unflatten(1, (-1, 2))
    radius, angle = (-2 * u[..., 0].log()).sqrt(), 2 * math.pi * u[..., 1]
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    return pairs.flatten(1)[:, :num_elements].float()


def _words(keys: Tensor, stream: int, draw: int, num_elements: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    blocks = torch.arange((num_elements + 3) // 4, device=keys.device).expand(len(keys), -1)
    counter = (blocks, torch.full_like(blocks, draw), torch.full_like(blocks, stream), torch.zeros_like(blocks))
    return philox(counter, [word[:, None].expand_as(blocks) for word in keys.unbind(1)])
