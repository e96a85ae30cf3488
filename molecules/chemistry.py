"""Chemistry of molecules, the public names: tables, records, assembly with RDKit and the strict verdict.

Tables live in `molecules.elements`, records and their assembly in `molecules.records`, the verdict in
`molecules.verdict`.
"""

from molecules.elements import (
    BOND_CLASSES,
    CHEMIST_VALENCES,
    COVALENT_RADII,
    QM9_VALENCES,
    SYMBOLS,
    ValenceTable,
    covalent_radii,
    number_of,
    symbol_of,
)
from molecules.records import (
    AROMATIC,
    MoleculeRecord,
    assemble,
    bond_ratios,
    canonical_smiles,
    good_geometry,
    kekulise,
    record_of,
    within_bond_band,
)
from molecules.verdict import Verdict, Vocabulary, judge, judge_mol

__all__ = [
    "AROMATIC",
    "BOND_CLASSES",
    "CHEMIST_VALENCES",
    "COVALENT_RADII",
    "QM9_VALENCES",
    "SYMBOLS",
    "MoleculeRecord",
    "ValenceTable",
    "Verdict",
    "Vocabulary",
    "assemble",
    "bond_ratios",
    "canonical_smiles",
    "covalent_radii",
    "good_geometry",
    "judge",
    "judge_mol",
    "kekulise",
    "number_of",
    "record_of",
    "symbol_of",
    "within_bond_band",
]
