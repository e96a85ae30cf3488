"""What the verbs of ``scidiff molecules`` do."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molecules.bulk import sample_in_chunks
from molecules.data import packaged_qm9, prepare_file, prepare_qm9
from molecules.elements import number_of
from molecules.evaluate import evaluate_file
from molecules.fragments import read_part
from molecules.generator import MoleculeGenerator
from molecules.molecule_list import MoleculeList
from molecules.path import denoising_path, draw_film, write_path
from molecules.properties import COMPUTED
from molecules.records import record_of
from scidiff.checkpoint import resolve
from scidiff.chunks import fingerprint, partial_folder
from scidiff.cli.errors import UserError
from scidiff.cli.options import check_distinct, check_outputs, trainer_devices
from scidiff.cli.output import note, pairs, write
from scidiff.files import atomic_path

__all__ = ["demo", "evaluate", "export", "generate", "prepare"]

_FILE_OPTIONS = {"hydrogens": "explicit", "charge": 0, "elements": None, "max_atoms": None, "seed": 0}


def prepare(options: argparse.Namespace) -> int:
    """Prepare QM9 or a user's file and print the cleaning report."""
    is_qm9 = options.name == "qm9"
    out = options.out or (Path("data") / (f"{options.name}.npz" if is_qm9 else f"{Path(options.name).stem}.npz"))
    elements = None if options.elements is None else [_element(word) for word in options.elements.split(",")]
    properties = [] if options.properties is None else [name.strip() for name in options.properties.split(",")]
    _check_prepare(options, is_qm9)
    check_distinct(out, options.report, options.source if is_qm9 else Path(options.name))
    check_outputs(out, suffixes=(".npz",))
    check_outputs(options.report, suffixes=(".json",))
    if is_qm9:
        report = prepare_qm9(options.source, out, properties=properties, workers=options.workers, progress=True)
    else:
        report = prepare_file(
            options.name,
            out,
            hydrogens=options.hydrogens,
            charge=options.charge,
            elements=elements,
            max_atoms=options.max_atoms,
            properties=properties,
            seed=options.seed,
            workers=options.workers,
            progress=True,
        )
    if options.report is not None:
        _write_json(options.report, report.to_dict())
    write(report.table())
    write(f"wrote {out}")
    return 0


def generate(options: argparse.Namespace) -> int:
    """Draw molecules and write them in the formats that were asked for."""
    outputs = [options.out, options.smiles, options.xyz, options.grid, options.grid_3d, options.report]
    outputs += [options.trajectory, options.film]
    check_distinct(*outputs)
    check_outputs(options.out, suffixes=(".sdf",))
    check_outputs(options.grid, options.grid_3d, suffixes=(".png",))
    check_outputs(options.film, suffixes=(".gif",))
    check_outputs(options.smiles, options.xyz, options.trajectory)
    check_outputs(options.report, suffixes=(".json",))
    devices = trainer_devices(options.device, options.devices)
    condition = _wishes(options.condition)
    part = None if options.fixed is None else record_of(read_part(options.fixed, options.keep))
    path = resolve(options.checkpoint, "molecules")
    generator = MoleculeGenerator.from_pretrained(path)
    start = time.perf_counter()
    drawn = sample_in_chunks(
        generator,
        options.num_samples,
        partial_folder(options.out),
        origin=fingerprint(path),
        n_atoms=options.n_atoms,
        steps=options.steps,
        solver=options.solver,
        condition=condition,
        guidance_scale=options.guidance_scale,
        fixed=part,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=True,
        note=note,
        num_nodes=options.num_nodes,
        **devices,
    )
    if drawn is None:  # one process of several writes the results
        return 0
    mols, chunks = drawn
    seconds = time.perf_counter() - start
    summary = {**_summary(mols), **_kept_wishes(mols, condition or {}, generator)}
    if options.valid_only:
        mols = mols.valid()
        if not len(mols):
            raise UserError(
                "none of the molecules is valid, so there is nothing to write; drop --valid-only to see them."
            )
    _write_molecules(mols, generator, options)
    if options.trajectory or options.film:
        _write_denoising(generator, options, {"condition": condition, "fixed": part})
    chunks.remove()
    cost = {"steps": options.steps or generator.steps, "nfe": mols.nfe, "seconds": round(seconds, 1)}
    write(pairs({**summary, **cost, "wrote": str(options.out)}))
    return 0


def _write_molecules(mols: MoleculeList, generator: MoleculeGenerator, options: argparse.Namespace) -> None:
    """The SDF, and what else was asked for."""
    mols.to_sdf(options.out)
    if options.smiles:
        mols.to_smiles(options.smiles)
    if options.xyz:
        mols.to_xyz(options.xyz)
    if options.grid:
        mols.grid(options.grid)
    if options.grid_3d:
        mols.grid_3d(options.grid_3d)
    if options.report:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report carries its own notes
            mols.report(reference=_packaged_reference(generator)).to_json(options.report)


