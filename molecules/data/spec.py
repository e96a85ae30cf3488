"""What a model has to know about its data: vocabularies, sizes, marginals, scales.

A `MoleculeSpec` is built from a dataset, never typed in: settings left over from another set are the commonest error
with own data. It is saved in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from torch import Tensor

from molecules.atom_features import ATOM_FEATURES
from molecules.data.dataset import MoleculeDataset
from molecules.elements import BOND_CLASSES, number_of, symbol_of
from molecules.records import AROMATIC
from scidiff.configurable import Configurable, config_of

__all__ = ["MoleculeSpec"]

_VOCABULARY = ("elements", "charges", "explicit_h", "aromatic")


@dataclass(frozen=True, repr=False)
class MoleculeSpec(Configurable):
    """Vocabulary and statistics of a set of molecules; plain numbers, ready for JSON.

    Shares are over the molecules the spec was built from (the training part). Indices of a model are positions in
    ``elements`` and ``charges``; bond classes are their own index.

    Args:
        elements: Element symbols by atomic number.
        charges: Formal charges, ascending.
        explicit_h: Whether hydrogens are atoms.
        aromatic: Whether bonds have a fifth class "aromatic".
        sizes: Number of molecules by number of atoms.
        atom_marginal: Share of each element among all atoms.
        charge_marginal: Share of each charge among all atoms.
        charge_given_atom: One row an element, shares of the charges.
        bond_marginal: Share of each bond class among all unordered pairs of atoms, none included.
        pos_std: Standard deviation of a coordinate in angstrom, molecules centred on their atoms.
        valences: Share of each sum of bond orders, by element and charge.
        properties: Mean and standard deviation of each property, if any.
        atom_features: Share of each class of each label of the atoms, if any, see `molecules.atom_features`.
        provenance: Origin: name, sha256 of the files, counts.
    """

    elements: tuple[str, ...]
    charges: tuple[int, ...]
    explicit_h: bool
    aromatic: bool
    sizes: dict[int, int]
    atom_marginal: tuple[float, ...]
    charge_marginal: tuple[float, ...]
    charge_given_atom: tuple[tuple[float, ...], ...]
    bond_marginal: tuple[float, ...]
    pos_std: float
    valences: dict[str, dict[int, dict[int, float]]]
    properties: dict[str, tuple[float, float]] = field(default_factory=dict)
    atom_features: dict[str, tuple[float, ...]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Accept what JSON gives back: lists for tuples, strings for integer keys."""
        for name in ("elements", "charges", "atom_marginal", "charge_marginal", "bond_marginal"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "charge_given_atom", tuple(tuple(row) for row in self.charge_given_atom))
        object.__setattr__(self, "sizes", {int(n): int(count) for n, count in self.sizes.items()})
        valences = {
            symbol: {int(charge): {int(v): float(p) for v, p in row.items()} for charge, row in rows.items()}
            for symbol, rows in self.valences.items()
        }
        object.__setattr__(self, "valences", valences)
        for name in ("properties", "atom_features"):
            object.__setattr__(self, name, {key: tuple(numbers) for key, numbers in getattr(self, name).items()})
        if len(self.atom_marginal) != len(self.elements) or len(self.charge_marginal) != len(self.charges):
            raise ValueError(
                f"a spec needs one share an element and a charge, got {len(self.atom_marginal)} for {self.elements} "
                f"and {len(self.charge_marginal)} for {self.charges}."
            )

    @classmethod
    def from_dataset(cls, dataset: MoleculeDataset, properties: Sequence[str] = ()) -> MoleculeSpec:
        """Spec of all molecules of a dataset, with these of its properties; give it the training part.

        Raises:
            ValueError: If the dataset is empty, or a property is not known or constant.
        """
        if not len(dataset):
            raise ValueError("a spec cannot be built from an empty dataset. Is the training part empty?")
        numbers, atom = np.unique(dataset.numbers, return_inverse=True)
        charges, charge = np.unique(dataset.formal_charge, return_inverse=True)
        joint = np.zeros((len(numbers), len(charges)))
        np.add.at(joint, (atom, charge), 1.0)
        aromatic = bool((dataset.bonds[:, 2] == AROMATIC).any())
        symbols = tuple(symbol_of(int(number)) for number in numbers)
        sizes, counts = np.unique(dataset.sizes, return_counts=True)
        meta = {key: dataset.meta[key] for key in ("name", "sha256") if key in dataset.meta}
        return cls(
            elements=symbols,
            charges=tuple(charges.tolist()),
            explicit_h=dataset.explicit_h,
            aromatic=aromatic,
            sizes=dict(zip(sizes.tolist(), counts.tolist())),
            atom_marginal=tuple((joint.sum(axis=1) / joint.sum()).tolist()),
            charge_marginal=tuple((joint.sum(axis=0) / joint.sum()).tolist()),
            charge_given_atom=tuple(map(tuple, (joint / joint.sum(axis=1, keepdims=True)).tolist())),
            bond_marginal=_bond_marginal(dataset, aromatic),
            pos_std=coordinate_std(dataset),
            valences=_valences(dataset, symbols, atom, charge, charges),
            properties={name: _moments(name, dataset.properties[name]) for name in properties},
            atom_features={name: _shares(classes, name) for name, classes in dataset.atom_features.items()},
            provenance={**meta, "molecules": len(dataset)},
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MoleculeSpec:
        """Inverse of `to_dict`, also after a trip through JSON; unknown keys are an error.

        Raises:
            ValueError: If keys are missing or unknown.
        """
        known = {item.name for item in fields(cls)}
        needed = known - {"properties", "atom_features", "provenance"}
        if not needed <= set(data) <= known:
            raise ValueError(f"a spec needs the keys {sorted(needed)}, got {sorted(data)}.")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data; integer keys become strings."""
        return {item.name: config_of(getattr(self, item.name)) for item in fields(self)}

    def to_config(self) -> dict[str, Any]:
        """Class path and arguments, as for every `scidiff.configurable.Configurable`."""
        return {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": self.to_dict()}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Atomic numbers of ``elements``."""
        return tuple(number_of(symbol) for symbol in self.elements)

    @property
    def bond_classes(self) -> tuple[str, ...]:
        """Names of the bond classes: none, single, double, triple and, if used, aromatic."""
        return BOND_CLASSES if self.aromatic else BOND_CLASSES[:AROMATIC]

    @property
    def num_atom_classes(self) -> int:
        """Number of elements."""
        return len(self.elements)

    @property
    def num_charge_classes(self) -> int:
        """Number of formal charges."""
        return len(self.charges)

    @property
    def num_bond_classes(self) -> int:
        """Number of bond classes, none included."""
        return len(self.bond_classes)

    @property
    def max_atoms(self) -> int:
        """Size of the largest molecule."""
        return max(self.sizes)

    def atom_index(self, numbers: np.ndarray) -> np.ndarray:
        """Positions in ``elements`` of atomic numbers, int64 of the same shape; -1 for other elements."""
        return _positions(np.asarray(self.numbers), numbers)

    def charge_index(self, charges: np.ndarray) -> np.ndarray:
        """Positions in ``charges`` of formal charges, int64 of the same shape; -1 for other charges."""
        return _positions(np.asarray(self.charges), charges)

    def normalised(self, values: Tensor) -> Tensor:
        """Properties (B, P), in the order of ``properties``, with mean 0 and standard deviation 1."""
        mean, std = (values.new_tensor([pair[k] for pair in self.properties.values()]) for k in (0, 1))
        return (values - mean) / std

    def has_vocabulary_of(self, other: MoleculeSpec) -> bool:
        """Whether classes mean the same in both: elements, charges, hydrogens, bond classes and labels of atoms."""
        is_same = all(getattr(self, name) == getattr(other, name) for name in _VOCABULARY)
        return is_same and set(self.atom_features) == set(other.atom_features)

    def covers(self, dataset: MoleculeDataset) -> np.ndarray:
        """(M,) bool, whether every atom of a molecule is in the vocabulary."""
        known = (self.atom_index(dataset.numbers) >= 0) & (self.charge_index(dataset.formal_charge) >= 0)
        outside = np.bincount(np.repeat(np.arange(len(dataset)), dataset.sizes)[~known], minlength=len(dataset))
        return outside == 0

    def __repr__(self) -> str:
        kind = "explicit" if self.explicit_h else "implicit"
        return (
            f"MoleculeSpec({' '.join(self.elements)}, charges {list(self.charges)}, {kind} hydrogens, "
            f"{sum(self.sizes.values())} molecules of {min(self.sizes)}-{self.max_atoms} atoms, "
            f"std {self.pos_std:.4f} A{''.join(f', {name}' for name in self.atom_features)})"
        )


def coordinate_std(dataset: MoleculeDataset) -> float:
    """Standard deviation of one coordinate in angstrom over all atoms, each molecule centred on its atoms.

    The uncentred file coordinates of QM9 give 1.724, which has been published as its scale; centred it is 1.398.
    """
    starts = dataset.offsets[:-1]
    pos = dataset.positions.astype(np.float64)
    mean = np.add.reduceat(pos, starts, axis=0) / dataset.sizes[:, None]
    centred = pos - np.repeat(mean, dataset.sizes, axis=0)
    return float(np.sqrt((centred**2).mean()))


def _bond_marginal(dataset: MoleculeDataset, aromatic: bool) -> tuple[float, ...]:
    pairs = int((dataset.sizes * (dataset.sizes - 1) // 2).sum())
    if not pairs:
        return (1.0, *[0.0] * (AROMATIC if aromatic else AROMATIC - 1))
    counts = np.bincount(dataset.bonds[:, 2], minlength=AROMATIC + 1)
    counts[0] = pairs - counts.sum()
    return tuple((counts[: AROMATIC + int(aromatic)] / pairs).tolist())


def _shares(classes: np.ndarray, name: str) -> tuple[float, ...]:
    """Share of each class of a label."""
    return tuple((np.bincount(classes, minlength=len(ATOM_FEATURES[name])) / len(classes)).tolist())


def _moments(name: str, values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the known values."""
    known = values[np.isfinite(values)].astype(np.float64)
    if len(known) < 2 or not known.std() > 0:
        raise ValueError(
            f"property {name!r} cannot be learnt: it is known for {len(known)} of {len(values)} training molecules, or "
            "is the same for all. Leave it out, or add a column with its values."
        )
    return float(known.mean()), float(known.std())


def _valences(
    dataset: MoleculeDataset, symbols: tuple[str, ...], atom: np.ndarray, charge: np.ndarray, charges: np.ndarray
) -> dict[str, dict[int, dict[int, float]]]:
    valence = dataset.valences()
    table: dict[str, dict[int, dict[int, float]]] = {}
    for a, symbol in enumerate(symbols):
        for c in np.unique(charge[atom == a]).tolist():
            values, counts = np.unique(valence[(atom == a) & (charge == c)], return_counts=True)
            shares = (counts / counts.sum()).tolist()
            table.setdefault(symbol, {})[int(charges[c])] = dict(zip(values.tolist(), shares))
    return table


def _positions(vocabulary: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of each value in an ascending vocabulary, -1 where it is missing."""
    values = np.asarray(values, dtype=np.int64)
    index = np.searchsorted(vocabulary, values).clip(max=len(vocabulary) - 1)
    return np.where(vocabulary[index] == values, index, -1)
