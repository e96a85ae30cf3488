"""Structure diagrams of generated molecules as one PNG, failures marked.

A valid molecule is drawn from its connectivity, hydrogens folded in, with its SMILES below. A failed one stands on a
pale red ground with its reason; the offending atoms are red. It is drawn as it was generated: nothing is sanitised or
completed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from molecules.chemistry import MoleculeRecord, Verdict, assemble
from scidiff.files import atomic_path

if TYPE_CHECKING:
    from molecules.molecule_list import MoleculeList

__all__ = ["draw_grid", "grid_png"]

_INK = (0.25, 0.25, 0.25)
_RED = (0.76, 0.12, 0.12)
_PALE_RED = (1.0, 0.945, 0.94)
_HIGHLIGHT = (0.97, 0.45, 0.42)
_LEGEND_LENGTH = 32
_GAP = 4
_RULE = (226, 226, 226)


def draw_grid(
    mols: MoleculeList, path: str | Path, *, max_molecules: int = 24, columns: int = 6, cell: int = 260
) -> None:
    """Draw the first molecules of a list into a PNG file.

    Args:
        mols: The molecules; verdicts are computed where needed.
        path: Output file.
        max_molecules: Number of molecules drawn at most.
        columns: Molecules in a row.
        cell: Width of a picture in pixels.

    Raises:
        ValueError: If the list is empty or a number is below 1.
    """
    picture = grid_png(mols[:max_molecules], columns=columns, cell=cell)
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)


def grid_png(mols: MoleculeList, *, columns: int = 6, cell: int = 260) -> bytes:
    """The grid of all molecules of a list as PNG bytes; arguments as in `draw_grid`."""
    if not len(mols) or columns < 1 or cell < 1:
        raise ValueError(f"expected molecules, columns >= 1 and cell >= 1, got {len(mols)}, {columns} and {cell}.")
    panels = [_panel(record, verdict, cell) for record, verdict in zip(mols.records, mols.verdicts)]
    return _tile(panels, min(columns, len(panels)))


def _panel(record: MoleculeRecord, verdict: Verdict, cell: int) -> Image.Image:
    """One molecule with its legend."""
    drawer = rdMolDraw2D.MolDraw2DCairo(cell, cell)
    options = drawer.drawOptions()
    options.bondLineWidth = 2
    options.padding = 0.1
    options.legendFontSize = max(cell // 18, 9)
    options.fixedBondLength = cell / 7.0
    options.prepareMolsBeforeDrawing = False
    options.setLegendColour(_INK if verdict.valid else _RED)
    options.setHighlightColour(_HIGHLIGHT)
    options.highlightRadius = 0.35
    if not verdict.valid:
        options.setBackgroundColour(_PALE_RED)
    legend = verdict.smiles if verdict.valid else verdict.reason
    with rdBase.BlockLogs():
        mol, marked = _drawable(record, verdict)
        drawer.DrawMolecule(mol, legend=_shortened(legend or ""), highlightAtoms=marked, highlightBonds=[])
    drawer.FinishDrawing()
    return Image.open(io.BytesIO(drawer.GetDrawingText())).convert("RGB")


def _drawable(record: MoleculeRecord, verdict: Verdict) -> tuple[Chem.Mol, list[int]]:
    """Molecule with 2D coordinates and the atoms to mark."""
    if verdict.mol is not None:
        mol = Chem.RemoveHs(verdict.mol)
        mol.RemoveAllConformers()
        return rdMolDraw2D.PrepareMolForDrawing(mol, kekulize=True, addChiralHs=False), []
    try:
        mol = Chem.RWMol(assemble(record))
    except ValueError:
        return Chem.Mol(), []
    mol.RemoveAllConformers()
    for atom in mol.GetAtoms():
        atom.SetBoolProp("_marked", atom.GetIdx() in verdict.atoms)
    _fold_hydrogens(mol)
    mol.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(mol)
    rdDepictor.Compute2DCoords(mol)
    return mol.GetMol(), [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetBoolProp("_marked")]


def _fold_hydrogens(mol: Chem.RWMol) -> None:
    """Write ordinary hydrogens (one single bond to a heavy atom, not marked) into the label of that atom."""
    removable = []
    for atom in mol.GetAtoms():
        plain = atom.GetAtomicNum() == 1 and atom.GetDegree() == 1 and atom.GetFormalCharge() == 0
        if not plain or atom.GetBoolProp("_marked"):
            continue
        bond = atom.GetBonds()[0]
        neighbour = bond.GetOtherAtom(atom)
        if neighbour.GetAtomicNum() > 1 and bond.GetBondType() == Chem.BondType.SINGLE:
            neighbour.SetNumExplicitHs(neighbour.GetNumExplicitHs() + 1)
            removable.append(atom.GetIdx())
    for index in sorted(removable, reverse=True):
        mol.RemoveAtom(index)


def _shortened(text: str) -> str:
    return text if len(text) <= _LEGEND_LENGTH else text[: _LEGEND_LENGTH - 3] + "..."


def _tile(panels: Sequence[Image.Image], columns: int) -> bytes:
    """Panels in rows with thin rules between them."""
    width, height = panels[0].size
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP), "white")
    for index, panel in enumerate(panels):
        corner = (_GAP + index % columns * (width + _GAP), _GAP + index // columns * (height + _GAP))
        sheet.paste(Image.new("RGB", (width + 2, height + 2), _RULE), (corner[0] - 1, corner[1] - 1))
        sheet.paste(panel, corner)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
