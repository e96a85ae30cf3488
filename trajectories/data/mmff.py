r"""Molecular dynamics of any molecule with the force field MMFF94, from its SMILES.

Langevin dynamics by BAOAB: half a kick, half a drift, friction and noise, half a drift, the new force, half a kick,

    v <- c v + sqrt(1 - c^2) sqrt(k_B T / m) xi,    c = exp(-friction dt).

The noise has no total momentum, so the centre of mass stays at the origin and 3 N - 3 degrees of freedom are at the
temperature; rotation is free. Units: angstrom, femtoseconds, amu, kcal/mol. Bonds of MMFF94 neither break nor form.

References: Leimkuhler and Matthews 2013, "Rational Construction of Stochastic Numerical Methods for Molecular Sampling"
(BAOAB); Halgren 1996 (MMFF94); Tosco et al. 2014 (its implementation in RDKit).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from torch import Tensor
from torch.utils.data import Dataset

from trajectories.data.datamodule import Part, TrajectoryDataModule
from trajectories.data.md import molecule_features
from trajectories.molecular import BOLTZMANN, KCAL, masses

__all__ = ["MMFFMDDataModule", "MolecularRun", "MolecularSystem", "langevin", "simulate_molecule"]

Force = Callable[[np.ndarray], tuple[float, np.ndarray]]


class MolecularRun(NamedTuple):
    """Frames of one run: positions and velocities (F, N, 3) float32, energies (F,) in kcal/mol, fs between frames."""

    pos: np.ndarray
    vel: np.ndarray
    energy: np.ndarray
    dt: float


class MolecularSystem:
    """A molecule with its hydrogens, its force field, and relaxed positions to start from.

    Args:
        smiles: The molecule.
        seed: Seed of the first geometry.

    Raises:
        ValueError: If the SMILES cannot be read, has several fragments, or MMFF94 lacks parameters for it.

    Attributes:
        z: Atomic numbers (N,).
        masses: amu (N,).
        pos: Relaxed positions (N, 3) about the centre of mass, angstrom.
    """

    def __init__(self, smiles: str, seed: int = 0) -> None:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles)
        if mol is None or len(Chem.GetMolFrags(mol)) != 1:
            raise ValueError(f"expected the SMILES of one molecule, got {smiles!r}.")
        mol = Chem.AddHs(mol)
        if rdDistGeom.EmbedMolecule(mol, randomSeed=seed) != 0:
            raise ValueError(f"RDKit finds no geometry for {smiles!r}.")
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        if properties is None:
            raise ValueError(f"MMFF94 has no parameters for {smiles!r}.")
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000)
        self._mol = mol  # the force field refers to its conformer
        self._field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
        self._field.Initialize()
        self.z = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
        self.masses = masses(self.z)
        pos = np.array(mol.GetConformer().GetPositions())
        self.pos = pos - self.masses @ pos / self.masses.sum()

    def __call__(self, pos: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy in kcal/mol and forces (N, 3) in kcal/mol/angstrom."""
        flat = pos.ravel().tolist()
        energy = self._field.CalcEnergy(flat)  # also renews the distances, without which the gradient would be stale
        return energy, -np.array(self._field.CalcGrad(flat)).reshape(pos.shape)


def langevin(
    force: Force,
    pos: np.ndarray,
    mass: np.ndarray,
    temperature: float,
    *,
    dt: float = 0.5,
    friction: float = 0.01,
    steps: int = 200_000,
    every: int = 10,
    equilibration: int = 20_000,
    rng: np.random.Generator,
) -> MolecularRun:
    """Langevin dynamics by BAOAB, without motion of the centre of mass.

    Args:
        force: Energy (kcal/mol) and forces (kcal/mol/angstrom) of positions (N, 3).
        pos: First positions, angstrom.
        mass: amu (N,).
        temperature: K.
        dt: Step, fs.
        friction: 1/fs.
        steps: Steps that are recorded.
        every: Steps between frames.
        equilibration: Steps before.
        rng: Source of velocities and noise.
    """
    kick = (0.5 * dt * KCAL / mass)[:, None]
    thermal = np.sqrt(KCAL * BOLTZMANN * temperature / mass)[:, None]
    kept = math.exp(-friction * dt)
    noise = math.sqrt(1 - kept**2) * thermal
    share = mass / mass.sum()
    x = pos - share @ pos
    v = thermal * rng.normal(size=x.shape)
    v -= share @ v
    energy, f = force(x)
    count = steps // every
    frames, velocities, energies = np.empty((count, *x.shape), np.float32), np.empty((count, *x.shape), np.float32), []
    for step in range(-equilibration, count * every):
        v += kick * f
        x += 0.5 * dt * v
        xi = noise * rng.standard_normal(x.shape)
        v = kept * v + xi - share @ xi
        x += 0.5 * dt * v
        energy, f = force(x)
        v += kick * f
        if step >= 0 and (step + 1) % every == 0:
            frames[step // every], velocities[step // every] = x, v
            energies.append(energy)
    return MolecularRun(frames, velocities, np.array(energies, np.float32), dt * every)


def simulate_molecule(smiles: str, temperature: float, *, seed: int = 0, **options: Any) -> MolecularRun:
    """A run of a molecule, the same for the same seed.

    Args:
        smiles: The molecule.
        temperature: K.
        seed: Seed of geometry, velocities and noise.
        options: Of `langevin`.

    Example:
        >>> run = simulate_molecule("CCO", 300.0, steps=1000, equilibration=0)
        >>> run.pos.shape
        (100, 9, 3)
    """
    system = MolecularSystem(smiles, seed)
    rng = np.random.default_rng((seed, round(1000 * temperature)))
    return langevin(system, system.pos, system.masses, temperature, rng=rng, **options)


class _TemperatureWindows(Dataset[dict[str, Tensor]]):
    """Windows (W,) of runs (R, F, N, 3), with the temperature of each."""

    def __init__(self, pos: Tensor, run: Tensor, start: Tensor, num_frames: int, features: dict[str, Tensor]) -> None:
        self.pos, self.run, self.start, self.num_frames, self.features = pos, run, start, num_frames, features

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, item: Tensor) -> dict[str, Tensor]:
        frames = self.start[item][:, None] + torch.arange(self.num_frames)
        pos = self.pos[self.run[item][:, None], frames].transpose(1, 2).contiguous()
        shared = {
            name: self.features[name].expand(len(item), *self.features[name].shape) for name in ("h", "edge_attr")
        }
        return {"pos": pos, **shared, "condition": self.features["temperature"][self.run[item]]}


