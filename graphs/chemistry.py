"""Molecular graphs: from classes to molecules, valency correction, validity, uniqueness, novelty.

A generated graph is built bond by bond. "Valid" is the verdict on that molecule (valences only, RDKit's property
sanitisation); the correction lowers bonds until the valences fit and keeps the longest fragment. Figures are given for
both. SMILES are compared without stereo on both sides, which the graphs do not carry.

References: Zang and Wang 2020, "MoFlow" (the correction); Jo et al. 2022, "Score-based generative modeling of graphs
via the system of SDEs" (its use without and with correction).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from graphs.data.attributes import Attributes
from graphs.data.graph_set import GraphSet
from graphs.data.molecules import from_smiles, quiet
from graphs.vun import wl_hashes

__all__ = ["MoleculeVerdict", "canonical", "correct", "judge", "known_smiles", "molecule_figures"]

_BONDS = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
_VALENCE = {7: 3, 8: 2, 16: 2}  # atoms that take a charge when they have one bond more
_PROPERTIES = Chem.SanitizeFlags.SANITIZE_PROPERTIES


@dataclass(frozen=True)
class MoleculeVerdict:
    """What became of one graph.

    Attributes:
        valid: Whether the valences fit without correction.
        connected: Whether the graph has one fragment.
        raw_smiles: Canonical SMILES without correction, None if not valid.
        mol: Sanitised molecule without correction, None if not valid.
        corrected_smiles: Canonical SMILES of the longest fragment after correction, None if it cannot be read again.
        reason: Why it is not valid: the atom and its valence, such as ``"valence:C=5"``; empty if valid.
    """

    valid: bool
    connected: bool
    raw_smiles: str | None
    mol: Chem.Mol | None
    corrected_smiles: str | None
    reason: str


def judge(graphs: GraphSet) -> list[MoleculeVerdict]:
    """A verdict on every graph.

    Raises:
        ValueError: If the graphs are no molecules.
    """
    if not graphs.attributes.is_molecular:
        raise ValueError(
            "these graphs are no molecules: nodes need the attribute 'symbol' (and perhaps 'charge'), edges 'bond'."
        )
    with quiet():
        return [_judge(*_parts(graphs, k)) for k in range(len(graphs))]


def molecule_figures(
    verdicts: Sequence[MoleculeVerdict], training: set[str] | None = None, *, reference_denominator: bool = False
) -> dict[str, float]:
    """Shares: valid, connected, unique (of the valid), novel (of the unique), raw and corrected.

    Args:
        verdicts: Verdicts on the generated graphs.
        training: Canonical SMILES (`canonical`) of the training molecules; None leaves novelty out.
        reference_denominator: Divide validity by the number of molecules that survive the correction, as the reference
            code does, instead of all graphs.
    """
    count = len(verdicts)
    raw = [v.raw_smiles for v in verdicts if v.raw_smiles is not None]
    corrected = [v.corrected_smiles for v in verdicts if v.corrected_smiles is not None]
    figures = {
        "valid": sum(v.valid for v in verdicts) / max(1, len(corrected) if reference_denominator else count),
        "connected": sum(v.connected for v in verdicts) / max(1, count),
        "valid_and_connected": sum(v.valid and v.connected for v in verdicts) / max(1, count),
        "readable_after_correction": len(corrected) / max(1, count),
    }
    for name, smiles in (("", raw), ("_corrected", corrected)):
        distinct = set(smiles)
        figures[f"unique{name}"] = len(distinct) / max(1, len(smiles))
        if training is not None:
            figures[f"novel{name}"] = len(distinct - training) / max(1, len(distinct))
    return figures


def canonical(graphs: GraphSet) -> list[str | None]:
    """Canonical SMILES of real molecules, through the same encoding as generated ones; None where it fails."""
    return [verdict.raw_smiles for verdict in judge(graphs)]


def known_smiles(smiles: Iterable[str], training: GraphSet) -> set[str]:
    """Those of some canonical SMILES that are molecules of the training set, read through the same encoding.

    Only training graphs with the skeleton and the elements of one of the molecules are decoded.
    """
    asked = list(smiles)
    if not asked:
        return set()
    wanted = wl_hashes(_skeletons(from_smiles(asked, skip=True)))
    rows = np.flatnonzero(np.isin(wl_hashes(_skeletons(training)), wanted))
    return set(asked) & {text for text in canonical(training.subset(rows)) if text is not None}


def correct(mol: Chem.RWMol) -> Chem.RWMol:
    """Lower the highest bond of an atom with too many by one (or remove it), until all valences fit."""
    mol = Chem.RWMol(mol)
    while (problem := _problem(mol)) is not None:
        bonds = sorted(mol.GetAtomWithIdx(problem).GetBonds(), key=lambda b: b.GetBondTypeAsDouble(), reverse=True)
        if not bonds:
            break
        a, b, order = bonds[0].GetBeginAtomIdx(), bonds[0].GetEndAtomIdx(), int(bonds[0].GetBondTypeAsDouble())
        mol.RemoveBond(a, b)
        if order > 1:
            mol.AddBond(a, b, _BONDS[order - 1])
    return mol


def _skeletons(graphs: GraphSet) -> GraphSet:
    """Graphs with the symbols of the atoms only."""
    names, classes, labels = graphs.attributes.node_names, graphs.attributes.node_classes, graphs.node_label
    assert labels is not None
    symbols = np.array([str(row[names.index("symbol")]) for row in classes])
    known, number = np.unique(symbols, return_inverse=True)
    return GraphSet(
        graphs.sizes,
        graphs.num_edges,
        graphs.edges,
        node_label=number[labels],
        attributes=Attributes(node_names=("symbol",), node_classes=tuple((symbol,) for symbol in known.tolist())),
    )


def _parts(graphs: GraphSet, k: int) -> tuple[list[tuple[str, int | None]], list[tuple[int, int, int]]]:
    """(symbol, charge or None) of the atoms, and (i, j, order) of the bonds with i > j in row order."""
    names, classes = graphs.attributes.node_names, graphs.attributes.node_classes
    symbol, charge = names.index("symbol"), names.index("charge") if "charge" in names else None
    labels = graphs.node_label
    assert labels is not None
    known = [(str(row[symbol]), None if charge is None else int(row[charge])) for row in classes]
    atoms = [known[label] for label in labels[graphs.offsets[k] : graphs.offsets[k + 1]].tolist()]
    rows = slice(graphs.edge_offsets[k], graphs.edge_offsets[k + 1])
    orders = [int(values[0]) for values in graphs.attributes.edge_classes]
    pairs = zip(graphs.edges[rows].tolist(), graphs.classes()[rows].tolist())
    return atoms, sorted((max(i, j), min(i, j), orders[label - 1]) for (i, j), label in pairs)


def _judge(atoms: list[tuple[str, int | None]], bonds: list[tuple[int, int, int]]) -> MoleculeVerdict:
    mol = _built(atoms, bonds)
    problem = _problem(mol)
    reason = "" if problem is None else _reason(mol, problem)
    raw = _read(Chem.MolToSmiles(mol)) if problem is None else None
    connected = len(Chem.GetMolFrags(mol)) == 1
    fixed = Chem.MolToSmiles(mol if problem is None else correct(mol))
    longest = max(fixed.split("."), key=len)
    kept = raw if raw is not None and longest == fixed else _read(longest)
    return MoleculeVerdict(
        valid=problem is None,
        connected=connected,
        raw_smiles=None if raw is None else Chem.MolToSmiles(raw, isomericSmiles=False),
        mol=raw,
        corrected_smiles=None if kept is None else Chem.MolToSmiles(kept, isomericSmiles=False),
        reason=reason,
    )


def _built(atoms: list[tuple[str, int | None]], bonds: list[tuple[int, int, int]]) -> Chem.RWMol:
    """Molecule built bond by bond; N, O or S with exactly one bond too many gets the charge +1 if none is given."""
    mol = Chem.RWMol()
    for symbol, charge in atoms:
        atom = Chem.Atom(symbol)
        atom.SetFormalCharge(charge or 0)
        mol.AddAtom(atom)
    for i, j, order in bonds:
        mol.AddBond(i, j, _BONDS[order])
        problem = _problem(mol) if atoms[i][1] is None else None
        if problem is not None:
            atom = mol.GetAtomWithIdx(problem)
            if _explicit(atom) - _VALENCE.get(atom.GetAtomicNum(), 99) == 1:
                atom.SetFormalCharge(1)
    return mol


def _problem(mol: Chem.RWMol) -> int | None:
    """First atom whose valence is too high, None if all fit."""
    for problem in Chem.DetectChemistryProblems(mol, _PROPERTIES):
        if problem.GetType() == "AtomValenceException":
            return problem.GetAtomIdx()
    return None


def _explicit(atom: Chem.Atom) -> int:
    return int(sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds()))


def _reason(mol: Chem.RWMol, index: int) -> str:
    atom = mol.GetAtomWithIdx(index)
    charge = atom.GetFormalCharge()
    return f"valence:{atom.GetSymbol()}{f'{charge:+d}' if charge else ''}={_explicit(atom)}"


def _read(smiles: str) -> Chem.Mol | None:
    return Chem.MolFromSmiles(smiles) if smiles else None
