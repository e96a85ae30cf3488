"""Strain of generated conformers in the MMFF94 force field.

strain = E(generated) - E(after relaxation), in kcal/mol, always to be read with the share of molecules for which MMFF
has parameters (``energy_validity``): a model whose odd molecules cannot be typed would otherwise look relaxed.

References: Halgren 1996 (MMFF94); the protocol is SemlaFlow's (at most 1000 iterations, RMSD of all atoms).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers, rdMolAlign

__all__ = ["Strain", "mmff_strain", "strain_summary"]


class Strain(NamedTuple):
    """Energies in kcal/mol and the RMSD in angstrom between the generated and the relaxed conformer."""

    energy: float
    relaxed_energy: float
    rmsd: float
    num_atoms: int

    @property
    def strain(self) -> float:
        """Energy released by the relaxation, kcal/mol."""
        return self.energy - self.relaxed_energy


def mmff_strain(mol: Chem.Mol | None, *, max_iterations: int = 1000) -> Strain | None:
    """Strain of a sanitised molecule with a conformer; missing hydrogens are added with coordinates first.

    Returns:
        None if there is no molecule or conformer, if MMFF has no parameters or if the energy is not finite.
    """
    if mol is None or not mol.GetNumConformers():
        return None
    with rdBase.BlockLogs():
        mol = Chem.AddHs(mol, addCoords=True)
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            return None
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
        if field is None:
            return None
        before, start = Chem.Mol(mol), field.CalcEnergy()
        if not np.isfinite(start):
            return None
        field.Initialize()
        field.Minimize(maxIts=max_iterations)
        # Atoms are compared one to one: no search over symmetric matchings.
        pairs = [(i, i) for i in range(mol.GetNumAtoms())]
        rmsd = rdMolAlign.AlignMol(before, mol, atomMap=pairs)
        return Strain(float(start), float(field.CalcEnergy()), float(rmsd), mol.GetNumAtoms())


def strain_summary(mols: Sequence[Chem.Mol | None], *, max_iterations: int = 1000) -> dict[str, float]:
    """Strain of the valid molecules of a set.

    Returns:
        ``energy_validity`` (share of the molecules given that MMFF can type), mean, median and 95 % quantile of the
        strain, mean strain per atom (kcal/mol), median RMSD (angstrom). Only ``energy_validity`` if none can be typed.
    """
    present = [mol for mol in mols if mol is not None]
    found = [row for row in (mmff_strain(mol, max_iterations=max_iterations) for mol in present) if row is not None]
    result = {"energy_validity": len(found) / len(present) if present else float("nan")}
    if found:
        strain = np.array([row.strain for row in found])
        result["strain_mean"] = float(strain.mean())
        result["strain_median"] = float(np.median(strain))
        result["strain_q95"] = float(np.quantile(strain, 0.95))
        result["strain_per_atom"] = float((strain / [row.num_atoms for row in found]).mean())
        result["relax_rmsd_median"] = float(np.median([row.rmsd for row in found]))
    return result
