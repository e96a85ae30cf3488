"""Weights of one vocabulary for a model of another: classes are matched by name, others start as they are.

A network that can be adapted says by `class_axes` which weights count classes along which axis (`PairFormer` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from molecules.data.spec import MoleculeSpec

__all__ = ["ClassAxes", "Matched", "adapted_weights", "matched_classes", "new_classes"]

ClassAxes = Mapping[str, tuple[int, tuple[str, ...]]]
"""By name of a weight: the axis that counts classes, and the components whose classes follow each other there."""


class Matched(NamedTuple):
    """For each class of a component its place among the ``count`` classes of a checkpoint, -1 for a new one."""

    places: list[int]
    count: int


def matched_classes(own: MoleculeSpec, given: MoleculeSpec) -> dict[str, Matched]:
    """Where the classes of ``own`` stand in ``given``, by component.

    Hydrogens may be implicit in one and explicit in the other: a model that was pretrained without them, as Le et al.
    2024 (EQGAT-diff) do, can go on with them as a new element.

    Raises:
        ValueError: If bond classes differ: single and double bonds would mean something else.
    """
    if own.aromatic != given.aromatic:
        raise ValueError(
            f"the checkpoint has the bond classes {', '.join(given.bond_classes)}, but the data has "
            f"{', '.join(own.bond_classes)}. Prepare the data as for the checkpoint, or start anew."
        )
    names = {"atom": (own.elements, given.elements), "charge": (own.charges, given.charges)}
    names["bond"] = (own.bond_classes, given.bond_classes)
    return {
        component: Matched([known.index(name) if name in known else -1 for name in wanted], len(known))
        for component, (wanted, known) in names.items()
    }


def new_classes(own: MoleculeSpec, given: MoleculeSpec) -> list[str]:
    """Elements and charges of ``own`` that ``given`` has not."""
    elements = [symbol for symbol in own.elements if symbol not in given.elements]
    return elements + [f"charge {charge:+d}" for charge in own.charges if charge not in given.charges]


def adapted_weights(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], axes: ClassAxes, matched: Mapping[str, Matched]
) -> dict[str, Tensor]:
    """``given`` with the classes of ``own``: slices of matched classes are taken over, those of new ones are ``own``'s.

    Weights whose other axes differ are left as they are given.

    Args:
        own: Weights of the model that starts.
        given: Weights of the trained one.
        axes: Which weights count classes.
        matched: Result of `matched_classes`.
    """
    adapted = dict(given)
    for name, (axis, components) in axes.items():
        if name not in own or name not in given or _others(own[name], axis) != _others(given[name], axis):
            continue
        index = _places([matched[component] for component in components])
        known = torch.nonzero(index >= 0).flatten()
        value = own[name].detach().clone()
        adapted[name] = value.index_copy(axis, known, given[name].to(value).index_select(axis, index[known]))
    return adapted


def _others(weight: Tensor, axis: int) -> list[int]:
    """Lengths of all axes but one."""
    return [length for k, length in enumerate(weight.shape) if k != axis]


def _places(groups: list[Matched]) -> Tensor:
    """Places where the classes of several components follow each other."""
    places: list[int] = []
    start = 0
    for group in groups:
        places += [start + place if place >= 0 else -1 for place in group.places]
        start += group.count
    return torch.tensor(places)
