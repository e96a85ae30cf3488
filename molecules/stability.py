"""Atom and molecule stability under the named protocols: EDM, legacy MiDi, corrected.

An atom is stable if its valence is allowed by a table; a molecule is stable if all its atoms are. The protocols
differ in where the bonds come from and in the table:

- ``edm``: bonds are read off distances, order = 1 + [d < B2 + 5] + [d < B3 + 3] (nested, pm) if d < B1 + 10.
- ``legacy``: explicit bonds, but an aromatic bond counts 1 and an unlisted charge is judged as charge 0.
- ``corrected``: explicit bonds; the pair (aromatic bonds, sum of the other orders) has to be listed for (element,
  charge).

Real molecules do not all pass ``edm`` (95.2 % of the QM9 test molecules do), and molecules that no chemist would draw
do pass ``legacy``: H-O-H with aromatic bonds is water there. All functions take padded numpy arrays, or tensors on
any device, and never write to them. Padding has atomic number 0.

References: Hoogeboom et al. 2022 (EDM); Vignac et al. 2023 (MiDi); Nikitin et al. 2025, "GEOM-Drugs Revisited".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from molecules import stability_tables as tables
from molecules.batches import padded_batches
from molecules.chemistry import CHEMIST_VALENCES, QM9_VALENCES, MoleculeRecord, number_of

__all__ = [
    "CORRECTED_TABLES",
    "Stability",
    "corrected_stability",
    "edm_bond_orders",
    "edm_stability",
    "legacy_stability",
    "set_stability",
]

CORRECTED_TABLES = ("chemist", "qm9", "kekulised", "aromatic")
"""Names of the tables of `corrected_stability`."""

_MAX_NUMBER = 119
_CHARGE_OFFSET = 8
_MAX_AROMATIC = 6
_MAX_VALENCE = 10
_AROMATIC_CODES = (4, 1.5)


class Stability(NamedTuple):
    """Which atoms and molecules are stable.

    ``atom_stable`` and ``atom_mask`` have shape (B, n), ``molecule_stable`` (B,); padding is never stable, and a
    molecule without atoms is not stable.
    """

    atom_stable: np.ndarray
    atom_mask: np.ndarray
    molecule_stable: np.ndarray

    @property
    def atom_share(self) -> float:
        """Stable atoms / all atoms, NaN for an empty set."""
        atoms = int(self.atom_mask.sum())
        return float(self.atom_stable.sum()) / atoms if atoms else float("nan")

    @property
    def molecule_share(self) -> float:
        """Stable molecules / all molecules, NaN for an empty set."""
        return float(self.molecule_stable.mean()) if len(self.molecule_stable) else float("nan")


def edm_bond_orders(numbers: Any, pos: Any) -> np.ndarray:
    """Bond orders from distances by the EDM table.

    A pair that the table does not list is not bonded. The source lists the C=S double bond for one order of the two
    atoms only; here the table is symmetric (a difference on GEOM-Drugs, none on QM9).

    Args:
        numbers: (..., n) int, atomic numbers, 0 = padding.
        pos: (..., n, 3) float, angstrom; a NaN coordinate gives no bond.

    Returns:
        (..., n, n) int8 symmetric orders 0 to 3 with zero diagonal.
    """
    numbers, pos = _array(numbers).astype(np.int64), _array(pos).astype(np.float64)
    squared = np.zeros((*numbers.shape, numbers.shape[-1]))
    for axis in range(3):
        squared += (pos[..., :, None, axis] - pos[..., None, :, axis]) ** 2
    distance = 100.0 * np.sqrt(squared)
    codes = np.where((numbers >= 0) & (numbers < _MAX_NUMBER), numbers, 0)
    pairs = (codes[..., :, None], codes[..., None, :])
    single, double, triple = (distance < table[pairs] for table in _edm_thresholds())
    orders = single.astype(np.int8) * (1 + double.astype(np.int8) * (1 + triple.astype(np.int8)))
    diagonal = np.arange(numbers.shape[-1])
    orders[..., diagonal, diagonal] = 0
    return orders


def edm_stability(numbers: Any, pos: Any) -> Stability:
    """Stability of point clouds: bonds by `edm_bond_orders`, one valence list per element, charges ignored.

    Args:
        numbers: (B, n) int, atomic numbers, 0 = padding.
        pos: (B, n, 3) float, angstrom.
    """
    numbers = _array(numbers).astype(np.int64)
    return _judge(numbers, np.zeros_like(numbers), edm_bond_orders(numbers, pos), _lookup("edm"))


def legacy_stability(
    numbers: Any, formal_charge: Any, bonds: Any, *, unlisted_charge: Literal["neutral", "unstable"] = "neutral"
) -> Stability:
    """Stability as MiDi and EQGAT-diff report it, kept for comparison with their tables.

    The published code writes the aromatic order 1.5 into an integer tensor, where it becomes 1; this function counts
    aromatic bonds as 1 on purpose (and, unlike that code, leaves its input alone).

    Args:
        numbers: (B, n) int, atomic numbers, 0 = padding.
        formal_charge: (B, n) int.
        bonds: (B, n, n) orders 0 to 3, aromatic as 4 or 1.5.
        unlisted_charge: ``"neutral"`` judges an atom with an unlisted charge as neutral (MiDi, EQGAT-diff: a carbon of
            charge +5 with four bonds is stable), ``"unstable"`` rejects it (SemlaFlow, Megalodon).
    """
    bonds = _array(bonds)
    flattened = np.where(_is_aromatic(bonds), 1, bonds)
    return _judge(_array(numbers), _array(formal_charge), flattened, _lookup(f"legacy-{unlisted_charge}"))


def corrected_stability(
    numbers: Any, formal_charge: Any, bonds: Any, *, table: str = "chemist", explicit_h: bool = True
) -> Stability:
    """Stability with aromatic bonds counted as aromatic and no leniency for charges.

    ``"chemist"`` (default) judges atoms without aromatic bonds by `molecules.chemistry.CHEMIST_VALENCES` and atoms with
    aromatic bonds by the aromatic form; ``"qm9"`` holds the rows that QM9 needs; ``"kekulised"`` (FlowMol3) and
    ``"aromatic"`` (Revisited) are the published tables.

    Args:
        numbers: (B, n) int, atomic numbers, 0 = padding.
        formal_charge: (B, n) int.
        bonds: (B, n, n) orders 0 to 3, aromatic as 4 or 1.5.
        table: One of `CORRECTED_TABLES`.
        explicit_h: Whether all hydrogens are atoms; if False a valence may also lie below an allowed one, because
            hydrogens fill it.

    Raises:
        ValueError: If ``table`` is unknown or a bond order is neither 0, 1, 2, 3, 4 nor 1.5.
    """
    if table not in CORRECTED_TABLES:
        raise ValueError(f"table must be one of {', '.join(CORRECTED_TABLES)}, got {table!r}.")
    bonds = _array(bonds)
    known = np.isin(bonds, (0, 1, 2, 3, *_AROMATIC_CODES))
    if not known.all():
        raise ValueError(
            f"bonds must hold orders 0 to 3, or 4 (or 1.5) for aromatic, got {float(bonds[~known][0])}. "
            "Are these class indices of another vocabulary?"
        )
    return _judge(_array(numbers), _array(formal_charge), bonds, _lookup(table, open_valence=not explicit_h))


def set_stability(records: Sequence[MoleculeRecord], protocol: str = "corrected", **options: Any) -> tuple:
    """Stability of a set of records of any sizes.

    Args:
        records: The molecules; ``"edm"`` reads coordinates, the other protocols bonds and charges.
        protocol: ``"corrected"``, ``"legacy-midi"`` or ``"edm"``.
        options: Passed to the protocol's function (``table=``, ``unlisted_charge=``).

    Returns:
        ``(stable_atoms, molecule_stable)``: (N,) int number of stable atoms and (N,) bool, in the order of ``records``.

    Raises:
        ValueError: If the protocol is unknown.
    """
    if protocol not in ("corrected", "legacy-midi", "edm"):
        raise ValueError(f"protocol must be corrected, legacy-midi or edm, got {protocol!r}.")
    atoms, molecules = np.zeros(len(records), dtype=np.int64), np.zeros(len(records), dtype=bool)
    for batch in padded_batches(records):
        if protocol == "edm":
            result = edm_stability(batch.numbers, batch.pos)
        elif protocol == "legacy-midi":
            result = legacy_stability(batch.numbers, batch.formal_charge, batch.bonds, **options)
        else:
            explicit = np.array([records[i].explicit_h for i in batch.index])
            result = _corrected_mixed(batch, explicit, options)
        atoms[batch.index] = result.atom_stable.sum(-1)
        molecules[batch.index] = result.molecule_stable
    return atoms, molecules


def _corrected_mixed(batch: Any, explicit: np.ndarray, options: Mapping[str, Any]) -> Stability:
    """Corrected stability of a batch in which some records have implicit hydrogens."""
    arrays = (batch.numbers, batch.formal_charge, batch.bonds)
    if explicit.all():
        return corrected_stability(*arrays, **options)
    closed = corrected_stability(*arrays, **options)
    opened = corrected_stability(*arrays, explicit_h=False, **options)
    return Stability(
        np.where(explicit[:, None], closed.atom_stable, opened.atom_stable),
        closed.atom_mask,
        np.where(explicit, closed.molecule_stable, opened.molecule_stable),
    )


def _judge(numbers: np.ndarray, formal_charge: np.ndarray, bonds: np.ndarray, allowed: np.ndarray) -> Stability:
    """Look (element, charge, aromatic bonds, other orders) up; whatever lies outside the table is unstable."""
    numbers, formal_charge = numbers.astype(np.int64), formal_charge.astype(np.int64)
    aromatic = _is_aromatic(bonds)
    num_aromatic = aromatic.sum(-1)
    others = np.where(aromatic, 0, bonds).sum(-1, dtype=np.int64)
    mask = numbers > 0
    charge = formal_charge + _CHARGE_OFFSET
    inside = mask & (numbers < _MAX_NUMBER) & (charge >= 0) & (charge < 2 * _CHARGE_OFFSET)
    inside &= (num_aromatic <= _MAX_AROMATIC) & (others <= _MAX_VALENCE)
    key = (np.where(inside, values, 0) for values in (numbers, charge, num_aromatic, others))
    stable = allowed[tuple(key)] & inside
    return Stability(stable, mask, (stable | ~mask).all(-1) & mask.any(-1))


def _is_aromatic(bonds: np.ndarray) -> np.ndarray:
    """Aromatic bonds in either notation: the order 1.5 or the integer code 4."""
    return (bonds == _AROMATIC_CODES[0]) | (bonds == _AROMATIC_CODES[1])


def _array(values: Any) -> np.ndarray:
    """Numpy view of an array or of a tensor on any device; never written to."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


