r"""Fake atoms: spare places of a molecule that a model may leave empty, so that it chooses the size by itself.

A molecule of n atoms gets m more, m uniform on 0..ceil(share n) - 1: of a class of their own after the elements,
neutral, without bonds, each at a random real atom plus N(0, 1 angstrom^2). After sampling they are deleted.

References: Dunn and Koes 2025 (FlowMol3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from molecules.data.spec import MoleculeSpec
from scidiff import random

__all__ = ["drawn_counts", "extended_marginals", "with_fake_atoms"]

_SPREAD = 1.0  # angstrom


def drawn_counts(sizes: np.ndarray, share: float, u: np.ndarray) -> np.ndarray:
    """Fake atoms of molecules of ``sizes`` atoms, from numbers ``u`` in [0, 1)."""
    choices = np.ceil(share * sizes)
    return np.minimum(np.floor(u * choices), np.maximum(choices - 1, 0)).astype(np.int64)


def extended_marginals(spec: MoleculeSpec, share: float) -> dict[str, tuple[float, ...]]:
    """Shares of the classes of atoms (the fake one last), charges and bonds when fake atoms are counted.

    Args:
        spec: Statistics of the real atoms.
        share: Largest number of fake atoms, as a share of the real ones.
    """
    atoms, fakes, pairs, more = 0.0, 0.0, 0.0, 0.0
    for n, count in spec.sizes.items():
        drawn = np.arange(max(1, math.ceil(share * n)))
        atoms, fakes = atoms + count * n, fakes + count * drawn.mean()
        pairs += count * n * (n - 1) / 2
        more += count * float(((n + drawn) * (n + drawn - 1) / 2).mean())
    real = atoms / (atoms + fakes)
    neutral = _neutral(spec)
    charge = [real * p + (1 - real) * (k == neutral) for k, p in enumerate(spec.charge_marginal)]
    bond = [p * pairs / more if more else p for p in spec.bond_marginal]
    bond[0] = 1 - sum(bond[1:])
    return {"atom": (*(real * p for p in spec.atom_marginal), 1 - real), "charge": tuple(charge), "bond": tuple(bond)}


def with_fake_atoms(
    batch: Mapping[str, Tensor], spec: MoleculeSpec, share: float, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """A padded batch (`molecules.data.batches.Batch`) with fake atoms behind all others, centred again."""
    mask, pos = batch["node_mask"], batch["pos"]
    b, n = mask.shape
    width = max(0, math.ceil(share * n) - 1)
    count = mask.sum(1)
    kind = {"generator": generator, "device": pos.device}
    u = random.drawn(torch.rand, (b, width + 1), **kind)
    choices = torch.ceil(share * count)
    drawn = (u[:, 0] * choices).floor().minimum((choices - 1).clamp_min(0))
    fake = torch.arange(width, device=pos.device) < drawn[:, None]
    parent = (u[:, 1:] * count[:, None]).long().clamp(max=n - 1)  # real atoms come first
    place = pos.gather(1, parent[..., None].expand(-1, -1, 3))
    place = place + _SPREAD * random.drawn(torch.randn, place.shape, dtype=pos.dtype, **kind)
    live = torch.cat([mask, fake], 1)
    points = torch.where(live[..., None], torch.cat([pos, place], 1), 0)
    mean = points.sum(1, keepdim=True) / live.sum(1)[:, None, None].clamp_min(1)
    classes = {"atom": spec.num_atom_classes, "charge": _neutral(spec)}
    sites = {name: torch.cat([batch[name], torch.where(fake, value, 0)], 1) for name, value in classes.items()}
    bond = F.pad(batch["bond"], (0, width, 0, width))
    pos = torch.where(live[..., None], points - mean, 0)
    return {**batch, **sites, "pos": pos, "bond": bond, "node_mask": live}


def _neutral(spec: MoleculeSpec) -> int:
    """Index of the charge nearest to 0."""
    return int(np.argmin(np.abs(np.array(spec.charges))))
