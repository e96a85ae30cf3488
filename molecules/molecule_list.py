"""The list of molecules that a generator returns: records, verdicts and the files made from them.

Nothing is dropped silently. A molecule that fails keeps its record, its reason, a sentence and the offending atoms;
``rdkit`` holds None in its place and ``grid`` draws it marked. Verdicts are computed once, when first needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from rdkit import Chem

from molecules.chemistry import MoleculeRecord, Verdict, Vocabulary, judge
from molecules.io import read_sdf, sdf_text, write_sdf, write_smiles, write_xyz
from molecules.properties import property_values

if TYPE_CHECKING:
    from molecules.report import Report

__all__ = ["MoleculeList"]


class MoleculeList(Sequence[MoleculeRecord]):
    """A sequence of generated molecules with a verdict on each.

    Indexing gives a `MoleculeRecord`, slicing another `MoleculeList`; molecules keep the number they had in the first
    list as their name ``molecule_<i>``.

    Args:
        records: The molecules as they were sampled.
        vocabulary: Elements and charges of the model; anything else fails as ``vocabulary``.
        seeds: The seed of each molecule, written to SDF.
        names: Names of the molecules, ``molecule_<i>`` by default.
        keep: ``"all"``, or ``"valid"`` to hold the valid molecules only; ``discarded`` then counts the others.
        largest_fragment: Judge only the largest fragment of each molecule.
        nfe: Number of network evaluations behind each molecule, if it was sampled.

    Raises:
        ValueError: If ``keep`` is unknown or ``seeds`` or ``names`` has another length than ``records``.

    Example:
        >>> mols = MoleculeList(records)
        >>> mols.valid_fraction, mols.failures()
        (0.97, Counter({'valence:N0=4': 2, 'fragments:2': 1}))
    """

    def __init__(
        self,
        records: Sequence[MoleculeRecord],
        *,
        vocabulary: Vocabulary | None = None,
        seeds: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        keep: Literal["all", "valid"] = "all",
        largest_fragment: bool = False,
        nfe: int | None = None,
    ) -> None:
        if keep not in ("all", "valid"):
            raise ValueError(f"keep must be 'all' or 'valid', got {keep!r}.")
        for label, values in (("seeds", seeds), ("names", names)):
            if values is not None and len(values) != len(records):
                raise ValueError(f"{label} must have one entry a molecule ({len(records)}), got {len(values)}.")
        self.records = list(records)
        self.seeds = None if seeds is None else list(seeds)
        self.names = [f"molecule_{i}" for i in range(len(self.records))] if names is None else list(names)
        self.vocabulary = vocabulary
        self.largest_fragment = largest_fragment
        self.nfe = nfe
        self.discarded: Counter[str] = Counter()
        if keep == "valid":
            self.discarded = self.failures()
            chosen = self.valid()
            self.records, self.seeds, self.names = chosen.records, chosen.seeds, chosen.names
            self.__dict__["verdicts"] = chosen.verdicts

    @classmethod
    def from_sdf(cls, path: str | Path, **options: Any) -> MoleculeList:
        """Read what `to_sdf` wrote, or any SDF; entries that cannot be read at all are left out.

        Args:
            path: The file.
            options: Further arguments of the constructor.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If no molecule can be read.
        """
        entries = [entry for entry in read_sdf(path) if entry.record is not None]
        records = [entry.record for entry in entries if entry.record is not None]
        seeds = [entry.properties.get("seed") for entry in entries]
        names = [entry.title or f"molecule_{i}" for i, entry in enumerate(entries)]
        return cls(records, seeds=seeds if any(seed is not None for seed in seeds) else None, names=names, **options)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> MoleculeRecord: ...

    @overload
    def __getitem__(self, index: slice) -> MoleculeList: ...

    def __getitem__(self, index: int | slice) -> MoleculeRecord | MoleculeList:
        if isinstance(index, slice):
            return self._take(range(len(self))[index])
        return self.records[index]

    def __iter__(self) -> Iterator[MoleculeRecord]:
        return iter(self.records)

    def __repr__(self) -> str:
        known = f", {sum(verdict.valid for verdict in self.verdicts)} valid" if "verdicts" in self.__dict__ else ""
        return f"MoleculeList({len(self)} molecules{known})"

    def _repr_png_(self) -> bytes | None:
        """Picture of the first molecules, shown by notebooks."""
        from molecules.plots import grid_png

        return grid_png(self[:12]) if len(self) else None

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The strict verdict on each molecule: valid, reason, detail, offending atoms, SMILES, RDKit molecule."""
        return [judge(record, self.vocabulary, largest_fragment=self.largest_fragment) for record in self.records]

    @property
    def valid_fraction(self) -> float:
        """Share of valid molecules, NaN for an empty list."""
        return sum(verdict.valid for verdict in self.verdicts) / len(self) if len(self) else float("nan")

    @property
    def rdkit(self) -> list[Chem.Mol | None]:
        """Sanitised RDKit molecules with their conformers, None for failures."""
        return [verdict.mol for verdict in self.verdicts]

    @property
    def smiles(self) -> list[str | None]:
        """Canonical SMILES without hydrogens, None for failures."""
        return [verdict.smiles for verdict in self.verdicts]

    def values(self, name: str) -> np.ndarray:
        """A property (n,) of `molecules.properties.COMPUTED` by RDKit; NaN for failures.

        Raises:
            ValueError: If the name is unknown.
        """
        return property_values(self.rdkit, name)

    def failures(self) -> Counter[str]:
        """Number of failed molecules by reason; the counts sum to the number of molecules that are not valid."""
        return Counter(verdict.reason or "unknown" for verdict in self.verdicts if not verdict.valid)

    def valid(self) -> MoleculeList:
        """The valid molecules, under their old names."""
        return self._take([i for i, verdict in enumerate(self.verdicts) if verdict.valid])

    def invalid(self) -> MoleculeList:
        """The failed molecules, under their old names."""
        return self._take([i for i, verdict in enumerate(self.verdicts) if not verdict.valid])

    def to_sdf(self, path: str | Path) -> None:
        """Write all molecules, failures included, with the fields ``valid``, ``reason``, ``smiles`` and ``seed``."""
        write_sdf(path, self.records, titles=self.names, properties=self._properties())

    def to_xyz(self, path: str | Path) -> None:
        """Write all molecules as extended XYZ, one frame a molecule.

        Raises:
            ValueError: If a molecule has no coordinates.
        """
        write_xyz(path, self.records, titles=self.names, properties=self._properties())

    def to_smiles(self, path: str | Path) -> None:
        """Write the SMILES of the valid molecules, one a line with its name; failures have none."""
        rows = [(text, name) for text, name in zip(self.smiles, self.names) if text is not None]
        write_smiles(path, [text for text, _ in rows], [name for _, name in rows])

    def grid(self, path: str | Path, **options: Any) -> None:
        """Draw the molecules into a PNG; ``options`` are those of `molecules.plots.draw_grid`."""
        from molecules.plots import draw_grid

        draw_grid(self, path, **options)

    def grid_3d(self, path: str | Path, **options: Any) -> None:
        """Draw the generated geometries; ``options`` are those of `molecules.plots.draw_grid_3d`."""
        from molecules.plots import draw_grid_3d

        draw_grid_3d(self, path, **options)

    def view(self, index: int = 0, *, width: int = 400, height: int = 300) -> Any:
        """Interactive view of one molecule in a notebook, by py3Dmol.

        Raises:
            ImportError: If py3Dmol is not installed.
        """
        try:
            import py3Dmol
        except ImportError as error:
            raise ImportError('interactive views need py3Dmol: pip install -e ".[viz]".') from error
        scene = py3Dmol.view(width=width, height=height)
        scene.addModel(sdf_text(self.records[index], self.names[index]), "sdf")
        scene.setStyle({"stick": {"radius": 0.13}, "sphere": {"scale": 0.24}})
        scene.zoomTo()
        return scene

    def report(self, reference: Sequence[MoleculeRecord] | None = None, **options: Any) -> Report:
        """Evaluate the list; ``options`` are those of `molecules.metrics.evaluate`."""
        from molecules.metrics import evaluate

        return evaluate(self.records, reference=reference, verdicts=self.verdicts, **options)

    def _properties(self) -> list[dict[str, Any]]:
        seeds = self.seeds if self.seeds is not None else [None] * len(self)
        return [
            {"valid": verdict.valid, "reason": verdict.reason, "smiles": verdict.smiles, "seed": seed}
            for verdict, seed in zip(self.verdicts, seeds)
        ]

    def _take(self, index: Sequence[int]) -> MoleculeList:
        """Some molecules with their names, seeds and, if known, verdicts."""
        part = MoleculeList(
            [self.records[i] for i in index],
            vocabulary=self.vocabulary,
            seeds=None if self.seeds is None else [self.seeds[i] for i in index],
            names=[self.names[i] for i in index],
            largest_fragment=self.largest_fragment,
            nfe=self.nfe,
        )
        if "verdicts" in self.__dict__:
            part.__dict__["verdicts"] = [self.verdicts[i] for i in index]
        return part
