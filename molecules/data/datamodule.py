"""Lightning data modules of molecules: any prepared file, and QM9.

References: Ramakrishnan et al. 2014 (QM9); Hoogeboom et al. 2022, "Equivariant Diffusion for Molecule Generation in 3D"
(its split).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from molecules.atom_features import checked_features, label_atoms
from molecules.data.batches import Batch, DenseMolecules
from molecules.data.cleaning import CleaningReport, CleaningRules
from molecules.data.dataset import MoleculeDataset
from molecules.data.prepare import GEOMETRY_BAND, load_clean, random_split
from molecules.data.spec import MoleculeSpec
from molecules.properties import check_computed, property_table
from molecules.verdict import judge
from scidiff.buckets import BucketSampler
from scidiff.configurable import Configurable
from scidiff.loaders import ResumableLoader

__all__ = ["QM9", "MoleculeDataModule", "packaged_qm9"]

_PREPARED_QM9 = Path("data") / "qm9.npz"
_SUBSET = "qm9_2k"


class MoleculeDataModule(Configurable, pl.LightningDataModule):
    """Molecules of a file as dense padded batches, bucketed by size.

    A batch is the dictionary described at `molecules.data.batches.Batch`. The vocabulary comes from the training part;
    molecules of the other parts that leave it are not batched and are counted in ``num_outside``.

    Args:
        source: Prepared ``.npz``, or a raw ``.sdf``, ``.xyz`` or ``.npz`` that is cleaned at set-up (``report`` then
            says what was dropped).
        hydrogens: ``"explicit"`` takes all atoms, ``"implicit"`` heavy atoms only.
        batch_pairs: Upper limit of the sum of N^2 over a batch, N the padded size.
        properties: Names of what a model is conditioned on: columns of the file (data fields of an SDF), or those in
            `molecules.properties.COMPUTED`, which are then computed.
        atom_features: Labels of the atoms that a recipe generates beside them, see `molecules.atom_features`; computed
            at set-up from the bonds, 0.2 ms a molecule.
        fractions: Shares of train, valid, test if the file has no split.
        charge: Net charge when bonds of a raw file have to be perceived.
        seed: Seed of the split and of the order of batches.
        num_workers: Worker processes of the loaders; a batch is one indexing, so 0 is usually fastest.
        pin_memory: Whether batches are put into pinned memory.

    Raises:
        ValueError: If an option is wrong; at `setup`, if the file does not fit.
        FileNotFoundError: At `setup`, if the file is missing.

    Example:
        >>> data = MoleculeDataModule("data/qm9.npz", hydrogens="implicit")
        >>> data.setup()
        >>> batch = next(iter(data.train_dataloader()))
    """

    def __init__(
        self,
        source: str | Path,
        *,
        hydrogens: str = "explicit",
        batch_pairs: int = 16_000,
        properties: Sequence[str] = (),
        atom_features: Sequence[str] = (),
        fractions: Sequence[float] = (0.8, 0.1, 0.1),
        charge: int = 0,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        CleaningRules(hydrogens)  # says what is wrong with the options now, not at set-up
        random_split(0, fractions, seed)
        if batch_pairs < 1:
            raise ValueError(f"batch_pairs must be positive, got {batch_pairs}.")
        self.source = Path(source)
        self.hydrogens = hydrogens
        self.batch_pairs = batch_pairs
        self.properties = tuple(properties)
        self.atom_features = checked_features(atom_features)
        self.fractions = tuple(fractions)
        self.charge = charge
        self.seed = seed
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.report: CleaningReport | None = None
        self.num_outside: dict[str, int] = {}
        self._dataset: MoleculeDataset | None = None
        self._spec: MoleculeSpec | None = None
        self._dense: dict[str, DenseMolecules] = {}

    @classmethod
    def from_sdf(cls, path: str | Path, **kwargs: Any) -> MoleculeDataModule:
        """Data module of a user's SDF; ``kwargs`` as in the constructor."""
        return cls(path, **kwargs)

    @classmethod
    def from_dataset(cls, dataset: MoleculeDataset, **kwargs: Any) -> MoleculeDataModule:
        """Data module of a dataset in memory, which its config can then only name; ``kwargs`` as in the constructor."""
        kwargs.setdefault("hydrogens", "explicit" if dataset.explicit_h else "implicit")
        module = cls("in-memory.npz", **kwargs)
        module._adopt(dataset)
        return module

    def setup(self, stage: str | None = None) -> None:
        """Read the file and build the vocabulary; tensors are padded when a loader first needs them."""
        if self._dataset is None:
            self._adopt(self._load())

    @property
    def spec(self) -> MoleculeSpec:
        """Vocabulary and statistics of the training part."""
        self.setup()
        assert self._spec is not None
        return self._spec

    @property
    def dataset(self) -> MoleculeDataset:
        """All molecules of the file, hydrogens as asked for."""
        self.setup()
        assert self._dataset is not None
        return self._dataset

    def part(self, name: str) -> MoleculeDataset:
        """Molecules of one split (``"train" | "valid" | "test"``), those outside the vocabulary included."""
        return self.dataset.subset(name)

    def dense(self, name: str) -> DenseMolecules:
        """Padded tensors of one split, built at the first call."""
        if name not in self._dense:
            part = self.part(name)
            covered = self.spec.covers(part)
            self.num_outside[name] = int((~covered).sum())
            self._dense[name] = DenseMolecules(part.subset(covered), self.spec, self.batch_pairs)
        return self._dense[name]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the training part; the order depends on the seed and the epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation part, always the same."""
        return self._loader("valid", shuffle=False)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test part, always the same."""
        return self._loader("test", shuffle=False)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The same as `test_dataloader`."""
        return self.test_dataloader()

    def _loader(self, name: str, shuffle: bool) -> DataLoader[Batch]:
        data = self.dense(name)
        sampler = BucketSampler(data, shuffle=shuffle, seed=self.seed, epoch=self._current_epoch)
        return ResumableLoader(
            data, batch_size=None, sampler=sampler, num_workers=self.num_workers, pin_memory=self.pin_memory
        )

    def _current_epoch(self) -> int | None:
        """Epoch of the trainer; a sampler that Lightning has wrapped for several processes is told no other way."""
        return None if self.trainer is None else self.trainer.current_epoch

    def _load(self) -> MoleculeDataset:
        if self.source.suffix.lower() == ".npz" and MoleculeDataset.is_prepared(self.source):
            return MoleculeDataset.from_npz(self.source)
        rules = CleaningRules(self.hydrogens, band=GEOMETRY_BAND)
        dataset, self.report = load_clean(self.source, rules, charge=self.charge)
        return dataset

    def _adopt(self, dataset: MoleculeDataset) -> None:
        if self.hydrogens == "implicit" and dataset.explicit_h:
            dataset = dataset.without_hydrogens()
        if self.hydrogens == "explicit" and not dataset.explicit_h:
            raise ValueError(f"{self.source.name} has no hydrogens. Use hydrogens='implicit' or prepare it again.")
        if dataset.split is None:
            dataset = dataset.with_split(random_split(len(dataset), self.fractions, self.seed))
        dataset = dataset.with_properties(_properties(dataset, self.properties))
        dataset = dataset.with_atom_features(_labels(dataset, self.atom_features))
        self._spec = MoleculeSpec.from_dataset(dataset.subset("train"), self.properties)
        self._dataset = dataset


class QM9(MoleculeDataModule):
    """QM9 with the standard split: 98,411 / 17,472 / 13,083 molecules with DFT geometries, bonds and charges.

    Args:
        hydrogens: ``"implicit"`` (heavy atoms, at most 9) or ``"explicit"`` (at most 29 atoms).
        batch_pairs: Upper limit of the sum of N^2 over a batch.
        root: Prepared file or its folder. None takes ``data/qm9.npz`` of the working folder and, if that is missing,
            the packaged subset with a warning. ``"2k"`` is that subset: 2,000 training molecules, 1,600 / 200 / 200.
        properties: Names of what a model is conditioned on, see `MoleculeDataModule`. QM9 as it is packed here has
            quantum-chemical columns (``mu``, ``gap``, ...) for its test part only.
        atom_features: Labels of the atoms, see `MoleculeDataModule`.
        seed: Seed of the order of batches.
        num_workers: Worker processes of the loaders.
        pin_memory: Whether batches are put into pinned memory.

    Raises:
        FileNotFoundError: If ``root`` names no prepared file.
    """

    def __init__(
        self,
        hydrogens: str = "implicit",
        batch_pairs: int = 16_000,
        root: str | Path | None = None,
        *,
        properties: Sequence[str] = (),
        atom_features: Sequence[str] = (),
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            _PREPARED_QM9 if root is None else root,
            hydrogens=hydrogens,
            batch_pairs=batch_pairs,
            properties=properties,
            atom_features=atom_features,
            seed=seed,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        self.root = root

    def _load(self) -> MoleculeDataset:
        if self.root == "2k":
            return packaged_qm9()
        path = self.source / _PREPARED_QM9.name if self.source.is_dir() else self.source
        if self.root is None and not path.is_file():
            warnings.warn(
                f"{path} does not exist: the packaged subset of 2,000 molecules is used. "
                "`scidiff molecules prepare qm9 --source FOLDER` writes the full set.",
                stacklevel=4,
            )
            return packaged_qm9()
        return MoleculeDataset.from_npz(path)


def _properties(dataset: MoleculeDataset, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of the dataset; what it lacks is computed from its molecules."""
    lacking = [name for name in names if name not in dataset.properties]
    check_computed(lacking)
    computed: dict[str, np.ndarray] = {}
    if lacking:
        smiles = dataset.smiles
        if smiles is None:
            smiles = [judge(dataset.record(k)).smiles or "?" for k in range(len(dataset))]
        computed = property_table(smiles, lacking)
    return {name: dataset.properties[name] if name in dataset.properties else computed[name] for name in names}


def _labels(dataset: MoleculeDataset, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Labels of the atoms of the dataset; computed if it lacks some."""
    if any(name not in dataset.atom_features for name in names):
        return label_atoms((dataset.record(k) for k in range(len(dataset))), names)
    return {name: dataset.atom_features[name] for name in names}


def packaged_qm9() -> MoleculeDataset:
    """The packaged 2,000 training molecules of QM9 with hydrogens, split 1,600 / 200 / 200."""
    with resources.as_file(resources.files("molecules") / "assets" / f"{_SUBSET}.npz") as path:
        return MoleculeDataset.from_npz(path)
