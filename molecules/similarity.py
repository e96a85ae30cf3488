r"""Variety of molecules by fingerprints, and the KL score of descriptor distributions.

Fingerprints are Morgan's of radius 2 with 1,024 bits, similarity is Tanimoto's. The KL score is the mean over
descriptors of exp(-KL(reference || generated)): 1 for equal distributions. Real-valued descriptors are compared by
Gaussian kernel densities on 1,000 points, counts by their shares; the tenth quantity is the similarity of each molecule
to its nearest neighbour within its own set.

References: Rogers and Hahn 2010 (Morgan fingerprints); Brown et al. 2019, "GuacaMol", section 4.4 (KL score).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from rdkit.DataStructs import BulkTanimotoSimilarity
from scipy.stats import gaussian_kde

__all__ = ["MAX_COMPARED", "internal_diversity", "kl_divergence", "kl_score", "nearest_similarities"]

MAX_COMPARED = 2_000
"""Molecules of a set that are compared in pairs at most, evenly spaced over the set."""

_BITS, _RADIUS, _POINTS, _FLOOR = 1024, 2, 1_000, 1e-10
_REAL: tuple[Callable[[Chem.Mol], float], ...] = (
    Descriptors.BertzCT,  # type: ignore[attr-defined]
    Descriptors.MolLogP,  # type: ignore[attr-defined]
    Descriptors.MolWt,  # type: ignore[attr-defined]
    Descriptors.TPSA,  # type: ignore[attr-defined]
)
_COUNTS: tuple[Callable[[Chem.Mol], float], ...] = (
    Descriptors.NumHAcceptors,  # type: ignore[attr-defined]
    Descriptors.NumHDonors,  # type: ignore[attr-defined]
    Descriptors.NumRotatableBonds,  # type: ignore[attr-defined]
    Descriptors.NumAliphaticRings,  # type: ignore[attr-defined]
    Descriptors.NumAromaticRings,  # type: ignore[attr-defined]
)


def internal_diversity(mols: Sequence[Chem.Mol]) -> float:
    """1 - mean Tanimoto similarity over pairs of different molecules of a set; NaN below two."""
    prints = _fingerprints(mols)
    if len(prints) < 2:
        return float("nan")
    total = sum(sum(BulkTanimotoSimilarity(prints[i], prints[:i])) for i in range(1, len(prints)))
    return 1.0 - total / (len(prints) * (len(prints) - 1) / 2)


def nearest_similarities(mols: Sequence[Chem.Mol], others: Sequence[Chem.Mol] | None = None) -> np.ndarray:
    """Largest Tanimoto similarity (n,) of each molecule to the others, or to the rest of its own set."""
    prints = _fingerprints(mols)
    if others is not None:
        target = _fingerprints(others)
        return np.array([max(BulkTanimotoSimilarity(row, target), default=np.nan) for row in prints])
    rest = ([*prints[:i], *prints[i + 1 :]] for i in range(len(prints)))
    return np.array([max(BulkTanimotoSimilarity(row, own), default=np.nan) for row, own in zip(prints, rest)])


def kl_score(generated: Sequence[Chem.Mol], reference: Sequence[Chem.Mol]) -> float:
    """Mean of exp(-KL) over nine descriptors and the nearest similarity; NaN below three molecules each."""
    if min(len(generated), len(reference)) < 3:
        return float("nan")
    pairs = []
    with rdBase.BlockLogs():
        heavy = [[Chem.RemoveHs(mol) for mol in _spaced(group)] for group in (reference, generated)]
        for real, functions in ((True, _REAL), (False, _COUNTS)):
            pairs += [(real, *(np.array([fn(mol) for mol in group]) for group in heavy)) for fn in functions]
    pairs.append((True, *(nearest_similarities(group) for group in heavy)))
    return float(np.mean([np.exp(-kl_divergence(p, q, is_real=real)) for real, p, q in pairs]))


def kl_divergence(reference: np.ndarray, generated: np.ndarray, *, is_real: bool) -> float:
    """KL(reference || generated) in nats of two samples: kernel densities, or shares of counts.

    A real-valued sample without spread has no density: both samples are then compared as counts of distinct values.
    """
    if is_real and reference.std() > 0 and generated.std() > 0:
        both = np.concatenate([reference, generated])
        points = np.linspace(both.min(), both.max(), _POINTS)
        p, q = (gaussian_kde(values)(points) + _FLOOR for values in (reference, generated))
    else:
        values, index = np.unique(np.concatenate([reference, generated]), return_inverse=True)
        parts = np.split(index, [len(reference)])
        p, q = (np.bincount(part, minlength=len(values)) / len(part) + _FLOOR for part in parts)
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def _fingerprints(mols: Sequence[Chem.Mol]) -> list:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=_RADIUS, fpSize=_BITS)
    return [generator.GetFingerprint(Chem.RemoveHs(mol)) for mol in _spaced(mols)]


def _spaced(mols: Sequence[Chem.Mol]) -> list[Chem.Mol]:
    """At most `MAX_COMPARED` molecules, evenly spaced."""
    index = np.unique(np.linspace(0, len(mols) - 1, min(len(mols), MAX_COMPARED)).round().astype(int))
    return [mols[int(k)] for k in index] if len(mols) else []
