"""Preparation: from raw geometries to a clean `MoleculeDataset` with kekulised bonds, charges and a split.

QM9 gets its bonds from the GDB SMILES of the same id (`molecules.bonds`), other files from their own bonds or from
coordinates. Every molecule then has to pass strict validity; the `CleaningReport` counts each one that does not.

References: Ramakrishnan et al. 2014, "Quantum chemistry structures and properties of 134 kilo molecules" (QM9).
"""

from __future__ import annotations

import os
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from molecules.data.cleaning import CleaningReport, CleaningRules, clean
from molecules.data.dataset import SPLITS, MoleculeDataset
from molecules.data.raw import RawMolecule, read_gdb9, read_npz, read_qm9_npz, read_sdf, read_smi, read_xyz, sha256_of
from molecules.properties import check_computed, property_table
from scidiff.files import check_writable

__all__ = ["GEOMETRY_BAND", "CleaningReport", "edm_split", "load_clean", "prepare_file", "prepare_qm9", "random_split"]

QM9_SHA256 = {
    "qm9_geometries.npz": "0e445ca1d1382b2704591d6458f97738e88d02bb9b6bb70801b6e2bb89a8658d",
    "qm9_smiles_by_gdb_id.smi.gz": "fd7919f8228a6cc81f560efe3669073f64d09e301c91a405d651fb19306ff329",
    "qm9_train_2k.npz": "66900a6000504a83c753d94f2feacafc17933ad620477993571e696b9ee376eb",
}
"""Known packed files; another content is accepted with a warning."""

GEOMETRY_BAND = 0.40
"""Cleaning of user data as in "GEOM-Drugs Revisited": bonds within +- 40 % of the sum of covalent radii."""

_UNCHARACTERIZED = "uncharacterized.txt"


def prepare_qm9(
    source: str | Path | None = None,
    out: str | Path = "data/qm9.npz",
    *,
    properties: Sequence[str] = (),
    workers: int | None = None,
    progress: bool = False,
) -> CleaningReport:
    """Prepare QM9 with bonds, charges and the standard split, and write it to ``out``.

    Args:
        source: Folder with ``qm9_geometries.npz`` and ``qm9_smiles_by_gdb_id.smi.gz``, such a geometry file, the
            original archive ``dsgdb9nsd.xyz.tar.bz2``, or a folder of its ``.xyz`` files. None takes
            ``$SCIDIFF_DATA/molecules/qm9``. With the originals a file ``uncharacterized.txt`` beside them names the
            molecules to leave out.
        out: Prepared file, ``.npz``; replaced only when everything has succeeded.
        properties: Names in `molecules.properties.COMPUTED` to compute and keep. Columns of a ``qm9*properties.npz``
            beside the packed geometries are kept anyway.
        workers: Processes; None takes one a core.
        progress: Whether to show a bar on stderr.

    Raises:
        FileNotFoundError: If the source is missing.
        ValueError: If the source or ``out`` has the wrong format.
    """
    out = _checked_out(out)
    check_computed(properties)
    raw, files = _qm9_source(source)
    for name in files:
        known = QM9_SHA256.get(name)
        if known is not None and files[name] != known:
            warnings.warn(f"{name} is not the known file (sha256 {files[name][:12]}...).", stacklevel=2)
    dataset, report = clean(raw, CleaningRules(), workers=workers, progress=progress)
    if dataset.split is None:
        dataset.split = random_split(len(dataset))
    report.splits = _count_splits(dataset.split)
    dataset = _with_computed(dataset, properties)
    dataset.meta = {"name": "qm9", "sha256": files, "report": report.to_dict()}
    dataset.save(out)
    return report


