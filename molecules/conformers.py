"""Geometries for molecules that are known by their SMILES only: distance geometry, then a force field.

Such geometries stand in for measured or quantum-chemical ones; sets made from them say so in their name.

References: Wang et al. 2020 (ETKDGv3); Halgren 1996 (MMFF94).
"""

from __future__ import annotations

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molecules.bonds import BondError
from molecules.records import MoleculeRecord, record_of

__all__ = ["embed_smiles"]

_ATTEMPTS = 20
_ITERATIONS = 500


def embed_smiles(smiles: str, seed: int = 0) -> MoleculeRecord:
    """A conformer with all hydrogens: ETKDGv3, up to 20 attempts, then MMFF94, at most 500 iterations.

    Args:
        smiles: One molecule.
        seed: Seed of the distance geometry.

    Raises:
        BondError: ``parse`` if the SMILES is none, ``embed`` if no geometry was found or MMFF94 has no parameters.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or not mol.GetNumAtoms():
            raise BondError("parse", f"{smiles!r} is no SMILES.")
        mol = Chem.AddHs(mol)
        options = rdDistGeom.ETKDGv3()
        options.randomSeed = seed
        options.maxIterations = _ATTEMPTS
        if rdDistGeom.EmbedMolecule(mol, options) != 0:
            raise BondError("embed", f"no geometry of {smiles!r} was found in {_ATTEMPTS} attempts.")
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            raise BondError("embed", f"MMFF94 has no parameters for {smiles!r}.")
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=_ITERATIONS)
        Chem.Kekulize(mol, clearAromaticFlags=True)
    return record_of(mol)