def _write_denoising(generator: MoleculeGenerator, options: argparse.Namespace, control: dict[str, Any]) -> None:
    """The way of molecule 0 from noise, drawn once more."""
    frames = denoising_path(
        generator,
        seed=options.seed,
        n_atoms=options.n_atoms,
        steps=options.steps,
        solver=options.solver,
        guidance_scale=options.guidance_scale,
        **control,
    )
    if options.trajectory:
        write_path(frames, options.trajectory)
    if options.film:
        draw_film(frames, options.film)


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate a file of molecules."""
    check_outputs(options.out, suffixes=(".json",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the report carries its own notes
        report = evaluate_file(
            options.file,
            reference=options.reference,
            training=options.training,
            protocols=options.protocol,
            out=options.out,
            split=options.split,
            hydrogens=options.hydrogens,
            energy=options.energy,
            geometry_checks=options.geometry_checks,
            max_reference=options.max_reference,
            seed=options.seed,
        )
    write(report.table())
    return 0


def export(module: Any, path: str | Path, *, metadata: Mapping[str, Any]) -> None:
    """Write the checkpoint for users after training."""
    MoleculeGenerator(module).save(path, metadata=metadata)


def demo(folder: Path) -> list[Path]:
    """One hundred molecules from the packaged checkpoint: SDF, pictures, report."""
    generator = MoleculeGenerator.from_pretrained("qm9_implicit")
    mols = generator.sample(100, seed=0, progress=True)
    paths = [folder / name for name in ("molecules.sdf", "molecules.png", "molecules_3d.png", "report.json")]
    mols.to_sdf(paths[0])
    mols.grid(paths[1])
    mols.grid_3d(paths[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mols.report(reference=_packaged_reference(generator)).to_json(paths[3])
    note(f"molecules: {mols.valid_fraction:.0%} of {len(mols)} valid and connected at {mols.nfe} evaluations.")
    return paths


def _packaged_reference(generator: MoleculeGenerator) -> list[Any] | None:
    """Test part of the packaged QM9 subset, with or without hydrogens as the model; None for models of other data."""
    if generator.spec.provenance.get("name") != "qm9":
        return None
    part = packaged_qm9().subset("test")
    part = part if generator.spec.explicit_h else part.without_hydrogens()
    return [part.record(i) for i in range(len(part))]


def _summary(mols: MoleculeList) -> dict[str, Any]:
    valid = [verdict for verdict in mols.verdicts if verdict.valid]
    failures = ", ".join(f"{reason} {count}" for reason, count in mols.failures().most_common(4))
    return {
        "molecules": len(mols),
        "valid and connected": f"{len(valid) / len(mols):.1%}",
        "unique": f"{len({verdict.smiles for verdict in valid}) / max(1, len(valid)):.1%}",
        **({"failures": failures} if failures else {}),
    }


def _wishes(words: Sequence[str] | None) -> dict[str, float] | None:
    """``["logp=2", "tpsa=40,qed=0.5"]`` as numbers by name."""
    if not words:
        return None
    wishes: dict[str, float] = {}
    for word in ",".join(words).split(","):
        name, _, value = word.partition("=")
        try:
            wishes[name.strip()] = float(value)
        except ValueError as error:
            raise UserError(f"--condition expects NAME=NUMBER, for example logp=2; got {word!r}.") from error
    return wishes


def _kept_wishes(mols: MoleculeList, condition: Mapping[str, float], generator: MoleculeGenerator) -> dict[str, str]:
    """Mean absolute error of each wished property over the valid molecules, beside the spread of the data."""
    rows = {}
    for name, wish in condition.items():
        if name in COMPUTED:
            error = np.abs(mols.values(name) - wish)
            told = f"{np.nanmean(error):.3g}" if np.isfinite(error).any() else "unknown"
            rows[f"{name} = {wish:g}"] = f"mean error {told} (std of the data {generator.spec.properties[name][1]:.3g})"
    return rows


def _check_prepare(options: argparse.Namespace, is_qm9: bool) -> None:
    """Refuse options that the other kind of preparation would ignore."""
    if not is_qm9:
        if options.source is not None:
            raise UserError("--source belongs to 'prepare qm9'; give your own file as the first argument.")
        return
    given = [name for name, default in _FILE_OPTIONS.items() if getattr(options, name) != default]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{names} cannot be used with 'prepare qm9', which keeps all molecules with their hydrogens.")


def _element(symbol: str) -> str:
    try:
        number_of(symbol.strip())
    except (ValueError, KeyError) as error:
        raise UserError(
            f"--elements names {symbol.strip()!r}, which is not an element symbol; expected e.g. C,N,O."
        ) from error
    return symbol.strip()


def _write_json(path: Path, content: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
