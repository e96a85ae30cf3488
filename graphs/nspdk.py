r"""Neighbourhood subgraph pairwise distance kernel of molecules, with exact features.

Features are pairs of neighbourhoods of radius r = 0..4 around two atoms at distance d = 0..4, and single
neighbourhoods; a neighbourhood is the chain of its breadth-first layers, each a sorted list of (label, degree), bonds
counting as vertices. Features are normalised inside each (r, d), then over the molecule. The kernel is linear, so
that MMD^2 = |mean phi_a - mean phi_b|^2 takes time linear in the number of molecules. The published code hashes
features into 2^16 bins with a salted hash and differs from run to run by about 1 %; exact features do not.

References: Costa and De Grave 2010, "Fast neighborhood subgraph pairwise distance kernel"; Goyal et al. 2020,
"GraphGen" (its use for generated graphs).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from rdkit import Chem
from scipy.sparse import csr_matrix

__all__ = ["Vocabulary", "nspdk_distances", "nspdk_features", "nspdk_mmd2"]

_RADIUS, _DISTANCE = 4, 4


class Vocabulary:
    """Numbers for neighbourhoods and features, shared by the sets that are compared."""

    def __init__(self) -> None:
        self._neighbourhoods: dict[tuple, int] = {}
        self._features: dict[tuple, int] = {}

    def neighbourhood(self, key: tuple) -> int:
        """Number of a neighbourhood."""
        return self._neighbourhoods.setdefault(key, len(self._neighbourhoods))

    def feature(self, key: tuple) -> int:
        """Number of a feature."""
        return self._features.setdefault(key, len(self._features))

    def __len__(self) -> int:
        return len(self._features)


def nspdk_mmd2(generated: Iterable[Chem.Mol], reference: Iterable[Chem.Mol]) -> float:
    """MMD^2 (V-statistic) between two sets of molecules.

    Args:
        generated: Sanitised molecules without hydrogens.
        reference: The same.

    Raises:
        ValueError: If one of the sets is empty.
    """
    return nspdk_distances([generated], reference)[0]


def nspdk_distances(sets: Iterable[Iterable[Chem.Mol]], reference: Iterable[Chem.Mol]) -> list[float]:
    """MMD^2 of several sets against one reference, whose features are made once; see `nspdk_mmd2`.

    Raises:
        ValueError: If one of the sets is empty.
    """
    vocabulary = Vocabulary()
    means = []
    for mols in (reference, *sets):
        features = nspdk_features(mols, vocabulary)
        if not features.nnz:
            raise ValueError("expected sets with molecules, one is empty.")
        means.append(np.asarray(features.mean(axis=0)).reshape(-1))
    real, *others = (np.pad(mean, (0, len(vocabulary) - len(mean))) for mean in means)
    return [float(((other - real) ** 2).sum()) for other in others]


def nspdk_features(mols: Iterable[Chem.Mol], vocabulary: Vocabulary) -> csr_matrix:
    """Normalised features (molecules, features), sparse.

    Args:
        mols: Sanitised molecules.
        vocabulary: Numbers of features; grows.
    """
    columns: list[int] = []
    values: list[float] = []
    starts = [0]
    for mol in mols:
        row = _row(mol, vocabulary)
        columns += row.keys()
        values += row.values()
        starts.append(len(columns))
    return csr_matrix((values, columns, starts), shape=(len(starts) - 1, len(vocabulary)))


def _row(mol: Chem.Mol, vocabulary: Vocabulary) -> dict[int, float]:
    distance = Chem.GetDistanceMatrix(mol).astype(int)
    chains = _chains(mol, distance, vocabulary)
    counts: Counter[tuple[int, ...]] = Counter()
    for v, own in enumerate(chains):
        for u in np.flatnonzero(distance[v] <= _DISTANCE).tolist():
            d = int(distance[v, u])
            for r, (a, b) in enumerate(zip(own, chains[u])):
                counts[min(a, b), max(a, b), r, d] += 1
                counts[b, r, d] += 1
    blocks: Counter[tuple[int, int]] = Counter()
    for key, count in counts.items():
        blocks[key[-2], key[-1]] += count**2
    whole = len(blocks) ** 0.5
    return {vocabulary.feature(key): count / (blocks[key[-2], key[-1]] ** 0.5 * whole) for key, count in counts.items()}


def _chains(mol: Chem.Mol, distance: np.ndarray, vocabulary: Vocabulary) -> list[list[int]]:
    """Numbers of the neighbourhoods of radius 0, 1, ... of every atom, as far as an atom is at that distance."""
    atoms = [(atom.GetSymbol(), atom.GetDegree()) for atom in mol.GetAtoms()]
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), (str(int(b.GetBondTypeAsDouble())), 2)) for b in mol.GetBonds()]
    found = []
    for row in distance.tolist():
        layers: list[list[tuple[str, int]]] = [[] for _ in range(_RADIUS + 1)]
        links: list[list[tuple[str, int]]] = [[] for _ in range(_RADIUS + 1)]
        for atom, d in zip(atoms, row):
            if d <= _RADIUS:
                layers[d].append(atom)
        for a, b, label in bonds:
            near = min(row[a], row[b])
            if near < _RADIUS:
                links[near].append(label)
        chain = [vocabulary.neighbourhood((-1, tuple(layers[0])))]
        for r in range(1, _RADIUS + 1):
            if not layers[r]:
                break
            key = (chain[-1], tuple(sorted(links[r - 1])), tuple(sorted(layers[r])))
            chain.append(vocabulary.neighbourhood(key))
        found.append(chain)
    return found
