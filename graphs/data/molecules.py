"""SMILES as graphs of heavy atoms with kekulised bonds.

The encoding of Jo et al. 2022: the canonical SMILES without stereo is parsed again and kekulised; nodes are the heavy
atoms in the order of that molecule, edges carry the bond order 1, 2 or 3. Formal charges are lost unless they are asked
for, stereo always is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from rdkit import Chem, RDLogger

from graphs.data.attributes import Attributes
from graphs.data.graph_set import GraphSet

__all__ = ["ORGANIC", "from_smiles", "kekulized", "quiet"]

ORGANIC: tuple[str, ...] = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
"""Order of the atom classes; other elements follow by atomic number."""

_BONDS = ((1,), (2,), (3,))


def from_smiles(
    smiles: Iterable[str], *, charges: bool = False, elements: Sequence[str] | None = None, skip: bool = False
) -> GraphSet:
    """Graphs of molecules with the node attribute ``symbol`` (and ``charge``) and the edge attribute ``bond``.

    Args:
        smiles: One molecule each; hydrogens are left out.
        charges: Whether formal charges are part of the atom classes.
        elements: Order of the symbols; None takes those that occur, in the order of `ORGANIC`.
        skip: Leave out molecules that cannot be parsed or kekulised, and count them in ``meta["skipped"]``.

    Returns:
        The graphs; ``meta["kept"]`` lists the lines they come from if some were skipped.

    Raises:
        ValueError: If a molecule cannot be read, or has an element outside ``elements``.
    """
    atoms: list[list[tuple[int, int]]] = []
    bonds: list[list[tuple[int, int, int]]] = []
    kept, total = [], 0
    for line, text in enumerate(smiles):
        total += 1
        mol = kekulized(text)
        if mol is None:
            if skip:
                continue
            raise ValueError(f"line {line + 1} is no molecule that can be kekulised: {text.strip()[:80]!r}.")
        kept.append(line)
        atoms.append([(atom.GetAtomicNum(), atom.GetFormalCharge()) for atom in mol.GetAtoms()])
        bonds.append([(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()])
    if not atoms:
        raise ValueError("no molecule can be read: expected one SMILES a line.")
    numbers = np.array([number for part in atoms for number, _ in part])
    charge = np.array([value for part in atoms for _, value in part])
    flat = np.array([bond for part in bonds for bond in part], dtype=np.int64).reshape(-1, 3)
    names, classes, index = _atom_classes(numbers, charge if charges else None, elements)
    return GraphSet(
        np.array([len(part) for part in atoms]),
        np.array([len(part) for part in bonds]),
        flat[:, :2],
        node_label=index,
        edge_label=flat[:, 2],
        attributes=Attributes(node_names=names, node_classes=classes, edge_names=("bond",), edge_classes=_BONDS),
        meta={"skipped": total - len(kept), "kept": kept} if skip and len(kept) < total else {},
    )


def kekulized(smiles: str) -> Chem.Mol | None:
    """Molecule of the canonical SMILES without stereo, kekulised; None if it cannot be read or has no heavy atom."""
    with quiet():
        mol = Chem.MolFromSmiles(smiles.strip())
        if mol is None:
            return None
        mol = Chem.MolFromSmiles(Chem.MolToSmiles(mol, isomericSmiles=False))
        if mol is None or not mol.GetNumAtoms():
            return None
        mol = Chem.RemoveAllHs(mol)
        try:
            Chem.Kekulize(mol, clearAromaticFlags=True)
        except Chem.KekulizeException:
            return None
    return mol if mol.GetNumAtoms() else None


class quiet:  # noqa: N801 - reads as a statement
    """Silences RDKit's parser, whose complaints become ours."""

    def __enter__(self) -> None:
        RDLogger.DisableLog("rdApp.*")

    def __exit__(self, *_: object) -> None:
        RDLogger.EnableLog("rdApp.*")


def _atom_classes(
    numbers: np.ndarray, charge: np.ndarray | None, elements: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[tuple, ...], np.ndarray]:
    """Names, classes and indices of atoms; elements in the order asked for, charges ascending inside an element."""
    table = Chem.GetPeriodicTable()
    present = {table.GetElementSymbol(int(number)): int(number) for number in np.unique(numbers)}
    rank = {symbol: k for k, symbol in enumerate(ORGANIC)}
    order = sorted(present, key=lambda s: (rank.get(s, len(rank)), present[s])) if elements is None else list(elements)
    outside = sorted(set(present) - set(order))
    if outside:
        raise ValueError(f"the molecules have the elements {', '.join(outside)}, outside {', '.join(order)}.")
    place = np.zeros(200, dtype=np.int64)
    for k, symbol in enumerate(order):
        place[table.GetAtomicNumber(symbol)] = k
    if charge is None:
        return ("symbol",), tuple((symbol,) for symbol in order), place[numbers]
    pairs, index = np.unique(np.stack([place[numbers], charge], axis=1), axis=0, return_inverse=True)
    return ("symbol", "charge"), tuple((order[k], c) for k, c in pairs.tolist()), index.reshape(-1)
