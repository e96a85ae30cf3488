"""Properties of molecules that RDKit computes from the bonds, by name: what a model can be conditioned on.

References: Wildman and Crippen 1999 (logP); Ertl et al. 2000 (TPSA); Bickerton et al. 2012 (QED).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors

from scidiff.assets import suggestion

__all__ = ["COMPUTED", "check_computed", "property_table", "property_values"]

COMPUTED: dict[str, Callable[[Chem.Mol], float]] = {
    "logp": Crippen.MolLogP,  # type: ignore[attr-defined]
    "tpsa": rdMolDescriptors.CalcTPSA,
    "qed": QED.qed,
    "mol_weight": Descriptors.MolWt,  # type: ignore[attr-defined]
    "heteroatoms": rdMolDescriptors.CalcNumHeteroatoms,
    "rings": rdMolDescriptors.CalcNumRings,
    "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
    "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "h_donors": rdMolDescriptors.CalcNumHBD,
    "h_acceptors": rdMolDescriptors.CalcNumHBA,
    "fraction_csp3": rdMolDescriptors.CalcFractionCSP3,
}
"""Functions of a sanitised molecule without explicit hydrogens. TPSA in square angstrom, weight in g/mol."""


def check_computed(names: Sequence[str]) -> None:
    """Raise ValueError for a name that is not in `COMPUTED`."""
    for name in names:
        if name not in COMPUTED:
            raise ValueError(f"unknown property {name!r}{suggestion(name, sorted(COMPUTED))}.")


def property_table(smiles: Sequence[str], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Properties (M,) float32 of molecules given as SMILES; NaN for text that is none.

    Raises:
        ValueError: If a name is unknown.
    """
    check_computed(names)
    with rdBase.BlockLogs():
        mols = [Chem.MolFromSmiles(text) for text in smiles]
    return {name: property_values(mols, name) for name in names}


def property_values(mols: Sequence[Chem.Mol | None], name: str) -> np.ndarray:
    """One property (M,) float32 of sanitised molecules; NaN for None. Explicit hydrogens do not count as atoms.

    Raises:
        ValueError: If the name is unknown.
    """
    check_computed([name])
    values = [np.nan if mol is None else COMPUTED[name](Chem.RemoveHs(mol)) for mol in mols]
    return np.array(values, dtype=np.float32)
