"""A fixed part counts as unchanged only if its atoms, bonds and geometry are."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.molecule_control import SCAFFOLDS, UNCHANGED, deviation
from molecules.conformers import embed_smiles

PART = embed_smiles(SCAFFOLDS["oxetane"]).without_hydrogens()


def test_deviation_of_a_shifted_part_is_the_shift():
    assert PART.pos is not None
    moved = replace(PART, pos=PART.pos + np.array([0.03, 0.04, 0.0]))
    assert deviation(PART, PART) == 0
    assert deviation(moved, PART) == pytest.approx(UNCHANGED)


def test_other_elements_charges_and_bonds_are_another_part():
    numbers, charges, bonds = PART.numbers.copy(), PART.formal_charge.copy(), PART.bonds.copy()
    numbers[0], charges[0] = 7, 1
    bonds[0, 1] = bonds[1, 0] = 2
    for changed in ({"numbers": numbers}, {"formal_charge": charges}, {"bonds": bonds}):
        assert deviation(replace(PART, **changed), PART) == np.inf
