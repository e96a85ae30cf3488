"""Forecasts of the packaged models of trajectories beside forecasts without a network, and what steps and length cost.

    python -m benchmarks.trajectories [--quick] [models|steps|rollout|tasks ...] [--only NAME ...]

``models``: displacement errors on test systems. ``steps``: the error against the number of evaluations, same systems
and same seeds. ``rollout``: long forecasts, block by block, against the data. ``tasks``: one model of all tasks beside
models of one. Without a name all parts run; what did not run stays as it was recorded. ``--quick`` takes few systems
and writes nothing. Models that are not packaged and data that is not there are left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.report import RESULTS, machine, write_json, write_section
from benchmarks.trajectories_page import page
from scidiff.assets import data_folder
from trajectories import TrajectoryBatch, TrajectoryGenerator
from trajectories.data.eth_ucy import ETHUCYDataModule
from trajectories.data.md import MDTrajectoryDataModule
from trajectories.data.mmff import MMFFMDDataModule, MolecularSystem
from trajectories.data.particles import NBodyDataModule
from trajectories.data.simulators import simulate
from trajectories.evaluate import evaluate
from trajectories.metrics import relative_energy_drift
from trajectories.molecular import Topology, bonds_intact, frame_temperature
from trajectories.slow_modes import bond_divergence, distances
from trajectories.tasks import known_mask

TITLE = "Trajectories"
STEPS = (5, 10, 20, 50, 100, 1000)


@dataclass(frozen=True)
class Case:
    """One packaged model: its test systems and how they are judged.

    Attributes:
        checkpoint: Name of the packaged model.
        data: Builds the data module.
        cond_frames: Given frames.
        systems: Test systems; the first ones.
        samples: Samples of a system.
        metric: Convention of the errors.
        published: A figure of others with another training, or an empty string.
        note: What tells the row from others of the same model.
        options: Of the sampler, chosen on validation windows.
    """

    checkpoint: str
    data: Callable[[], Any]
    cond_frames: int
    systems: int
    samples: int
    metric: str = "mean"
    published: str = ""
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def _particles(kind: str) -> Callable[[], Any]:
    return lambda: NBodyDataModule(kind)


def _people(scene: str) -> Callable[[], Any]:
    return lambda: ETHUCYDataModule(scene, max_agents=1, path=_recordings())


def _recordings() -> str | None:
    folder = data_folder()
    return None if folder is None else str(folder / "trajectories" / "eth_ucy" / "eth_ucy.npz")


@functools.cache
def _cold() -> MMFFMDDataModule:
    """A run of ethanol at 300 K that no training has seen."""
    return MMFFMDDataModule("CCO", 300.0, friction=0.001, steps=100_000, seed=1)


def _noise(factor: float) -> dict[str, Any]:
    """Added noise that gives forecasts of validation windows of one temperature the temperature of the data."""
    churn = {"s_churn": 7.0, "s_noise": factor, "s_min": 0.02, "s_max": 5.0}
    return {"steps": 16, "solver": "edm_heun", "solver_options": churn}


_EGNN_GROUP = {
    "charged": "EGNN .186/.426, EqMotion .141/.310, GeoTDM .110/.258",
    "gravity": "EGNN .310/.709, EqMotion .302/.671, GeoTDM .256/.613",
    "spring": "EGNN .010/.023, EqMotion .013/.036, GeoTDM .003/.008",
}
_SCENES = {"hotel": "GeoTDM .13/.21, EqMotion .12/.18", "zara2": "GeoTDM .16/.30, EqMotion .13/.23"}
PARTICLES = tuple(
    Case(kind, _particles(kind), 10, count, 5, published=_EGNN_GROUP[kind])
    for kind, count in (("charged", 100), ("gravity", 64), ("spring", 60))
)
MOLECULES = (
    Case("ethanol", lambda: MDTrajectoryDataModule("ethanol"), 10, 48, 3, note="500 K", options=_noise(1.35)),
    Case("ethanol", _cold, 10, 48, 3, note="300 K", options=_noise(0.98)),
    Case("benzene", lambda: MDTrajectoryDataModule("benzene"), 10, 48, 3, note="500 K", options=_noise(1.2)),
)
PEOPLE = tuple(
    Case(f"pedestrians_{scene}", _people(scene), 8, count, 20, "min_agent", _SCENES[scene], *how)
    for scene, count in (("hotel", 1197), ("zara2", 600))
    for how in (("best of 20 representers", {"representers": True}), ("best of 20 samples", {}))
)
CASES = (*PARTICLES, *MOLECULES, *PEOPLE)
_KINDS = {(case.checkpoint, case.note) for case in CASES}
ONE_FOR_ALL = Case("ethanol_all_tasks", MOLECULES[0].data, 10, 80, 1)
SPECIALISTS = {"forecast": "ethanol", "interpolation": "ethanol_interpolation"}
_KNOWN = {"forecast": list(range(10)), "interpolation": [*range(5), *range(-5, 0)]}


def systems(case: Case, part: str, count: int | None = None) -> TrajectoryBatch:
    """Systems of one part; ``count`` at equal distances, all if None."""
    data = case.data()
    rows = data.part(part)
    chosen = torch.arange(len(rows))
    if count is not None and count < len(rows):
        chosen = torch.linspace(0, len(rows) - 1, count).round().long()
    tensors = rows[chosen]
    z = atoms(data)
    z = None if z is None else torch.from_numpy(z).expand(len(chosen), -1)
    meta = {"kind": data.kind} if isinstance(data, NBodyDataModule) else {}
    return TrajectoryBatch(
        tensors["pos"], tensors["h"], tensors["edge_attr"], z=z, dt=float(data.dt), unit=data.unit, meta=meta
    )


def atoms(data: Any) -> np.ndarray | None:
    """Atomic numbers (N,) of a molecule."""
    if isinstance(data, MDTrajectoryDataModule):
        return data.frames.z
    return MolecularSystem(data.smiles, data.seed).z if isinstance(data, MMFFMDDataModule) else None


def observed(batch: TrajectoryBatch, frames: int) -> TrajectoryBatch:
    """The first frames."""
    return TrajectoryBatch(batch.pos[:, :, :frames], batch.h, batch.edge_attr, z=batch.z, dt=batch.dt, unit=batch.unit)


def measure_model(case: Case, count: int | None = None) -> dict[str, Any]:
    """Errors of one model and of forecasts without a network."""
    generator = TrajectoryGenerator.from_pretrained(case.checkpoint)
    test, train = systems(case, "test", count or case.systems), systems(case, "train", 2000)
    seen, start = case.cond_frames, time.process_time()
    options = {"num_samples": case.samples, "seed": 0, **case.options}
    drawn = generator.forecast(observed(test, seen), test.pos.shape[2] - seen, **options)
    seconds = (time.process_time() - start) / len(drawn)
    report = evaluate(drawn, test, train=train, cond_frames=seen, num_samples=case.samples)
    return {
        "checkpoint": case.checkpoint,
        "note": case.note,
        "metric": case.metric,
        "options": case.options,
        "published": case.published,
        "nfe": drawn.meta["nfe"],
        "seconds_per_sample": seconds,
        "ade_of_the_mean": float(_errors(_ensemble_mean(drawn, len(test)), test, seen).mean()),
        "report": report.to_dict(),
        **_bonds(case, drawn),
    }


def _bonds(case: Case, drawn: TrajectoryBatch) -> dict[str, Any]:
    """Jensen-Shannon distance of the bond lengths of forecasts to those of the whole run, and between its halves.

    Test windows alone are too few: two samples of 1,600 frames of one law are 0.12 apart in 100 bins.
    """
    data = case.data()
    z = atoms(data)
    if z is None:
        return {}
    run = (data.frames.pos if isinstance(data, MDTrajectoryDataModule) else data.runs[0].pos).astype(np.float64)
    bonds = Topology.of(run[::100], z).bonds
    made = drawn.pos[:, :, case.cond_frames :].transpose(1, 2).flatten(0, 1).double().numpy()
    halves = np.array_split(distances(run, bonds), 2)
    distance = bond_divergence(np.concatenate(halves), distances(made, bonds))
    return {"bonds": {"distance": distance, "floor": bond_divergence(*halves)}}


def measure_steps(case: Case, steps: tuple[int, ...], count: int) -> dict[str, Any]:
    """Mean error of one sample a system, for each number of steps, and its difference from the finest one."""
    generator = TrajectoryGenerator.from_pretrained(case.checkpoint)
    test = systems(case, "test", count)
    added = test.pos.shape[2] - case.cond_frames
    rows, found = [], {}
    for number in steps:
        start = time.process_time()
        drawn = generator.forecast(observed(test, case.cond_frames), added, steps=number, seed=1)
        seconds = (time.process_time() - start) / len(drawn)
        found[number] = _errors(drawn, test, case.cond_frames).mean((1, 2))
        rows.append({"steps": number, "nfe": drawn.meta["nfe"], "seconds_per_sample": seconds})
    finest = found[max(steps)]
    for row in rows:
        own = found[row["steps"]]
        difference = own - finest
        row |= {"ade": float(own.mean()), "error": _standard_error(own)}
        row |= {"difference": float(difference.mean()), "difference_error": _standard_error(difference)}
    return {"checkpoint": case.checkpoint, "systems": count, "rows": rows}


def measure_tasks(case: Case, specialists: dict[str, str], count: int) -> list[dict[str, Any]]:
    """Errors of one model of all tasks and of a model of each, on the same systems with the same noise.

    The standard error of the ratio of the means is that of the mean of e_all - ratio e_one, over the mean of e_one.
    """
    generator = TrajectoryGenerator.from_pretrained(case.checkpoint)
    test = systems(case, "test", count)
    rows = []
    for task, name in specialists.items():
        mask = known_mask(_KNOWN[task], test.pos.shape[2], test.pos.shape[1])
        errors = []
        for model in (generator, TrajectoryGenerator.from_pretrained(name)):
            drawn = model.interpolate(test, mask, steps=20, solver="dpmpp_2m", seed=2)
            is_kept = torch.equal(drawn.pos[:, mask.T], test.pos[:, mask.T])
            errors.append((drawn.pos - test.pos)[:, ~mask.T].double().norm(dim=-1).mean(1).numpy())
        ratio = float(errors[0].mean() / errors[1].mean())
        rows.append(
            {
                "checkpoint": case.checkpoint,
                "task": task,
                "specialist": name,
                "systems": len(test),
                "ade": [float(e.mean()) for e in errors],
                "ratio": ratio,
                "ratio_error": _standard_error(errors[0] - ratio * errors[1]) / float(errors[1].mean()),
                "given_entries_unchanged": is_kept,
            }
        )
    return rows


def measure_molecule_rollout(case: Case, frames: int, count: int) -> dict[str, Any]:
    """Bonds, temperature and growth of a molecule over a long forecast."""
    generator = TrajectoryGenerator.from_pretrained(case.checkpoint)
    data = case.data()
    start = systems(case, "test", count)
    long = generator.rollout(
        observed(start, case.cond_frames), frames, window=30, keep=case.cond_frames, seed=0, **case.options
    )
    made = long.pos[:, :, case.cond_frames :].transpose(1, 2).double().numpy()
    z, real = data.frames.z, data.frames.pos[: int(0.6 * len(data.frames.pos))].astype(np.float64)
    bonds = Topology.of(real[::10], z).bonds
    dt = float(data.dt)
    warmth = [float(frame_temperature(part, dt, z).mean()) for part in (made, real[None])]
    return {
        "checkpoint": case.checkpoint,
        "frames": frames,
        "rollouts": count,
        "bonds_intact": bonds_intact(made, real[::10], bonds),
        "temperature": warmth[0],
        "real_temperature": warmth[1],
    }


def measure_particle_rollout(case: Case, kind: str, frames: int, count: int) -> dict[str, Any]:
    """Median relative drift of the energy of particles over a long forecast, and that of the simulation."""
    generator = TrajectoryGenerator.from_pretrained(case.checkpoint)
    seen = case.cond_frames
    runs = simulate(kind, count, num_frames=seen + frames, seed=43, first_run=3 * 10**6)
    start = TrajectoryBatch(runs.pos[:, :, :seen], runs.h, runs.edge_attr, dt=runs.dt)
    long = generator.rollout(start, frames, window=30, keep=seen, seed=0)
    drifts = {}
    for name, pos in (("model", long.pos), ("simulation", runs.pos)):
        batch = TrajectoryBatch(pos, runs.h, runs.edge_attr, dt=runs.dt)
        drift = relative_energy_drift(batch, {"kind": kind}, float(runs.dt))
        assert drift is not None
        drifts[name] = {str(f): float(np.median(drift[:, f - 2])) for f in (seen + 20, seen + frames - 1)}
    return {"checkpoint": case.checkpoint, "frames": frames, "rollouts": count, "median_energy_drift": drifts}


def _ensemble_mean(drawn: TrajectoryBatch, count: int) -> TrajectoryBatch:
    return TrajectoryBatch(drawn.pos.reshape(count, -1, *drawn.pos.shape[1:]).mean(1))


def _errors(drawn: TrajectoryBatch, test: TrajectoryBatch, seen: int) -> np.ndarray:
    """Distances (B, N, F) of one forecast a system."""
    return (drawn.pos - test.pos)[:, :, seen:].double().norm(dim=-1).numpy()


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def _recorded(content: dict[str, Any]) -> dict[str, Any]:
    """What was recorded before, with the rows of ``content`` in the place of theirs; models of no case are left out."""
    path = RESULTS / "trajectories.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for part, rows in content.items():
        old = found.get(part, []) if isinstance(rows, list) else []
        if part == "models":
            old = [row for row in old if (row["checkpoint"], row["note"]) in _KINDS]
        new = {_place(row): row for row in rows} if isinstance(rows, list) else {}
        merged = [new.pop(_place(row), row) for row in old] + list(new.values())
        found[part] = sorted(merged, key=_order) if isinstance(rows, list) else rows
    return found


def _place(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(name, "")) for name in ("checkpoint", "note", "task"))


def _order(row: dict[str, Any]) -> int:
    names = [case.checkpoint for case in CASES]
    return names.index(row["checkpoint"]) if row["checkpoint"] in names else len(names)


def _attempt(measure: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results in a list; an empty one if the model or the data is not there."""
    try:
        result = measure(*arguments)
    except FileNotFoundError as error:
        print(f"left out: {error}")
        return []
    rows = result if isinstance(result, list) else [result]
    for row in rows:
        print(row, flush=True)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="models, steps, rollout, tasks; default: all")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models of these names only")
    parser.add_argument("--quick", action="store_true", help="few systems, up to 100 steps; writes nothing")
    options = parser.parse_args()
    known = ("models", "steps", "rollout", "tasks")
    chosen = options.parts or list(known)
    if not set(chosen) <= set(known):
        parser.error(f"parts are {', '.join(known)}, got {' '.join(options.parts)}.")
    torch.set_num_threads(1)
    few = 16 if options.quick else None

    def asked(*cases: Case) -> list[Case]:
        return [case for case in cases if options.only is None or case.checkpoint in options.only]

    content: dict[str, Any] = {"machine": machine()}
    if "models" in chosen:
        content["models"] = [row for case in asked(*CASES) for row in _attempt(measure_model, case, few)]
    if "steps" in chosen:
        steps = STEPS[:-1] if options.quick else STEPS
        content["steps"] = [
            row for case in asked(PARTICLES[0]) for row in _attempt(measure_steps, case, steps, few or 16)
        ]
    if "rollout" in chosen:
        long, count = (60, 2) if options.quick else (500, 4)
        molecules, particles = asked(MOLECULES[0]), asked(PARTICLES[0])
        content["rollout"] = [
            *(row for case in molecules for row in _attempt(measure_molecule_rollout, case, long, count)),
            *(row for case in particles for row in _attempt(measure_particle_rollout, case, "charged", 60, few or 16)),
        ]
    if "tasks" in chosen:
        count = few or ONE_FOR_ALL.systems
        content["tasks"] = [
            row for case in asked(ONE_FOR_ALL) for row in _attempt(measure_tasks, case, SPECIALISTS, count)
        ]
    print(page(content))
    if not options.quick:
        content = _recorded(content)
        write_json("trajectories", content)
        write_section(TITLE, page(content))


if __name__ == "__main__":
    main()
