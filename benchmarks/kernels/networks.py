"""Which network is fastest at the sizes of small molecules: the dense PairFormer against EGNN, PaiNN and EQGAT.

All have five layers and about as many parameters as `PairFormer(width=96, pair_width=48)`. All get atoms, charges and
bonds as classes and a time; PairFormer and EQGAT also predict bonds, EGNN and PaiNN say nothing about pairs. The
networks of a case run in one process, one after the other in every round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from molecules.networks import PairFormer
from scidiff.nn import get_network

__all__ = ["network_rows"]

ATOMS, CHARGES, BONDS, LAYERS = 5, 3, 4, 5
CASES = {"64 x 9": (64, 9), "256 x 9": (256, 9), "64 x 18": (64, 18), "256 x 18": (256, 18), "64 x 29": (64, 29)}
QUICK = ("64 x 9", "64 x 18")


def network_rows(*, quick: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the table: one a case and network.

    Args:
        quick: Fewer rounds and cases.
        seed: Of weights and molecules.

    Returns:
        Medians of forward passes without gradient (``forward_ms``) and of forward and backward passes (``step_ms``),
        and the time of PairFormer divided by that of the network (``forward_ratio``, ``step_ratio``).
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = make_networks()
        cases = {name: molecules(*CASES[name]) for name in (QUICK if quick else CASES)}
    return [row for name, batch in cases.items() for row in _rows(name, networks, batch, 3 if quick else 9)]


def make_networks() -> dict[str, Callable[[dict[str, Tensor], Tensor], list[Tensor]]]:
    """The networks as functions of a state and times that return all outputs."""
    pairformer = PairFormer(ATOMS, CHARGES, BONDS, width=96, pair_width=48, num_layers=LAYERS)
    size = num_parameters(pairformer)
    found: dict[str, Any] = {"PairFormer": _Dense(pairformer)}
    for label, name, options in [
        ("EGNN", "egnn", {}),
        ("PaiNN", "painn", {"radius": 8.0}),
        ("EQGAT", "eqgat", {"pair_channels": BONDS}),
    ]:
        found[label] = _Sparse(_with_parameters(size, name, **options))
    return found


def num_parameters(network: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in network.parameters())


def molecules(num_graphs: int, num_atoms: int) -> tuple[dict[str, Tensor], Tensor]:
    """Random states of unit scale and times."""
    bond = torch.randint(BONDS, (num_graphs, num_atoms, num_atoms)).triu(1)
    state = {
        "pos": torch.randn(num_graphs, num_atoms, 3),
        "atom": torch.randint(ATOMS, (num_graphs, num_atoms)),
        "charge": torch.randint(CHARGES, (num_graphs, num_atoms)),
        "bond": bond + bond.mT,
    }
    return state, torch.rand(num_graphs)


class _Dense(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, state: dict[str, Tensor], t: Tensor) -> list[Tensor]:
        return list(self.network(state, t, {}).values())


class _Sparse(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, state: dict[str, Tensor], t: Tensor) -> list[Tensor]:
        h = torch.cat([one_hot(state["atom"], ATOMS), one_hot(state["charge"], CHARGES)], -1).float()
        out = self.network(h, state["pos"], t, edge_attr=one_hot(state["bond"], BONDS).float())
        return [value for value in out if value is not None]


def _with_parameters(wanted: int, name: str, **options: Any) -> nn.Module:
    """The widest network (in steps of 8 channels) with no more than ``wanted`` parameters."""

    def build(width: int) -> nn.Module:
        sizes = {"hidden": width, "num_layers": LAYERS, "edge_channels": BONDS, "time_channels": 16}
        return get_network(name, ATOMS + CHARGES, out_channels=ATOMS + CHARGES, **sizes, **options)

    width = 8
    while num_parameters(build(width + 8)) <= wanted:
        width += 8
    return build(width)


def _rows(name: str, networks: dict[str, Any], batch: tuple, rounds: int) -> list[dict[str, Any]]:
    forward: dict[str, list[float]] = {label: [] for label in networks}
    step: dict[str, list[float]] = {label: [] for label in networks}
    for round_ in range(rounds + 1):
        for label, network in networks.items():
            times = _timed(lambda: network(*batch), lambda: _step(network, batch))  # noqa: B023
            if round_:  # the first one warms up
                forward[label].append(times[0])
                step[label].append(times[1])
    base = statistics.median(forward["PairFormer"]), statistics.median(step["PairFormer"])
    rows = []
    for label, network in networks.items():
        own = statistics.median(forward[label]), statistics.median(step[label])
        rows.append(
            {
                "case": name,
                "network": label,
                "parameters": num_parameters(network),
                "forward_ms": round(1e3 * own[0], 2),
                "step_ms": round(1e3 * own[1], 2),
                "forward_ratio": round(base[0] / own[0], 2),
                "step_ratio": round(base[1] / own[1], 2),
            }
        )
    return rows


def _timed(forward: Callable[[], Any], step: Callable[[], None]) -> tuple[float, float]:
    start = time.perf_counter()
    with torch.no_grad():
        forward()
    middle = time.perf_counter()
    step()
    return middle - start, time.perf_counter() - middle


def _step(network: nn.Module, batch: tuple) -> None:
    network.zero_grad()
    torch.stack([out.square().mean() for out in network(*batch)]).sum().backward()
