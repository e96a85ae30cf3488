"""Drug-likeness and shape of valid molecules by RDKit descriptors, with distances to a reference.

The Frechet descriptor distance is the Frechet distance of two Gaussians fitted to standardised descriptors,
|m_g - m_r|^2 + tr(C_g + C_r - 2 (C_g C_r)^(1/2)). It is not the Frechet ChemNet distance and not comparable with it.

References: Bickerton et al. 2012 (QED); Ertl and Schuffenhauer 2009 (SA); Wildman and Crippen 1999 (logP); Ertl et al.
2000 (TPSA); Lipinski et al. 1997.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, RDConfig, rdMolDescriptors

__all__ = ["DESCRIPTORS", "descriptor_means", "descriptor_table", "frechet_descriptor_distance", "ring_sizes"]

DESCRIPTORS = ("qed", "sa", "logp", "lipinski", "tpsa", "mol_weight", "rotatable_bonds", "rings", "aromatic_rings")
"""Columns of `descriptor_table`; ``sa`` is (10 - sascore) / 9, 1 = easy to make, NaN without RDKit's contrib files."""

_LARGEST_RING = 9


def descriptor_table(mols: Sequence[Chem.Mol]) -> np.ndarray:
    """(M, 9) descriptors of sanitised molecules, in the order of `DESCRIPTORS`.

    ``lipinski`` counts how many of five rules hold: weight at most 500, donors at most 5, acceptors at most 10, logP in
    [-2, 5], rotatable bonds at most 10.
    """
    score = _sa_scorer()
    rows = []
    with rdBase.BlockLogs():
        for mol in mols:
            heavy = Chem.RemoveHs(mol)
            weight, logp = Descriptors.MolWt(heavy), Crippen.MolLogP(heavy)  # type: ignore[attr-defined]
            rotatable = rdMolDescriptors.CalcNumRotatableBonds(heavy)
            rules = (
                weight <= 500.0,
                Lipinski.NumHDonors(heavy) <= 5,  # type: ignore[attr-defined]
                Lipinski.NumHAcceptors(heavy) <= 10,  # type: ignore[attr-defined]
                -2.0 <= logp <= 5.0,
                rotatable <= 10,
            )
            accessible = (10.0 - score(heavy)) / 9.0 if score is not None else np.nan
            tpsa, rings = rdMolDescriptors.CalcTPSA(heavy), rdMolDescriptors.CalcNumRings(heavy)
            aromatic = rdMolDescriptors.CalcNumAromaticRings(heavy)
            rows.append((QED.qed(heavy), accessible, logp, sum(rules), tpsa, weight, rotatable, rings, aromatic))
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(DESCRIPTORS))


def descriptor_means(table: np.ndarray) -> dict[str, float]:
    """Mean of each column of a descriptor table; columns that could not be computed are left out."""
    if not len(table):
        return {}
    return {name: float(mean) for name, mean in zip(DESCRIPTORS, table.mean(axis=0)) if np.isfinite(mean)}


def frechet_descriptor_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Frechet distance of two descriptor tables, standardised by the reference; NaN below two molecules each.

    Columns without spread in the reference are left out.
    """
    spread = reference.std(axis=0) if len(reference) > 1 else np.zeros(reference.shape[1])
    used = np.isfinite(spread) & (spread > 0) & np.isfinite(generated).all(axis=0)
    if len(generated) < 2 or not used.any():
        return float("nan")
    scale, centre = spread[used], reference[:, used].mean(axis=0)
    first, second = (generated[:, used] - centre) / scale, (reference[:, used] - centre) / scale
    cov_g, cov_r = np.atleast_2d(np.cov(first.T)), np.atleast_2d(np.cov(second.T))
    # The eigenvalues of a product of two covariances are real and non-negative up to rounding.
    product = np.linalg.eigvals(cov_g @ cov_r).real
    root = np.sqrt(np.maximum(product, 0.0)).sum()
    shift = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    return float(shift + np.trace(cov_g) + np.trace(cov_r) - 2.0 * root)


def ring_sizes(mols: Sequence[Chem.Mol]) -> dict[str, float]:
    """Mean number of rings of each size per molecule (smallest set of smallest rings); 9 and larger as ``9+``."""
    counts: Counter[int] = Counter()
    for mol in mols:
        counts.update(min(len(ring), _LARGEST_RING) for ring in mol.GetRingInfo().AtomRings())
    names = {size: f"{size}+" if size == _LARGEST_RING else str(size) for size in sorted(counts)}
    return {name: counts[size] / len(mols) for size, name in names.items()}


@cache
def _sa_scorer() -> Callable[[Chem.Mol], float] | None:
    """RDKit's contributed synthetic-accessibility score, None where the installation lacks it."""
    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("molecules._sascorer", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.calculateScore
