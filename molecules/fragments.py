"""Fixed parts of a molecule: a scaffold to grow, fragments to link, atoms that must stay.

The fixed atoms come first in every sampled molecule. While sampling, their positions are only a shape, moved and turned
to where the model predicts them; afterwards each molecule is laid onto the given coordinates.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem, rdBase
from torch import Tensor

from molecules.data.spec import MoleculeSpec
from molecules.records import AROMATIC, MoleculeRecord, kekulise, record_of
from scidiff.guidance import Observation

__all__ = ["Fixed", "fixed_parts", "fixed_state", "laid_onto", "observations", "read_part", "scaffold_atoms"]

_FREE_TURN = 1e-7  # decides between equally good turns; tilts others by as many radians

Fixed = Chem.Mol | MoleculeRecord
"""A molecule whose atoms are fixed: an RDKit molecule with a conformer, or a record with coordinates."""


def fixed_parts(
    fixed: Fixed | Sequence[Fixed], atoms: Sequence[int] | None, n: int, spec: MoleculeSpec
) -> list[MoleculeRecord]:
    """The fixed part of each of ``n`` molecules in the vocabulary of a model.

    Args:
        fixed: One part for all, or one for each molecule. Hydrogens are left out for a model without them.
        atoms: Atoms to keep, as indices of the given part (before hydrogens are left out); None keeps all.
        n: Number of molecules.
        spec: Vocabulary.

    Raises:
        TypeError: If a part is neither an RDKit molecule nor a record.
        ValueError: If a part has no coordinates, no atoms, or leaves the vocabulary, or an index is out of range.
    """
    given = [fixed] * n if isinstance(fixed, Fixed) else list(fixed)
    wrong = [type(part).__name__ for part in given if not isinstance(part, Fixed)]
    if wrong:
        raise TypeError(f"fixed must be an RDKit molecule or a MoleculeRecord (or one a sample), got {wrong[0]}.")
    if len(given) != n:
        raise ValueError(f"fixed must be one molecule, or one for each of the {n} samples, got {len(given)}.")
    known: dict[int, MoleculeRecord] = {}
    for part in given:
        if id(part) not in known:
            known[id(part)] = _prepared(part, atoms, spec)
    return [known[id(part)] for part in given]


def read_part(path: str | Path, keep: str = "all") -> Chem.Mol:
    """The fixed part in an SDF: one molecule (a scaffold to decorate, a seed to grow), or several to be linked.

    Args:
        path: SDF with coordinates; several molecules keep their relative pose.
        keep: ``"all"`` atoms, or the ``"scaffold"`` of each molecule, see `scaffold_atoms`.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a molecule cannot be read or has no coordinates, there is none, or none has a ring to keep.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist. Expected an SDF with the part that every molecule contains.")
    with rdBase.BlockLogs():
        mols = list(Chem.SDMolSupplier(str(path), removeHs=False))
    if not mols or any(mol is None or not mol.GetNumConformers() for mol in mols):
        raise ValueError(f"{path} must hold one or more readable molecules with coordinates.")
    whole = functools.reduce(Chem.CombineMols, mols)
    if keep == "all":
        return whole
    atoms = scaffold_atoms(whole)
    if not atoms:
        raise ValueError(f"{path} has no ring, so it has no scaffold; keep all atoms instead.")
    rest = sorted(set(range(whole.GetNumAtoms())) - set(atoms), reverse=True)
    part = Chem.RWMol(whole)
    Chem.Kekulize(part, clearAromaticFlags=True)
    for atom in rest:
        part.RemoveAtom(atom)
    return part.GetMol()


def scaffold_atoms(mol: Chem.Mol) -> list[int]:
    """Atoms of the rings and of the chains between them: what is left when ends are cut off again and again.

    References: Bemis and Murcko 1996 (molecular frameworks, without exocyclic double bonds here).
    """
    left = set(range(mol.GetNumAtoms()))
    neighbours = {atom.GetIdx(): {other.GetIdx() for other in atom.GetNeighbors()} for atom in mol.GetAtoms()}
    while ends := {atom for atom in left if len(neighbours[atom] & left) <= 1}:
        left -= ends
    return sorted(left)


