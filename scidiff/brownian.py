r"""A Brownian path that can be asked for any increment: stochastic solvers that agree across numbers of steps.

W(t) on [0, 1] is a virtual tree: W(1) is one draw, and the middle of an interval of length l is the mean of its ends
plus sqrt(l)/2 times a draw that is keyed by the place in the tree. Nothing is stored: the draws come from the same
counter-based generator as all other noise. A solver's step from t to s is given z = (W(t) - W(s))/sqrt(t - s), so that
runs on finer and finer grids converge to one solution of the SDE (strong convergence), sample by sample.

References: Gaines and Lyons 1997 (Brownian tree); Li et al. 2020, "Scalable Gradients for Stochastic Differential
Equations", section 4 (virtual Brownian tree).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scidiff import random
from scidiff.configurable import Configurable

__all__ = ["BrownianPath"]

_LEVELS = 20
_MAX_LEVELS = 31  # the 32-bit draw counter holds the place in the tree


class BrownianPath(Configurable):
    """Noise option of `sample`: ``sample(den, shape, solver="dpmpp_sde_2m", noise=BrownianPath())``.

    Only draws of steps down in time follow the path; the prior, corrections at one time and steps up are drawn as
    usual. All elements must share their times, which are rounded to multiples of 2^-levels; z keeps unit variance all
    the same.

    Args:
        levels: Depth of the tree, 1 to 31: the number of draws for one time.

    Raises:
        ValueError: If ``levels`` is out of range.
    """

    def __init__(self, levels: int = _LEVELS) -> None:
        if not 1 <= levels <= _MAX_LEVELS:
            raise ValueError(f"levels must lie in [1, {_MAX_LEVELS}], got {levels}.")
        self.levels = levels

    def round(self, t: float) -> float:
        """The nearest time that the tree knows."""
        return round(t * 2**self.levels) / 2**self.levels

    def value(self, seeds: Tensor, name: str, t: float, num_elements: int) -> Tensor:
        """W(t) of component ``name`` at the nearest known time, float64 (B, num_elements).

        Args:
            seeds: Table (B, 2) of `scidiff.random.seed_table`; each sample has its own path.
            name: Component; each has its own path.
            t: Time in [0, 1].
            num_elements: Numbers a sample.
        """
        stream = random.stream_id(f"{name}/brownian")
        index = round(t * 2**self.levels)
        left = torch.zeros(len(seeds), num_elements, dtype=torch.float64, device=seeds.device)
        right = random.standard_normal(seeds, stream, 0, num_elements).double()
        low, high, node = 0, 2**self.levels, 1  # node k of level l has the number 2^l + k
        if index in (low, high):
            return left if index == low else right
        while True:
            middle = (low + high) // 2
            spread = math.sqrt((high - low) / 2**self.levels) / 2
            value = (left + right) / 2 + spread * random.standard_normal(seeds, stream, node, num_elements).double()
            if index == middle:
                return value
            if index < middle:
                high, right, node = middle, value, 2 * node
            else:
                low, left, node = middle, value, 2 * node + 1
