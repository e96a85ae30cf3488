"""Published tables of the stability protocols: EDM bond lengths and valences, legacy and corrected valences.

Bond lengths are in picometre, valences are sums of bond orders, charges are formal charges. The tables are data only;
how they are used (and what is wrong with some of them) stands in `molecules.stability`.

References:
    Hoogeboom et al. 2022, "Equivariant Diffusion for Molecule Generation in 3D" (EDM), appendix on bond distances.
    Vignac et al. 2023, "MiDi: Mixed Graph and 3D Denoising Diffusion for Molecule Generation" (legacy valences).
    Nikitin et al. 2025, "GEOM-Drugs Revisited" (corrected valences, aromatic form); Dunn and Koes 2025, "FlowMol3"
    (corrected valences, kekulised form).
"""

from __future__ import annotations

__all__ = [
    "AROMATIC",
    "EDM_DOUBLE",
    "EDM_MARGINS",
    "EDM_SINGLE",
    "EDM_TRIPLE",
    "EDM_VALENCE",
    "KEKULISED",
    "LEGACY",
]

EDM_MARGINS = (10.0, 5.0, 3.0)
"""Margins in pm added to the single, double and triple bond lengths."""

EDM_SINGLE: dict[str, dict[str, int]] = {
    "H": {
        **{"H": 74, "C": 109, "N": 101, "O": 96, "F": 92, "B": 119, "Si": 148},
        **{"P": 144, "As": 152, "S": 134, "Cl": 127, "Br": 141, "I": 161},
    },
    "C": {"C": 154, "N": 147, "O": 143, "F": 135, "Si": 185, "P": 184, "S": 182, "Cl": 177, "Br": 194, "I": 214},
    "N": {"N": 145, "O": 140, "F": 136, "Cl": 175, "Br": 214, "S": 168, "I": 222, "P": 177},
    "O": {"O": 148, "F": 142, "Br": 172, "S": 151, "P": 163, "Si": 163, "Cl": 164, "I": 194},
    "F": {"F": 142, "S": 158, "Si": 160, "Cl": 166, "Br": 178, "P": 156, "I": 187},
    "B": {"Cl": 175},
    "Si": {"Si": 233, "S": 200, "Cl": 202, "Br": 215, "I": 243},
    "Cl": {"Cl": 199, "P": 203, "S": 207, "Br": 214},
    "S": {"S": 204, "Br": 225, "P": 210, "I": 234},
    "Br": {"Br": 228, "P": 222},
    "P": {"P": 221},
    "I": {"I": 266},
}
"""Single-bond lengths (pm), each unordered pair once."""

EDM_DOUBLE: dict[str, dict[str, int]] = {
    "C": {"C": 134, "N": 129, "O": 120, "S": 160},
    "N": {"N": 125, "O": 121},
    "O": {"O": 121, "P": 150},
    "P": {"S": 186},
}
"""Double-bond lengths (pm)."""

EDM_TRIPLE: dict[str, dict[str, int]] = {"C": {"C": 120, "N": 116, "O": 113}, "N": {"N": 110}}
"""Triple-bond lengths (pm)."""

EDM_VALENCE: dict[str, tuple[int, ...]] = {
    **{"H": (1,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "B": (3,), "Al": (3,), "Si": (4,)},
    **{"P": (3, 5), "S": (4,), "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2), "Bi": (3, 5)},
}
"""Allowed sums of bond orders under the EDM protocol, whatever the charge."""

LEGACY: dict[str, dict[int, tuple[int, ...]] | tuple[int, ...]] = {
    "H": {0: (1,), 1: (0,), -1: (0,)},
    "C": {0: (3, 4), 1: (3,), -1: (3,)},
    "N": {0: (2, 3), 1: (2, 3, 4), -1: (2,)},
    "O": {0: (2,), 1: (3,), -1: (1,)},
    "F": {0: (1,), -1: (0,)},
    "B": (3,),
    "Al": (3,),
    "Si": (4,),
    "P": {0: (3, 5), 1: (4,)},
    "S": {0: (2, 6), 1: (2, 3), 2: (4,), 3: (5,), -1: (3,)},
    "Cl": (1,),
    "As": (3,),
    "Br": {0: (1,), 1: (2,)},
    "I": (1,),
    "Hg": (1, 2),
    "Bi": (3, 5),
    "Se": (2, 4, 6),
}
"""Legacy MiDi valences per formal charge; an entry without charges holds for every charge."""

KEKULISED: dict[str, dict[int, tuple[int, ...]]] = {
    "H": {0: (1,)},
    "C": {0: (4,), 1: (3,), -1: (3,)},
    "N": {0: (3,), 1: (4,), -1: (2,), -2: (1,)},
    "O": {0: (2,), -1: (1,), 1: (3,)},
    "F": {0: (1,)},
    "P": {0: (3, 5), 1: (4,)},
    "S": {0: (2, 3, 6), -1: (1,), 1: (3,), 2: (4,), 3: (2, 5)},
    "Cl": {0: (1,), 1: (2,)},
    "Br": {0: (1,), 1: (2,)},
    "I": {0: (1,), 1: (2,), 2: (3,)},
}
"""Corrected valences of kekulised molecules (FlowMol3)."""

AROMATIC: dict[str, dict[int, tuple[tuple[int, int], ...]]] = {
    "H": {0: ((0, 1),)},
    "C": {0: ((0, 4), (2, 1), (2, 2), (3, 0)), 1: ((0, 3), (2, 1), (3, 0)), -1: ((0, 3), (2, 1), (3, 0))},
    "N": {
        0: ((0, 3), (2, 0), (2, 1), (3, 0)),
        1: ((0, 4), (2, 0), (2, 1), (2, 2), (3, 0)),
        -1: ((0, 2), (2, 0)),
        -2: ((0, 1),),
    },
    "O": {0: ((0, 2), (2, 0)), -1: ((0, 1),), 1: ((0, 3),)},
    "F": {0: ((0, 1),)},
    "Cl": {0: ((0, 1),), 1: ((0, 2),)},
    "Br": {0: ((0, 1),), 1: ((0, 2),)},
    "I": {0: ((0, 1),), 1: ((0, 2),), 2: ((0, 3),)},
    "S": {
        0: ((0, 2), (0, 3), (0, 6), (2, 0)),
        -1: ((0, 1),),
        1: ((0, 3), (2, 0), (2, 1), (3, 0)),
        2: ((0, 4), (2, 1), (2, 2)),
        3: ((0, 2), (0, 5)),
    },
    "P": {0: ((0, 3), (0, 5)), 1: ((0, 4),)},
    "Si": {0: ((0, 4),), 1: ((0, 5),)},
    "B": {0: ((0, 3),), -1: ((0, 4),)},
    "Bi": {0: ((0, 3),), 2: ((0, 5),)},
}
"""Corrected valences as (number of aromatic bonds, sum of the other orders) per element and charge (Revisited)."""
