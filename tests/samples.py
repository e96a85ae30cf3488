"""Sample objects for the round-trip test of tests/test_architecture.py: one entry a public `Configurable` class.

Only classes whose constructor has required arguments need an entry; others are built without arguments. An entry is a
function without arguments, so that no domain is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from scidiff.configurable import Configurable

__all__ = ["NOT_DESCRIBED", "SAMPLES", "ToyNetwork"]


class ToyNetwork(Configurable, nn.Module):
    """x -> W x, for objects that contain a network."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, x: Tensor, t: Tensor, cond: dict) -> Tensor:
        return x @ self.weight


def _make(class_path: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    module, _, name = class_path.rpartition(".")

    def build() -> Any:
        named = {key: _made(value) for key, value in kwargs.items()}
        return getattr(import_module(module), name)(*_made(args), **named)

    return build


def _made(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_made(item) for item in value)
    return value() if callable(value) else value


def _molecule_denoiser(spec: Any) -> Any:
    return import_module("molecules.recipes").Flow().denoiser(ToyNetwork(), spec)


_VPSDE = _make("scidiff.schedules.VPSDE", 0.2, 15.0)
_PROCESS = _make("scidiff.process.Process", _VPSDE)
_DENOISER = _make("scidiff.denoiser.Denoiser", ToyNetwork, _PROCESS, prediction="eps")
_SPEC = _make(
    "molecules.data.spec.MoleculeSpec",
    elements=("C", "O"),
    charges=(0, 1),
    explicit_h=False,
    aromatic=False,
    sizes={3: 5, 4: 7},
    atom_marginal=(0.75, 0.25),
    charge_marginal=(0.9, 0.1),
    charge_given_atom=((0.9, 0.1), (0.9, 0.1)),
    bond_marginal=(0.5, 0.4, 0.1, 0.0),
    pos_std=1.5,
    valences={"C": {0: {4: 1.0}}, "O": {0: {2: 1.0}}},
)
_MOLECULE_DENOISER = _make("tests.samples._molecule_denoiser", _SPEC)

_GRAPH_SPEC = _make(
    "graphs.data.spec.GraphSpec",
    attributes=_make("graphs.data.attributes.Attributes", node_names=("symbol",), node_classes=(("C",), ("O",))),
    sizes={3: 5, 4: 7},
    node_marginal=(0.75, 0.25),
    edge_marginal=(0.5, 0.5),
)
_GRAPH_DENOISER = _make("scidiff.denoiser.Denoiser", ToyNetwork, _make("graphs.processes.graph_process", _GRAPH_SPEC))

_EGNN = _make("scidiff.nn.egnn.EGNN", 2, hidden=8, num_layers=1, edge_channels=1, vector_channels=1)

_EGTN = _make("trajectories.networks.egtn.EGTN", 1, hidden=8, num_layers=1)

SAMPLES: dict[str, Callable[[], Any]] = {
    "graphs.data.datamodule.GraphDataModule": _make("graphs.data.datamodule.GraphDataModule", "some.npz"),
    "graphs.data.spec.GraphSpec": _GRAPH_SPEC,
    "graphs.generator.GraphGenerator": _make("graphs.generator.GraphGenerator", _GRAPH_DENOISER, _GRAPH_SPEC),
    "molecules.anchors.MoleculeDenoiser": _MOLECULE_DENOISER,
    "molecules.data.datamodule.MoleculeDataModule": _make("molecules.data.datamodule.MoleculeDataModule", "some.npz"),
    "molecules.data.spec.MoleculeSpec": _SPEC,
    "molecules.generator.MoleculeGenerator": _make("molecules.generator.MoleculeGenerator", _MOLECULE_DENOISER, _SPEC),
    "scidiff.couplings.Reflow": _make("scidiff.couplings.Reflow", _DENOISER),
    "scidiff.denoiser.Denoiser": _DENOISER,
    "scidiff.discrete.Categorical": _make("scidiff.discrete.Categorical", [0.25, 0.75]),
    "scidiff.nn.s4d.S4D": _make("scidiff.nn.s4d.S4D", 4, 6, init="legs"),
    "scidiff.nn.egnn.EGNN": _make("scidiff.nn.egnn.EGNN", 3, hidden=8, attention=True),
    "scidiff.nn.eqgat.EQGAT": _make("scidiff.nn.eqgat.EQGAT", 3, hidden=8, cross_product=True),
    "scidiff.nn.e3nn_conv.E3NNConv": _make(
        "scidiff.nn.e3nn_conv.E3NNConv", 3, hidden=4, num_layers=1, vector_channels=1
    ),
    "scidiff.nn.ponita.PONITA": _make("scidiff.nn.ponita.PONITA", 3, hidden=8, num_orientations=6),
    "scidiff.nn.torchmd_et.TorchMDET": _make("scidiff.nn.torchmd_et.TorchMDET", 3, hidden=8, cutoff=2.0),
    "scidiff.nn.painn.PaiNN": _make("scidiff.nn.painn.PaiNN", 3, hidden=8, cutoff=2.0),
    "scidiff.noise.Compose": _make("scidiff.noise.Compose", [_make("scidiff.noise.ZeroMean")]),
    "scidiff.oracles.DeltaOracle": _make("scidiff.oracles.DeltaOracle", [[0.0, 1.0], [2.0, 3.0]]),
    "scidiff.oracles.GaussianOracle": _make("scidiff.oracles.GaussianOracle", [0.5], [[2.0]]),
    "scidiff.oracles.MixtureOracle": _make("scidiff.oracles.MixtureOracle", [1.0], [[0.5]], [[[2.0]]]),
    "scidiff.process.Component": _make("scidiff.process.Component", _VPSDE),
    "scidiff.process.Process": _PROCESS,
    "scidiff.targets.StableTarget": _make("scidiff.targets.StableTarget", _PROCESS),
    "timeseries.data.datamodule.TimeSeriesDataModule": _make(
        "timeseries.data.datamodule.TimeSeriesDataModule", "exchange"
    ),
    "timeseries.data.scaling.SeriesSpec": _make("timeseries.data.scaling.SeriesSpec", "h", 4, 8, lags=[5]),
    "timeseries.bases.GPResidual": _make("timeseries.bases.GPResidual", 6, 8, "ou", 1.0, 4, 0.1),
    "timeseries.baselines.Ridge": _make("timeseries.baselines.Ridge", 4, 2),
    "scidiff.tables.DiscreteVP": _make("scidiff.tables.DiscreteVP", betas=[0.1, 0.2, 0.3]),
    "trajectories.data.folder.TrajectoryFolder": _make("trajectories.data.folder.TrajectoryFolder", "some.npz"),
    "trajectories.data.md.MDTrajectoryDataModule": _make("trajectories.data.md.MDTrajectoryDataModule", "some.npz"),
    "trajectories.diffusion.TrajectoryDiffusion": _make("trajectories.diffusion.TrajectoryDiffusion", _EGTN),
    "trajectories.generator.TrajectoryGenerator": _make(
        "trajectories.generator.TrajectoryGenerator",
        _make("scidiff.denoiser.Denoiser", _EGTN, _make("trajectories.process.trajectory_process"), prediction="eps"),
    ),
    "trajectories.priors.Learned": _make("trajectories.priors.Learned", _EGTN),
    "trajectories.soft.SoftEGTN": _make("trajectories.soft.SoftEGTN", _EGTN, channels=4),
    "trajectories.regression.PositionRegression": _make("trajectories.regression.PositionRegression", _EGNN),
}

# classes that inherit `Configurable` but live in memory only, with the reason
NOT_DESCRIBED = {
    "scidiff.guidance.base.Guided": "made by wrap(); a guidance may hold functions",
    "scidiff.interpolants.Custom": "made of callables, and says so",
}
