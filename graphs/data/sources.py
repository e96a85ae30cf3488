"""Named data sets and the published ways to split them.

Files of the benchmarks are looked for under ``$SCIDIFF_DATA``; procedural sets are made on the spot and are the same
everywhere. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from graphs.data import generators
from graphs.data.graph_set import GraphSet
from scidiff.arrays import read_npz
from scidiff.assets import DATA_VARIABLE, data_folder, suggestion

__all__ = ["SOURCES", "Source", "SplitRule", "load_named", "prepare_named", "split_codes"]

SplitRule = Literal["gdss", "spectre", "random", "given"]

_PREPARED = Path("data")
_FRESH = (1024, 128, 512)


@dataclass(frozen=True)
class Source:
    """One named data set.

    Attributes:
        help: What it is.
        split: Default rule of the split.
        kernel: Kernel of the field's tables for this set, ``"emd"`` or ``"tv"``.
        file: Place below the data folder, or None for a procedural set.
        prepared: Whether it is made by ``scidiff graphs prepare`` once, because reading the originals takes long.
    """

    help: str
    split: SplitRule
    kernel: Literal["emd", "tv"]
    file: str | None = None
    prepared: bool = False


SOURCES: dict[str, Source] = {
    "community_small": Source("100 two-community graphs", "gdss", "emd", "graphs/gdss/community_small.npz"),
    "community_fresh": Source("1,664 two-community graphs, all communities different", "given", "emd"),
    "ego_small": Source("200 ego graphs of Citeseer", "gdss", "emd", "graphs/gdss/ego_small.npz"),
    "enzymes": Source("587 protein graphs with node labels", "random", "emd", "graphs/gdss/ENZYMES.npz"),
    "grid": Source("100 rectangular lattices", "gdss", "emd", "graphs/gdss/grid.npz"),
    "community_spectre": Source("100 two-community graphs of SPECTRE (comm20)", "spectre", "emd"),
    "planar": Source("200 Delaunay triangulations of 64 points", "spectre", "tv"),
    "sbm": Source("200 graphs of 2 to 5 communities", "spectre", "tv"),
    "tree": Source("200 random trees of 64 nodes", "spectre", "tv"),
    "lobster": Source("200 random lobsters of 10 to 100 nodes", "spectre", "tv"),
    "qm9_2d": Source(
        "133,885 molecules of at most 9 heavy atoms, split of GDSS",
        "given",
        "tv",
        "molecules/qm9/qm9_smiles_by_gdb_id.smi.gz",
        prepared=True,
    ),
    "zinc_29k": Source(
        "29,445 molecules of ZINC250k (an eighth of it)",
        "given",
        "tv",
        "graphs/smiles/zinc250k_jtnn_valid.smi.gz",
        prepared=True,
    ),
}
"""Known data sets by name."""


def load_named(name: str) -> GraphSet:
    """The graphs of a named data set in their original order; the split is left to `split_codes` unless it is given.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If its file is not there; says where it is looked for.
    """
    if name not in SOURCES:
        raise ValueError(f"there is no data set {name!r}{suggestion(name, list(SOURCES))}.")
    source = SOURCES[name]
    if source.prepared:
        path = _PREPARED / f"{name}.npz"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; make it with: scidiff graphs prepare {name}.")
        graphs = GraphSet.from_npz(path)
    elif source.file is not None:
        graphs = GraphSet.from_npz(_data_file(name, source.file))
    elif name == "community_spectre":
        with resources.as_file(resources.files("graphs") / "assets" / "community_12_21_100.npz") as path:
            graphs = GraphSet.from_npz(path)
    else:
        graphs = generators.GENERATORS[name]()
    if name == "community_fresh":
        graphs = graphs.with_split(np.repeat([0, 1, 2], _FRESH))
    graphs.meta["name"] = name
    return graphs


def prepare_named(name: str, folder: str | Path | None = None, *, charges: bool = False, seed: int = 0) -> GraphSet:
    """Make a named set from the original files, with its split.

    Args:
        name: Name of the set.
        folder: Folder of the originals; None means ``$SCIDIFF_DATA``.
        charges: Molecules: whether formal charges are part of the atom classes.
        seed: Seed of the validation part of molecules.

    Raises:
        ValueError: If the name is unknown, or ``charges`` is asked for of graphs that are no molecules.
        FileNotFoundError: If a file is missing.
    """
    if name in SOURCES and not SOURCES[name].prepared:
        if charges:
            raise ValueError(f"charges belong to molecules; {name!r} has none.")
        graphs = load_named(name)
        return graphs.with_split(split_codes(graphs, SOURCES[name].split, 0.0, seed=seed))
    makers: dict[str, Callable[..., GraphSet]] = {"qm9_2d": _qm9, "zinc_29k": _zinc}
    if name not in makers:
        raise ValueError(f"there is no data set {name!r}{suggestion(name, list(SOURCES))}.")
    graphs = makers[name](None if folder is None else Path(folder), charges, np.random.default_rng(seed))
    graphs.meta["name"] = name
    return graphs


def split_codes(
    graphs: GraphSet, rule: SplitRule, val_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0
) -> np.ndarray:
    """Split codes (G,): 0 train, 1 valid, 2 test.

    Args:
        graphs: The graphs, in their original order.
        rule: ``"gdss"``: the first fifth is the test set, no shuffling. ``"spectre"``: 64 / 16 / 20 % by
            ``torch.randperm`` with seed 1234. ``"random"``: a seeded permutation. ``"given"``: that of the set.
        val_fraction: Share of the training part that becomes the validation part, seeded; ``"spectre"`` and a given
            split with such a part have their own.
        test_fraction: Share of the test part of ``"random"``.
        seed: Seed.

    Raises:
        ValueError: If the rule is unknown, a fraction is out of range, or no split is given.
    """
    if not 0.0 <= val_fraction < 1.0 or not 0.0 <= test_fraction < 1.0:
        raise ValueError(f"fractions must be in [0, 1), got {val_fraction} for valid and {test_fraction} for test.")
    n = len(graphs)
    codes = np.zeros(n, dtype=np.uint8)
    rng = np.random.default_rng(seed)
    if rule == "spectre":
        return _spectre(n)
    if rule == "gdss":
        codes[: int(0.2 * n)] = 2
    elif rule == "random":
        codes[rng.permutation(n)[: round(test_fraction * n)]] = 2
    elif rule == "given":
        if graphs.split is None:
            raise ValueError("these graphs come without a split; use split='random'.")
        codes = graphs.split.copy()
        if (codes == 1).any():
            return codes
    else:
        raise ValueError(f"split must be gdss, spectre, random or given, got {rule!r}.")
    train = np.flatnonzero(codes == 0)
    codes[rng.permutation(train)[: round(val_fraction * len(train))]] = 1
    return codes


def _spectre(n: int) -> np.ndarray:
    """``random_split(graphs, [train, val, test], generator=torch.Generator().manual_seed(1234))``."""
    import torch

    test = round(0.2 * n)
    train = round(0.8 * (n - test))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1234)).numpy()
    codes = np.zeros(n, dtype=np.uint8)
    codes[order[train : n - test]] = 1
    codes[order[n - test :]] = 2
    return codes


def _qm9(folder: Path | None, charges: bool, rng: np.random.Generator) -> GraphSet:
    from graphs.data.molecules import from_smiles

    source = SOURCES["qm9_2d"]
    assert source.file is not None
    lines = _lines(_data_file("qm9_2d", source.file, folder))
    test = read_npz(_data_file("qm9_2d", "graphs/smiles/gdss_test_idx.npz", folder))["qm9_row"]
    graphs = from_smiles(lines, charges=charges, elements=("C", "N", "O", "F"))
    codes = np.zeros(len(graphs), dtype=np.uint8)
    codes[test] = 2
    codes[rng.permutation(np.flatnonzero(codes == 0))[:2000]] = 1
    return graphs.with_split(codes)


def _zinc(folder: Path | None, charges: bool, rng: np.random.Generator) -> GraphSet:
    from graphs.data.molecules import ORGANIC, from_smiles

    parts = [
        _lines(_data_file("zinc_29k", f"graphs/smiles/zinc250k_jtnn_{part}.smi.gz", folder))
        for part in ("valid", "test")
    ]
    graphs = from_smiles([line for part in parts for line in part], charges=charges, elements=ORGANIC)
    codes = np.repeat(np.array([0, 2], dtype=np.uint8), [len(part) for part in parts])
    codes[rng.permutation(len(parts[0]))[:1000]] = 1
    return graphs.with_split(codes)


def _data_file(name: str, place: str, folder: Path | None = None) -> Path:
    """A file below the data folder, or directly inside the folder that a user named."""
    root = folder if folder is not None else data_folder()
    if root is None:
        raise FileNotFoundError(f"data set {name!r} needs {place}; set {DATA_VARIABLE} to the folder that holds it.")
    for path in (root / place, root / Path(place).name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"data set {name!r} needs {place}, which is not in {str(root)!r}.")


def _lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [line.split()[0] for line in stream if line.strip()]
