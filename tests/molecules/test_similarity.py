"""Similarities pair by pair from bits, divergences against closed forms and quadrature."""

import itertools

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from scipy.integrate import quad
from scipy.stats import gaussian_kde

from molecules.data import packaged_qm9
from molecules.similarity import internal_diversity, kl_divergence, kl_score, nearest_similarities

MOLS = [Chem.MolFromSmiles(text) for text in ("CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCO")]


def table():
    """Shared over united bits, by numpy."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    bits = [generator.GetFingerprintAsNumPy(mol).astype(bool) for mol in MOLS]
    return np.array([[(a & b).sum() / (a | b).sum() for b in bits] for a in bits])


def test_diversity_and_nearest_neighbours_pair_by_pair():
    similar = table()
    pairs = [similar[i, j] for i, j in itertools.combinations(range(5), 2)]
    assert internal_diversity(MOLS) == pytest.approx(1 - np.mean(pairs), rel=1e-12)
    assert nearest_similarities(MOLS[:3], MOLS[3:]).tolist() == pytest.approx(similar[:3, 3:].max(1).tolist())
    own = similar - 2 * np.eye(5)
    assert nearest_similarities(MOLS).tolist() == pytest.approx(own.max(1).tolist())
    assert internal_diversity([MOLS[0]] * 3) == 0
    assert np.isnan(internal_diversity(MOLS[:1]))


def test_explicit_hydrogens_change_nothing():
    assert internal_diversity([Chem.AddHs(mol) for mol in MOLS]) == pytest.approx(internal_diversity(MOLS), rel=1e-12)


def test_divergence_of_counts_is_the_sum():
    p, q = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    wanted = 0.5 * np.log(0.5 / 0.25) + 0.25 * np.log(0.25 / 0.5)
    assert kl_divergence(p, q, is_real=False) == pytest.approx(wanted, abs=1e-8)
    assert kl_divergence(p, p, is_real=False) == 0
    assert kl_divergence(np.zeros(4), np.ones(4), is_real=False) > 20  # disjoint, up to the floor


def test_divergence_of_densities_by_quadrature():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 400), rng.normal(0.5, 1.2, 400)
    p, q = gaussian_kde(x), gaussian_kde(y)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    inside = [quad(lambda v, k=k: k(v)[0], low, high, limit=200)[0] for k in (p, q)]
    wanted = quad(lambda v: p(v)[0] / inside[0] * np.log(p(v)[0] * inside[1] / (q(v)[0] * inside[0])), low, high)[0]
    assert kl_divergence(x, y, is_real=True) == pytest.approx(wanted, abs=2e-3)


def test_score_is_one_for_the_same_set_and_falls_for_another():
    part = packaged_qm9().subset(np.arange(120)).without_hydrogens()
    mols = [Chem.MolFromSmiles(text) for text in part.smiles]
    assert kl_score(mols, mols) == pytest.approx(1.0, abs=1e-12)
    aromatic = [Chem.MolFromSmiles("c1ccccc1" + "C" * k) for k in range(30)]
    halves = kl_score(mols[:60], mols[60:])
    assert kl_score(aromatic, mols) < halves < 1
    assert np.isnan(kl_score(mols[:2], mols))