def prepare_file(
    source: str | Path,
    out: str | Path,
    *,
    hydrogens: str = "explicit",
    charge: int = 0,
    elements: Sequence[str] | None = None,
    max_atoms: int | None = None,
    aromatic: bool = False,
    properties: Sequence[str] = (),
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> CleaningReport:
    """Prepare a user's ``.sdf``, ``.xyz``, ``.smi`` or ``.npz`` file and write it to ``out``.

    A SMILES gets hydrogens and a geometry by ETKDG and MMFF94 (about 20 ms a small molecule). Bonds and charges of an
    SDF, or of an npz that has them, are taken over; else they are perceived from the coordinates. Molecules stay that
    are strictly valid and whose bonds lie within +- 40 % of the sum of covalent radii.

    Args:
        source: File with coordinates, or with a SMILES a line.
        out: Prepared file, ``.npz``; replaced only when everything has succeeded.
        hydrogens: ``"explicit"`` demands all hydrogens; ``"implicit"`` keeps heavy atoms only.
        charge: Net charge for the perception of bonds; ``charge=`` in an XYZ comment wins.
        elements: Elements to keep, None for all.
        max_atoms: Largest molecule to keep (``too_large``), None for all; heavy atoms for ``"implicit"``.
        aromatic: Keep RDKit's aromatic bonds as class 4 instead of kekulised orders.
        properties: Names in `molecules.properties.COMPUTED` to compute and keep. Data fields of an SDF that are numbers
            are kept anyway.
        fractions: Shares of train, valid, test.
        seed: Seed of the random split.
        workers: Processes; None takes one a core.
        progress: Whether to show a bar on stderr.

    Raises:
        FileNotFoundError: If the source is missing.
        ValueError: If an option or a format is wrong, or no molecule is left.
    """
    source, out = Path(source), _checked_out(out)
    check_computed(properties)
    rules = CleaningRules(hydrogens, None if elements is None else tuple(elements), max_atoms, GEOMETRY_BAND, aromatic)
    random_split(0, fractions, seed)  # a wrong option is said before the work
    dataset, report = load_clean(source, rules, charge=charge, workers=workers, progress=progress)
    dataset.split = random_split(len(dataset), fractions, seed)
    report.splits = _count_splits(dataset.split)
    dataset = _with_computed(dataset, properties)
    dataset.meta = {"name": _set_name(source), "sha256": {source.name: sha256_of(source)}, "report": report.to_dict()}
    dataset.save(out)
    return report


def load_clean(
    source: str | Path,
    rules: CleaningRules,
    *,
    charge: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> tuple[MoleculeDataset, CleaningReport]:
    """Read and clean an SDF, XYZ, SMILES or npz file without writing anything.

    Raises:
        FileNotFoundError: If the source is missing.
        ValueError: If its suffix is unknown, it is malformed, or no molecule is left.
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist. Expected a .sdf, .xyz, .smi or .npz file.")
    suffix = Path(source.name.lower().removesuffix(".gz")).suffix
    if suffix in (".smi", ".smiles"):
        raw = read_smi(source)
    elif suffix == ".sdf":
        raw = read_sdf(source)
    elif suffix in (".xyz", ".extxyz"):
        raw = read_xyz(source, charge)
    elif suffix == ".npz":
        raw = read_npz(source, charge)
    else:
        raise ValueError(
            f"{source.name}: cannot read {suffix or 'a file without suffix'}, expected .sdf, .xyz, .smi or .npz."
        )
    return clean(raw, rules, workers=workers, progress=progress)


def edm_split(ids: np.ndarray) -> np.ndarray:
    """The standard QM9 split (EDM, Cormorant, EGNN): codes 0, 1, 2 for the sorted ids given.

    ``RandomState(0).permutation(len(ids))``, the first 100,000 of 130,831 train, the last tenth (rounded down) test.
    For another number of ids the training share is scaled.

    Args:
        ids: (M,) GDB ids, ascending, of all molecules that are characterised (130,831).
    """
    count = len(ids)
    order = np.random.RandomState(0).permutation(count)
    split = np.full(count, SPLITS.index("valid"), dtype=np.uint8)
    split[order[: round(count * 100_000 / 130_831)]] = SPLITS.index("train")
    split[order[count - int(0.1 * count) :]] = SPLITS.index("test")
    return split


def random_split(count: int, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> np.ndarray:
    """Random codes 0, 1, 2 for ``count`` molecules; the last part takes what rounding leaves.

    Raises:
        ValueError: If the fractions are not three non-negative numbers of sum 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-6:
        raise ValueError(f"fractions of train, valid, test must be non-negative with sum 1, got {fractions}.")
    bounds = np.rint(np.cumsum(fractions) * count).astype(int)
    split = np.full(count, SPLITS.index("test"), dtype=np.uint8)
    order = np.random.default_rng(seed).permutation(count)
    split[order[: bounds[0]]] = SPLITS.index("train")
    split[order[bounds[0] : bounds[1]]] = SPLITS.index("valid")
    return split


def _set_name(source: Path) -> str:
    """Name of the file; geometries by a force field are said to be such."""
    is_text = source.suffix.lower() not in (".sdf", ".xyz", ".extxyz", ".npz")
    return f"{source.name.split('.')[0]}-mmff" if is_text else source.stem


def _with_computed(dataset: MoleculeDataset, names: Sequence[str]) -> MoleculeDataset:
    computed = property_table(dataset.smiles or [], names) if names else {}
    return dataset.with_properties({**dataset.properties, **computed})


def _count_splits(split: np.ndarray) -> dict[str, int]:
    return {name: int((split == code).sum()) for code, name in enumerate(SPLITS)}


def _checked_out(out: str | Path) -> Path:
    if Path(out).suffix != ".npz":
        raise ValueError(f"a prepared file is named *.npz, got {str(out)!r}.")
    return check_writable(out)


def _qm9_source(source: str | Path | None) -> tuple[Iterator[RawMolecule], dict[str, str]]:
    """Reader for one of the forms of QM9, and the sha256 of its files by name."""
    if source is None:
        if "SCIDIFF_DATA" not in os.environ:
            raise FileNotFoundError(
                "no source of QM9 is given. Pass source=... or set SCIDIFF_DATA to the data folder."
            )
        source = Path(os.environ["SCIDIFF_DATA"]) / "molecules" / "qm9"
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist. Expected the folder or the archive of QM9.")
    geometries = source / "qm9_geometries.npz" if source.is_dir() else source
    if geometries.suffix == ".npz" and geometries.is_file():
        smiles = geometries.parent / "qm9_smiles_by_gdb_id.smi.gz"
        raw = read_qm9_npz(geometries, smiles)
        return raw, {path.name: sha256_of(path) for path in (geometries, smiles) if path.is_file()}
    if source.is_file() and not (tarfile.is_tarfile(source)):
        raise ValueError(
            f"{source.name} is neither a packed QM9 file (.npz) nor a tar archive of dsgdb9nsd_<id>.xyz files."
        )
    names = {source.name: sha256_of(source)} if source.is_file() else {}
    return _with_edm_split(source), names


def _with_edm_split(source: Path) -> Iterator[RawMolecule]:
    """Original files less the uncharacterised ones, with the standard split over those that remain."""
    listed = (source if source.is_dir() else source.parent) / _UNCHARACTERIZED
    excluded: set[int] = set()
    if listed.is_file():
        first = (line.split()[:1] for line in listed.read_text(encoding="ascii").splitlines())
        excluded = {int(word[0]) for word in first if word and word[0].isdigit()}
    else:
        warnings.warn(
            f"no {_UNCHARACTERIZED} beside {source.name}: the split will not be the standard one.", stacklevel=3
        )
    raw = [molecule for molecule in read_gdb9(source) if molecule.id not in excluded]
    split = edm_split(np.array([molecule.id for molecule in raw]))
    for molecule, code in zip(raw, split.tolist()):
        yield replace(molecule, split=code)
