"""Tables of chemistry: element symbols, covalent radii, allowed valences.

References: Cordero et al. 2008, "Covalent radii revisited"; Dunn & Koes 2025, "FlowMol3" (kekulised valence table);
Nikitin et al. 2025, "GEOM-Drugs Revisited".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = [
    "BOND_CLASSES",
    "CHEMIST_VALENCES",
    "COVALENT_RADII",
    "QM9_VALENCES",
    "SYMBOLS",
    "ValenceTable",
    "covalent_radii",
    "number_of",
    "symbol_of",
]

ValenceTable = Mapping[str, Mapping[int, Sequence[int]]]
"""Allowed valences by element symbol and formal charge; what is not listed is not allowed."""

_SYMBOL_LINE = (
    "* H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
    "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
    "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl "
    "Mc Lv Ts Og"
)
SYMBOLS: tuple[str, ...] = tuple(_SYMBOL_LINE.split())
"""Element symbols by atomic number; index 0 is no element."""

BOND_CLASSES: tuple[str, ...] = ("none", "single", "double", "triple", "aromatic")
"""Names of the bond codes 0 to 4."""

COVALENT_RADII: dict[str, float] = {
    "H": 0.31,
    "C": 0.76,
    "N": 0.71,
    "O": 0.66,
    "F": 0.57,
    "P": 1.07,
    "S": 1.05,
    "Cl": 1.02,
    "Br": 1.20,
    "I": 1.39,
}
"""Covalent radii in angstrom; an element that is missing counts as 1.5."""

CHEMIST_VALENCES: ValenceTable = {
    "H": {0: (1,)},
    "B": {0: (3,), -1: (4,)},
    "C": {0: (4,), 1: (3,), -1: (3,)},
    "N": {0: (3,), 1: (4,), -1: (2,), -2: (1,)},
    "O": {0: (2,), -1: (1,), 1: (3,)},
    "F": {0: (1,)},
    "Si": {0: (4,)},
    "P": {0: (3, 5), 1: (4,)},
    "S": {0: (2, 4, 6), -1: (1,), 1: (3,), 2: (4,), 3: (5,)},
    "Cl": {0: (1,), 1: (2,)},
    "Br": {0: (1,), 1: (2,)},
    "I": {0: (1,), 1: (2,), 2: (3,)},
}
"""FlowMol3's kekulised table with sulfoxides, Si and B added and its noise (S 0 with 3, S +3 with 2) left out."""

QM9_VALENCES: ValenceTable = {
    "H": {0: (1,)},
    "C": {0: (4,), 1: (3,), -1: (3,)},
    "N": {0: (3,), 1: (4,), -1: (2,)},
    "O": {0: (2,), -1: (1,), 1: (3,)},
    "F": {0: (1,)},
}
"""The rows of the chemist table that QM9 can need."""

_UNKNOWN_RADIUS = 1.5
_RADIUS_OF_NUMBER = np.array([COVALENT_RADII.get(symbol, _UNKNOWN_RADIUS) for symbol in SYMBOLS])
_NUMBER_OF_SYMBOL = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}


def symbol_of(number: int) -> str:
    """Element symbol of an atomic number in 1..118.

    Raises:
        ValueError: If the number is no element.
    """
    if not 1 <= number < len(SYMBOLS):
        raise ValueError(f"atomic numbers lie in 1..{len(SYMBOLS) - 1}, got {number}.")
    return SYMBOLS[number]


def number_of(symbol: str) -> int:
    """Atomic number of an element symbol, case insensitive.

    Raises:
        ValueError: If the symbol is no element.
    """
    number = _NUMBER_OF_SYMBOL.get(symbol.strip().capitalize(), 0)
    if not number:
        raise ValueError(f"{symbol!r} is not an element symbol. Expected for example 'C' or 'Cl'.")
    return number


def covalent_radii(numbers: np.ndarray) -> np.ndarray:
    """Covalent radii in angstrom, of the shape of ``numbers``; 1.5 for elements without an entry."""
    return _RADIUS_OF_NUMBER[np.asarray(numbers, dtype=np.int64)]