class MMFFMDDataModule(TrajectoryDataModule):
    """Windows of MMFF94 dynamics of a molecule of the elements H to F, at one or several temperatures.

    Every run is cut in time: 60 % training, 20 % validation, 20 % test. The temperature of a window is its
    ``condition`` (B, 1), in K. Simulated at set-up, about 5 to 10 seconds for 200,000 steps of ethanol.

    Args:
        smiles: The molecule.
        temperature: K, one or several.
        dt: Step of the integration, fs.
        friction: 1/fs.
        every: Steps between frames.
        steps: Steps of each run.
        num_frames: Frames of a window.
        num_val: Validation windows of a run, a fixed stride apart.
        num_test: Test windows of a run.
        batch_size: Most windows in a batch.
        seed: Seed of the runs and of the order of batches.
        num_workers: Worker processes of the loaders.

    Raises:
        ValueError: If a number is out of its range; at set-up, if the molecule cannot be simulated.
    """

    unit = "angstrom"

    def __init__(
        self,
        smiles: str = "CCO",
        temperature: float | Sequence[float] = 500.0,
        *,
        dt: float = 0.5,
        friction: float = 0.01,
        every: int = 10,
        steps: int = 200_000,
        num_frames: int = 30,
        num_val: int = 256,
        num_test: int = 1000,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        temperatures = (temperature,) if isinstance(temperature, float | int) else tuple(temperature)
        if min(every, steps, num_frames, num_val, num_test) < 1 or min(dt, friction, *temperatures) <= 0:
            raise ValueError("temperatures, dt, friction and all counts of MMFFMDDataModule must be positive.")
        self.smiles, self.temperatures = smiles, tuple(float(value) for value in temperatures)
        self.step, self.friction, self.every, self.steps = dt, friction, every, steps
        self.num_frames, self.sizes = num_frames, {"train": None, "val": num_val, "test": num_test}
        self._runs: list[MolecularRun] | None = None

    @property
    def dt(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Femtoseconds between frames."""
        return self.step * self.every

    @property
    def runs(self) -> list[MolecularRun]:
        """One run a temperature, simulated at the first call."""
        if self._runs is None:
            options = {"dt": self.step, "friction": self.friction, "every": self.every, "steps": self.steps}
            self._runs = [simulate_molecule(self.smiles, t, seed=self.seed, **options) for t in self.temperatures]
        return self._runs

    def load(self, name: Part) -> Dataset[dict[str, Tensor]]:
        """Windows of one part."""
        pos = torch.from_numpy(np.stack([run.pos for run in self.runs]))
        total = pos.shape[1]
        ends = [0, int(0.6 * total), int(0.8 * total), total]
        place = ("train", "val", "test").index(name)
        room = ends[place + 1] - ends[place] - self.num_frames + 1
        if room < 1:
            raise ValueError(f"{total} frames are too few for windows of {self.num_frames} in the {name} part.")
        count = min(room, self.sizes[name] or room)
        start = ends[place] + torch.arange(count) * (room // count)
        system = MolecularSystem(self.smiles, self.seed)
        h, edge_attr = molecule_features(system.z, system.pos)
        features = {"h": h, "edge_attr": edge_attr, "temperature": torch.tensor(self.temperatures)[:, None]}
        run = torch.arange(len(pos)).repeat_interleave(count)
        return _TemperatureWindows(pos, run, start.repeat(len(pos)), self.num_frames, features)