def fixed_state(
    parts: Sequence[MoleculeRecord], width: int, spec: MoleculeSpec, scale: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Padded state of ``width`` atoms, the parts first and zeros elsewhere, and the masks ``fixed``, ``fixed_pair``.

    Positions (B, N, 3) are over ``scale`` angstrom, ``atom`` and ``charge`` (B, N) and ``bond`` (B, N, N) classes.
    """
    b = len(parts)
    pos, classes = torch.zeros(b, width, 3), torch.zeros(2, b, width, dtype=torch.long)
    bond = torch.zeros(b, width, width, dtype=torch.long)
    node = torch.zeros(b, width, dtype=torch.bool)
    for row, part in enumerate(parts):
        k = len(part)
        node[row, :k] = True
        assert part.pos is not None
        pos[row, :k] = torch.as_tensor(part.pos / scale, dtype=torch.float32)
        classes[0, row, :k] = torch.as_tensor(spec.atom_index(part.numbers))
        classes[1, row, :k] = torch.as_tensor(spec.charge_index(part.formal_charge))
        bond[row, :k, :k] = torch.as_tensor(part.bonds)
    state = {"pos": pos, "atom": classes[0], "charge": classes[1], "bond": bond}
    return state, {"fixed": node, "fixed_pair": node[:, :, None] & node[:, None, :]}


def observations(parts: Sequence[MoleculeRecord], width: int, spec: MoleculeSpec) -> list[Observation]:
    """What is known of a padded batch of ``width`` atoms: positions over ``spec.pos_std``, classes and inner bonds."""
    state, masks = fixed_state(parts, width, spec, spec.pos_std)
    return [
        Observation(masks["fixed_pair" if name == "bond" else "fixed"], y=y, component=name)
        for name, y in state.items()
    ]


def laid_onto(record: MoleculeRecord, part: MoleculeRecord) -> MoleculeRecord:
    """``record`` moved and turned so that its first atoms coincide with those of ``part``; handedness is kept.

    Around an axis on which all atoms of the part lie, the smallest turn is taken.

    References: Kabsch 1976.
    """
    assert record.pos is not None
    assert part.pos is not None
    k = len(part)
    center, goal = record.pos[:k].mean(0), part.pos.mean(0)
    product = (record.pos[:k] - center).T @ (part.pos - goal)
    u, _, vh = np.linalg.svd(product + _FREE_TURN * max(np.abs(product).max(), 1.0) * np.eye(3))
    sign = np.array([1.0, 1.0, np.linalg.det(u @ vh)])
    pos = (record.pos - center) @ (u * sign) @ vh + goal
    pos[:k] = part.pos
    return replace(record, pos=pos)


def _prepared(part: Fixed, atoms: Sequence[int] | None, spec: MoleculeSpec) -> MoleculeRecord:
    record = _record(part, spec)
    if record.pos is None or not np.isfinite(record.pos).all():
        raise ValueError("the fixed part needs finite coordinates, e.g. by rdkit's AllChem.EmbedMolecule.")
    if atoms is not None:
        if not len(atoms) or min(atoms) < 0 or max(atoms) >= len(record) or len(set(atoms)) < len(atoms):
            raise ValueError(f"fixed_atoms are different indices from 0 to {len(record) - 1}, got {list(atoms)}.")
        record = record.take(atoms)
    if not spec.explicit_h:
        record = record.without_hydrogens()
    elif not record.explicit_h:
        raise ValueError(
            "the model has explicit hydrogens, but the fixed part lacks some: add them with coordinates "
            "(Chem.AddHs(mol, addCoords=True)) and leave those out of fixed_atoms that new atoms replace."
        )
    if not len(record):
        raise ValueError("the fixed part has no atoms left. Which atoms should be kept?")
    unknown = (spec.atom_index(record.numbers) < 0) | (spec.charge_index(record.formal_charge) < 0)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise ValueError(
            f"fixed atom {row} (atomic number {record.numbers[row]}, charge {record.formal_charge[row]}) is outside "
            f"the vocabulary of the model: {' '.join(spec.elements)} with charges {list(spec.charges)}."
        )
    return record


def _record(part: Fixed, spec: MoleculeSpec) -> MoleculeRecord:
    """Record with the bond orders of the model: single, double, triple unless it knows aromatic bonds."""
    if isinstance(part, MoleculeRecord):
        return kekulise(part) if not spec.aromatic and (part.bonds == AROMATIC).any() else part
    mol = Chem.Mol(part)
    if not spec.aromatic:
        Chem.Kekulize(mol, clearAromaticFlags=True)
    return record_of(mol)
