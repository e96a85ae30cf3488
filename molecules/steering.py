r"""Steering a trained model without training: temperature of the classes, and goals for the geometry.

A goal is an energy of the predicted molecule: at every step x0 <- x0 + scale P dJ/dx0 with J = -(value - goal)^2
(`scidiff.guidance.Energy`), so that the positions drift towards the goal while the model keeps them plausible.

References: Bansal et al. 2023, "Universal guidance for diffusion models" (guidance of the predicted end point).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance import Energy
from scidiff.guidance.base import Guidance, Point, Shift

__all__ = ["DistanceGoal", "GyrationGoal", "Temperature"]


class Temperature(Guidance):
    """Class probabilities p^(1/T), normalised: below 1 likelier atoms and bonds, above 1 more variety.

    Args:
        temperature: T, above 0.

    Raises:
        ValueError: If T is not above 0; when wrapping, if the model has no categorical components.
    """

    def __init__(self, temperature: float) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}.")
        self.temperature = float(temperature)

    def check(self, den: Denoiser) -> None:
        """Refuse models whose types are not categorical."""
        if not den.process.discrete:
            raise ValueError("temperature acts on class probabilities, but the types of this model are Gaussian.")

    def shift(self, point: Point) -> Shift:
        """(1/T - 1) logits."""
        return {name: (1 / self.temperature - 1) * logits for name, logits in point.prediction.logits.items()}


class GyrationGoal(Energy):
    """Radius of gyration (equal weights of all atoms of the model) towards a goal.

    Args:
        goal: Wished radius in angstrom.
        unit: Angstrom per unit of the positions, ``generator.recipe.scale(generator.spec)``.
        strength: Share of the error that a step removes, in (0, 1].

    Raises:
        ValueError: If ``goal`` is not above 0 or ``strength`` lies outside (0, 1].
    """

    def __init__(self, goal: float, unit: float, strength: float = 0.2) -> None:
        _check(goal, strength)
        self.goal = goal / unit
        # J = -n (R - goal)^2 has dJ/dx = -2 (R - goal) x/R, so that a step s changes R by -2 s (R - goal)
        super().__init__(self._reward, scale=0.5 * strength)

    def _reward(self, x0: Mapping[str, Tensor]) -> Tensor:
        pos = x0["pos"]
        live = (pos.detach().abs().sum(-1, keepdim=True) > 0).to(pos.dtype)  # padding is at the origin exactly
        count = live.sum((1, 2)).clamp_min(1)
        centred = (pos - (pos * live).sum(1, keepdim=True) / count[:, None, None]) * live
        radius = (centred.square().sum((1, 2)) / count).clamp_min(1e-8).sqrt()
        return -count * (radius - self.goal) ** 2


class DistanceGoal(Energy):
    """Distance of two atoms, by index, towards a goal: the ends of a linker, a ring to be closed.

    Args:
        first: Index of one atom.
        second: Index of the other.
        goal: Wished distance in angstrom.
        unit: Angstrom per unit of the positions, ``generator.recipe.scale(generator.spec)``.
        strength: Share of the error that a step removes, in (0, 1].

    Raises:
        ValueError: If ``goal`` is not above 0 or ``strength`` lies outside (0, 1].
    """

    def __init__(self, first: int, second: int, goal: float, unit: float, strength: float = 0.2) -> None:
        _check(goal, strength)
        self.atoms, self.goal = (first, second), goal / unit
        # each end moves by 2 s (d - goal), the distance changes by -4 s (d - goal)
        super().__init__(self._reward, scale=0.25 * strength)

    def _reward(self, x0: Mapping[str, Tensor]) -> Tensor:
        first, second = (x0["pos"][:, k] for k in self.atoms)
        distance = (first - second).square().sum(-1).clamp_min(1e-8).sqrt()
        return -((distance - self.goal) ** 2)


def _check(goal: float, strength: float) -> None:
    if not goal > 0 or not 0 < strength <= 1:
        raise ValueError(f"a goal needs goal > 0 and strength in (0, 1], got {goal} and {strength}.")
