"""Many molecules in flat arrays: a row of offsets instead of a list of objects.

QM9 takes about 60 MB this way. The same arrays, compressed, are the prepared file.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molecules.records import MoleculeRecord
from scidiff.arrays import npz_keys, read_npz
from scidiff.files import atomic_path

__all__ = ["SPLITS", "MoleculeDataset"]

SPLITS: tuple[str, ...] = ("train", "valid", "test")
"""Names of the split codes 0, 1, 2."""

_REQUIRED = ("num_atoms", "numbers", "formal_charge", "positions", "num_bonds", "bonds")
_PROPERTY, _FEATURE = "property_", "feature_"  # prefixes of arrays of a prepared file
_FLAT = ("sizes", "numbers", "formal_charge", "positions", "num_bonds", "bonds")


class MoleculeDataset:
    """Molecules with bonds, charges and coordinates, stored flat.

    Molecule k owns the rows ``offsets[k]:offsets[k + 1]`` of the atom arrays (A rows in all) and
    ``bond_offsets[k]:bond_offsets[k + 1]`` of ``bonds`` (one row a bond).

    Args:
        num_atoms: (M,) atoms of each molecule.
        numbers: (A,) atomic numbers, stored as uint8.
        formal_charge: (A,) stored as int8.
        positions: (A, 3) angstrom, stored as float32, in the frame of the source (not centred).
        num_bonds: (M,) bonds of each molecule.
        bonds: (sum of num_bonds, 3) rows (i, j, order) with i < j local to the molecule and order 1..4.
        ids: (M,) int, numbers in the source (the GDB id for QM9); None counts from 0.
        split: (M,) uint8, 0 train, 1 valid, 2 test, or None.
        smiles: M canonical SMILES without hydrogens and stereo, or None.
        properties: Named numbers (M,) of the molecules, stored as float32; NaN where unknown.
        atom_features: Named classes (A,) of the atoms, stored as uint8, see `molecules.atom_features`.
        explicit_h: Whether all hydrogens are atoms.
        meta: Plain data about the origin: source, sha256, report of the cleaning.

    Raises:
        ValueError: If the lengths of the arrays disagree.
    """

    def __init__(
        self,
        num_atoms: np.ndarray,
        numbers: np.ndarray,
        formal_charge: np.ndarray,
        positions: np.ndarray,
        num_bonds: np.ndarray,
        bonds: np.ndarray,
        *,
        ids: np.ndarray | None = None,
        split: np.ndarray | None = None,
        smiles: Sequence[str] | None = None,
        properties: Mapping[str, np.ndarray] | None = None,
        atom_features: Mapping[str, np.ndarray] | None = None,
        explicit_h: bool = True,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.sizes = np.asarray(num_atoms, dtype=np.int64)
        self.num_bonds = np.asarray(num_bonds, dtype=np.int64)
        self.numbers = np.asarray(numbers, dtype=np.uint8)
        self.formal_charge = np.asarray(formal_charge, dtype=np.int8)
        self.positions = np.asarray(positions, dtype=np.float32)
        self.bonds = np.asarray(bonds, dtype=_index_type(self.sizes)).reshape(-1, 3)
        self.ids = np.arange(len(self.sizes)) if ids is None else np.asarray(ids, dtype=np.int64)
        self.split = None if split is None else np.asarray(split, dtype=np.uint8)
        self.smiles = None if smiles is None else list(smiles)
        self.properties = {str(name): np.asarray(v, dtype=np.float32) for name, v in (properties or {}).items()}
        self.atom_features = {str(name): np.asarray(v, dtype=np.uint8) for name, v in (atom_features or {}).items()}
        self.explicit_h = explicit_h
        self.meta = dict(meta or {})
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self.bond_offsets = np.concatenate([[0], np.cumsum(self.num_bonds)])
        self._check()

    @classmethod
    def from_records(cls, records: Iterable[MoleculeRecord], **kwargs: Any) -> MoleculeDataset:
        """Dataset of records, which must all have coordinates; ``kwargs`` as in the constructor.

        Raises:
            ValueError: If there is no record, one has no coordinates, or their ``explicit_h`` differ.
        """
        records = list(records)
        if not records:
            raise ValueError("a dataset needs at least one molecule, got none.")
        if any(record.pos is None for record in records):
            raise ValueError("every molecule of a dataset needs coordinates, got a record with pos=None.")
        if len({record.explicit_h for record in records}) > 1:
            raise ValueError("molecules with and without explicit hydrogens cannot be mixed in one dataset.")
        rows = [np.argwhere(np.triu(record.bonds)) for record in records]
        bonds = [np.column_stack([ij, r.bonds[ij[:, 0], ij[:, 1]]]) for ij, r in zip(rows, records)]
        return cls(
            np.array([len(record) for record in records]),
            np.concatenate([record.numbers for record in records]),
            np.concatenate([record.formal_charge for record in records]),
            np.concatenate([np.asarray(record.pos) for record in records]),
            np.array([len(row) for row in bonds]),
            np.concatenate(bonds),
            explicit_h=records[0].explicit_h,
            **kwargs,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[MoleculeDataset]) -> MoleculeDataset:
        """The molecules of several datasets in one; split, SMILES, properties and labels stay if every part has them.

        Raises:
            ValueError: If there is no part or their ``explicit_h`` differ.
        """
        if len({part.explicit_h for part in parts}) != 1:
            raise ValueError("expected at least one dataset, all with the same kind of hydrogens.")
        splits = [part.split for part in parts if part.split is not None]
        smiles = [part.smiles for part in parts if part.smiles is not None]
        named = {
            kind: {
                name: np.concatenate([getattr(part, kind)[name] for part in parts])
                for name in getattr(parts[0], kind)
                if all(name in getattr(part, kind) for part in parts)
            }
            for kind in ("properties", "atom_features")
        }
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in _FLAT),
            ids=np.concatenate([part.ids for part in parts]),
            split=np.concatenate(splits) if len(splits) == len(parts) else None,
            smiles=list(itertools.chain(*smiles)) if len(smiles) == len(parts) else None,
            **named,
            explicit_h=parts[0].explicit_h,
            meta=parts[0].meta,
        )

    @classmethod
    def from_npz(cls, path: str | Path) -> MoleculeDataset:
        """Read a prepared file.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is damaged or no prepared file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist. `scidiff molecules prepare` writes such files.")
        arrays = read_npz(path)
        missing = [key for key in _REQUIRED if key not in arrays]
        if missing:
            raise ValueError(
                f"{path} lacks the arrays {missing}: it is no prepared file. "
                "Run `scidiff molecules prepare` on it first."
            )
        smiles = bytes(arrays["smiles"]).decode("ascii").split("\n") if "smiles" in arrays else None
        meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
        return cls(
            **{key: arrays[key] for key in _REQUIRED},
            ids=arrays.get("ids"),
            split=arrays.get("split"),
            smiles=smiles,
            properties={key.removeprefix(_PROPERTY): arrays[key] for key in arrays if key.startswith(_PROPERTY)},
            atom_features={key.removeprefix(_FEATURE): arrays[key] for key in arrays if key.startswith(_FEATURE)},
            explicit_h=bool(arrays.get("explicit_h", True)),
            meta=meta,
        )

    @staticmethod
    def is_prepared(path: str | Path) -> bool:
        """Whether an npz file holds the arrays of a prepared file and the mark of one (``explicit_h``).

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is no npz archive.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist. `scidiff molecules prepare` writes such files.")
        return {*_REQUIRED, "explicit_h"} <= npz_keys(path)

    def save(self, path: str | Path) -> Path:
        """Write the prepared file (compressed npz) under a temporary name, then rename it.

        Raises:
            ValueError: If the name does not end in ``.npz``.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"a prepared file is named *.npz, got {str(path)!r}.")
        small = _index_type(self.sizes)
        arrays: dict[str, Any] = {
            "num_atoms": self.sizes.astype(small),
            "numbers": self.numbers,
            "formal_charge": self.formal_charge,
            "positions": self.positions,
            "num_bonds": self.num_bonds.astype(_index_type(self.num_bonds)),
            "bonds": self.bonds,
            "ids": self.ids.astype(np.int32),
            "explicit_h": np.array(self.explicit_h),
            "meta": np.array(json.dumps(self.meta)),
        }
        if self.split is not None:
            arrays["split"] = self.split
        arrays |= {_PROPERTY + name: values for name, values in self.properties.items()}
        arrays |= {_FEATURE + name: values for name, values in self.atom_features.items()}
        if self.smiles is not None:
            arrays["smiles"] = np.frombuffer("\n".join(self.smiles).encode("ascii"), dtype=np.uint8)
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)
        return Path(path)

    def __len__(self) -> int:
        return len(self.sizes)

    def record(self, index: int) -> MoleculeRecord:
        """Molecule ``index`` as a record, positions as in the source.

        Raises:
            IndexError: If there is no such molecule.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"the dataset has {len(self)} molecules, got index {index}.")
        index = index % len(self)
        atoms = slice(self.offsets[index], self.offsets[index + 1])
        i, j, order = self.bonds[self.bond_offsets[index] : self.bond_offsets[index + 1]].astype(np.int64).T
        bonds = np.zeros((self.sizes[index],) * 2, dtype=np.int64)
        bonds[i, j] = bonds[j, i] = order
        return MoleculeRecord(
            self.numbers[atoms], self.formal_charge[atoms], bonds, self.positions[atoms], self.explicit_h
        )

    def subset(self, which: np.ndarray | Sequence[int] | str) -> MoleculeDataset:
        """Some molecules, by indices, by a boolean mask, or a split by its name (``"train" | "valid" | "test"``).

        Raises:
            ValueError: If a split is asked of a dataset without one, or its name is unknown.
        """
        if isinstance(which, str):
            which = self.split_indices(which)
        which = np.asarray(which)
        index = np.flatnonzero(which) if which.dtype == bool else which.astype(np.int64)
        atoms = _rows(self.offsets, self.sizes, index)
        bonds = _rows(self.bond_offsets, self.num_bonds, index)
        return MoleculeDataset(
            self.sizes[index],
            self.numbers[atoms],
            self.formal_charge[atoms],
            self.positions[atoms],
            self.num_bonds[index],
            self.bonds[bonds],
            ids=self.ids[index],
            split=None if self.split is None else self.split[index],
            smiles=None if self.smiles is None else [self.smiles[k] for k in index],
            properties={name: values[index] for name, values in self.properties.items()},
            atom_features={name: values[atoms] for name, values in self.atom_features.items()},
            explicit_h=self.explicit_h,
            meta=self.meta,
        )

    def with_split(self, split: np.ndarray) -> MoleculeDataset:
        """The same molecules with another split, (M,) codes 0 train, 1 valid, 2 test.

        Raises:
            ValueError: If there is not one code a molecule, or a code is unknown.
        """
        split = np.asarray(split, dtype=np.uint8)
        if split.shape != (len(self),) or (len(split) and split.max() >= len(SPLITS)):
            raise ValueError(f"a split has {len(self)} codes in 0..{len(SPLITS) - 1}, got shape {split.shape}.")
        other = copy.copy(self)
        other.split = split
        return other

    def with_properties(self, properties: Mapping[str, np.ndarray]) -> MoleculeDataset:
        """The same molecules with these named numbers (M,) in place of the present ones.

        Raises:
            ValueError: If there is not one number a molecule.
        """
        other = copy.copy(self)
        other.properties = {str(name): np.asarray(v, dtype=np.float32) for name, v in properties.items()}
        other._check()
        return other

    def with_atom_features(self, features: Mapping[str, np.ndarray]) -> MoleculeDataset:
        """The same molecules with these classes (A,) of the atoms in place of the present ones.

        Raises:
            ValueError: If there is not one class an atom.
        """
        other = copy.copy(self)
        other.atom_features = {str(name): np.asarray(v, dtype=np.uint8) for name, v in features.items()}
        other._check()
        return other

    def split_indices(self, name: str) -> np.ndarray:
        """Indices of the molecules of a split, ascending.

        Raises:
            ValueError: If the dataset has no split or the name is unknown.
        """
        if name not in SPLITS:
            raise ValueError(f"a split is one of {', '.join(SPLITS)}, got {name!r}.")
        if self.split is None:
            raise ValueError("this dataset has no split. Prepare the file again with fractions, or pass indices.")
        return np.flatnonzero(self.split == SPLITS.index(name))

    def without_hydrogens(self) -> MoleculeDataset:
        """The heavy atoms alone, charges kept, as an implicit-hydrogen dataset; H2 alone vanishes."""
        heavy = self.numbers > 1
        owner = np.repeat(np.arange(len(self)), self.sizes)
        sizes = np.bincount(owner[heavy], minlength=len(self))
        before = np.concatenate([[0], np.cumsum(heavy)])[:-1]  # heavy atoms before each atom
        start = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        bond_owner = np.repeat(np.arange(len(self)), self.num_bonds)
        rows = self.bonds.astype(np.int64)
        first, second = self.offsets[bond_owner] + rows[:, 0], self.offsets[bond_owner] + rows[:, 1]
        keep = heavy[first] & heavy[second]
        local = [before[end[keep]] - start[bond_owner[keep]] for end in (first, second)]
        dataset = MoleculeDataset(
            sizes,
            self.numbers[heavy],
            self.formal_charge[heavy],
            self.positions[heavy],
            np.bincount(bond_owner[keep], minlength=len(self)),
            np.column_stack([*local, rows[keep, 2]]),
            ids=self.ids,
            split=self.split,
            smiles=self.smiles,
            properties=self.properties,
            atom_features={name: values[heavy] for name, values in self.atom_features.items()},
            explicit_h=False,
            meta=self.meta,
        )
        return dataset if sizes.all() else dataset.subset(sizes > 0)

    def bond_owners(self) -> np.ndarray:
        """(number of bonds,) the molecule of each row of ``bonds``."""
        return np.repeat(np.arange(len(self)), self.num_bonds)

    def valences(self) -> np.ndarray:
        """(A,) sum of the bond orders at each atom of the dataset; an aromatic bond counts 1.5, rounded at the end."""
        order = np.where(self.bonds[:, 2] == 4, 1.5, self.bonds[:, 2])
        start = self.offsets[self.bond_owners()]
        total = np.zeros(len(self.numbers))
        for end in (0, 1):
            total += np.bincount(start + self.bonds[:, end], weights=order, minlength=len(total))
        return np.rint(total).astype(np.int64)

    def __repr__(self) -> str:
        kind = "explicit" if self.explicit_h else "implicit"
        return f"MoleculeDataset({len(self)} molecules, {len(self.numbers)} atoms, {kind} hydrogens)"

    def _check(self) -> None:
        atoms, bonds = int(self.sizes.sum()), int(self.num_bonds.sum())
        lengths = {"numbers": len(self.numbers), "formal_charge": len(self.formal_charge)}
        lengths["positions"] = len(self.positions)
        lengths |= {f"atom feature {name}": len(values) for name, values in self.atom_features.items()}
        for name, length in lengths.items():
            if length != atoms:
                raise ValueError(f"{name} must have one row for each of the {atoms} atoms, got {length}.")
        if len(self.bonds) != bonds:
            raise ValueError(f"bonds must have {bonds} rows (the sum of num_bonds), got {len(self.bonds)}.")
        per_molecule = {"num_bonds": self.num_bonds, "ids": self.ids, "split": self.split, "smiles": self.smiles}
        for name, values in {**per_molecule, **self.properties}.items():
            if values is not None and len(values) != len(self):
                raise ValueError(
                    f"{name} must have one entry for each of the {len(self)} molecules, got {len(values)}."
                )


def _index_type(values: np.ndarray) -> type[np.unsignedinteger]:
    return np.uint8 if not len(values) or values.max() < 256 else np.uint16


def _rows(offsets: np.ndarray, counts: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows of the flat arrays that belong to the molecules ``index``, in that order."""
    taken = counts[index]
    shift = np.repeat(offsets[index] - np.concatenate([[0], np.cumsum(taken)[:-1]]), taken)
    return np.arange(int(taken.sum())) + shift