@cache
def _edm_thresholds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Upper distances (pm) of single, double, triple bonds, each (119, 119); -inf where the pair is not listed."""
    thresholds = []
    for table, margin in zip((tables.EDM_SINGLE, tables.EDM_DOUBLE, tables.EDM_TRIPLE), tables.EDM_MARGINS):
        limit = np.full((_MAX_NUMBER, _MAX_NUMBER), -np.inf)
        for first, row in table.items():
            for second, length in row.items():
                i, j = number_of(first), number_of(second)
                limit[i, j] = limit[j, i] = length + margin
        thresholds.append(limit)
    return thresholds[0], thresholds[1], thresholds[2]


@cache
def _lookup(name: str, open_valence: bool = False) -> np.ndarray:
    """Boolean table over (atomic number, charge + 8, aromatic bonds, sum of other orders)."""
    allowed = np.zeros((_MAX_NUMBER, 2 * _CHARGE_OFFSET, _MAX_AROMATIC + 1, _MAX_VALENCE + 1), dtype=bool)
    if name == "edm":
        _fill(allowed, {symbol: {0: row} for symbol, row in tables.EDM_VALENCE.items()})
    elif name.startswith("legacy"):
        _fill_legacy(allowed, keep_neutral=name.endswith("neutral"))
    elif name == "aromatic":
        _fill_aromatic(allowed)
    else:
        kekulised = {"chemist": CHEMIST_VALENCES, "qm9": QM9_VALENCES, "kekulised": tables.KEKULISED}[name]
        if name == "chemist":
            _fill_aromatic(allowed)
            allowed[:, :, 0] = False
        _fill(allowed, kekulised)
    if open_valence:
        allowed = np.logical_or.accumulate(allowed[..., ::-1], axis=-1)[..., ::-1]
    return allowed


def _fill(allowed: np.ndarray, table: Mapping[str, Mapping[int, Sequence[int]]]) -> None:
    """Enter valences of atoms without aromatic bonds."""
    for symbol, row in table.items():
        for charge, valences in row.items():
            allowed[number_of(symbol), charge + _CHARGE_OFFSET, 0, list(valences)] = True


def _fill_aromatic(allowed: np.ndarray) -> None:
    """Enter the pairs (aromatic bonds, other orders) of the aromatic form."""
    for symbol, row in tables.AROMATIC.items():
        for charge, pairs in row.items():
            for num_aromatic, valence in pairs:
                allowed[number_of(symbol), charge + _CHARGE_OFFSET, num_aromatic, valence] = True


def _fill_legacy(allowed: np.ndarray, keep_neutral: bool) -> None:
    """Enter the legacy table; ``keep_neutral`` judges unlisted charges by the row of charge 0."""
    for symbol, row in tables.LEGACY.items():
        number = number_of(symbol)
        if not isinstance(row, dict):
            allowed[number, :, 0, list(row)] = True
            continue
        if keep_neutral:
            allowed[number, :, 0, list(row[0])] = True
        for charge, valences in row.items():
            allowed[number, charge + _CHARGE_OFFSET, 0] = False
            allowed[number, charge + _CHARGE_OFFSET, 0, list(valences)] = True
