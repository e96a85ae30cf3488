"""What the verbs of ``scidiff graphs`` do."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphs.data.generators import community_small
from graphs.data.graph_set import SPLITS, GraphSet
from graphs.data.sources import load_named, prepare_named, split_codes
from graphs.evaluate import evaluate as judge
from graphs.evaluate import evaluate_file, load_reference
from graphs.io import check_output, read_graphs, write_graphs
from graphs.plots import draw_grid, plot_statistics
from graphs.vun import connected
from scidiff.assets import data_folder
from scidiff.checkpoint import resolve
from scidiff.chunks import fingerprint, partial_folder
from scidiff.cli.errors import UserError
from scidiff.cli.options import check_distinct, check_outputs, trainer_devices
from scidiff.cli.output import note, pairs, write

__all__ = ["demo", "evaluate", "export", "generate", "plot", "prepare"]

_PICTURES = (".png", ".pdf", ".svg")
_FILMED = 8


def prepare(options: argparse.Namespace) -> int:
    """Write a named data set with its split."""
    out = options.out or Path("data") / f"{options.name}.npz"
    check_distinct(out, options.source)
    check_outputs(out, suffixes=(".npz",))
    if options.source is not None and not options.source.is_dir():
        raise UserError(f"--source {str(options.source)!r} is no folder.")
    graphs = prepare_named(options.name, options.source, charges=options.charges, seed=options.seed)
    graphs.to_npz(out)
    parts = {name: len(graphs.part(name)) for name in SPLITS}
    write(pairs({**_summary(graphs), **parts, "wrote": str(out)}))
    return 0


def generate(options: argparse.Namespace) -> int:
    """Draw graphs and write them in the format of the suffix."""
    check_distinct(options.out, options.plot, options.gif, options.fixed)
    check_output(options.out)
    check_outputs(options.plot, suffixes=_PICTURES)
    check_outputs(options.gif, suffixes=(".gif",))
    devices = trainer_devices(options.device, options.devices)
    path = resolve(options.checkpoint, "graphs")
    fixed = None if options.fixed is None else _one(options.fixed)
    from graphs.bulk import sample_in_chunks
    from graphs.generator import GraphGenerator

    generator = GraphGenerator.from_pretrained(path)
    if options.out.suffix in (".smi", ".sdf") and not generator.spec.attributes.is_molecular:
        raise UserError(f"output {str(options.out)!r} is for molecules, which this model does not draw.")
    start = time.perf_counter()
    chosen = {
        "fixed": fixed,
        "label": _label(options.label, generator.spec.attributes.graph_classes),
        "guidance_scale": options.guidance_scale,
        "steps": options.steps,
        "solver": options.solver,
    }
    drawn = sample_in_chunks(
        generator,
        options.num_samples,
        partial_folder(options.out),
        origin=fingerprint(path),
        **chosen,
        graph_nodes=options.graph_nodes,
        keep="largest_component" if options.largest_component else "all",
        seed=options.seed,
        batch_size=options.batch_size,
        progress=True,
        note=note,
        num_nodes=options.num_nodes,
        **devices,
    )
    if drawn is None:  # one process of several writes the results
        return 0
    graphs, chunks = drawn
    seconds = time.perf_counter() - start
    write_graphs(graphs, options.out)
    if options.plot:
        draw_grid(graphs, options.plot)
    if options.gif:  # the same graphs again: a graph depends on its own seed only
        seeds = graphs.seeds[:_FILMED]
        again = generator.sample(len(seeds), seed=seeds, num_nodes=options.graph_nodes, path=True, **chosen)
        again.film(options.gif)
    chunks.remove()
    cost = {"nfe": graphs.nfe, "seconds": round(seconds, 1)}
    write(pairs({**_summary(graphs.graph_set), **cost, "wrote": str(options.out)}))
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate a file of graphs."""
    check_distinct(options.out, options.plot, options.file)
    check_outputs(options.out, suffixes=(".json",))
    check_outputs(options.plot, suffixes=_PICTURES)
    report = evaluate_file(
        options.file,
        options.reference,
        train=options.training,
        kernel=options.kernel,
        family=options.family,
        protocol=options.protocol,
        drop_isolated=options.drop_isolated,
        resamples=max(1, options.resamples),
        seed=options.seed,
        out=options.out,
    )
    if options.plot:
        plot_statistics(read_graphs(options.file), load_reference(options.reference, "test"), options.plot)
    write(report.table())
    return 0


def plot(options: argparse.Namespace) -> int:
    """Draw a file of graphs."""
    check_distinct(options.out, options.file)
    check_outputs(options.out, suffixes=_PICTURES)
    graphs = read_graphs(options.file)
    if options.reference is not None:
        plot_statistics(graphs, load_reference(options.reference, "test"), options.out)
    else:
        draw_grid(graphs, options.out, max_graphs=options.num_graphs, columns=options.columns)
    write(f"wrote {options.out}")
    return 0


def export(module: Any, path: str | Path, *, metadata: Mapping[str, Any]) -> None:
    """Write the checkpoint for users after training."""
    from graphs.generator import GraphGenerator

    GraphGenerator(module).save(path, metadata=metadata)


def demo(folder: Path) -> list[Path]:
    """Twenty graphs from the packaged checkpoint: file, pictures, report."""
    from graphs.generator import GraphGenerator

    new = GraphGenerator.from_pretrained("community_small").sample(20, seed=0, progress=True)
    train, test = _demo_reference()
    names = ("graphs.npz", "graphs.png", "statistics.png", "report.json")
    paths = [folder / name for name in names]
    new.save(paths[0])
    new.plot(paths[1])
    plot_statistics(new, test, paths[2])
    report = judge(new, test, train, family="community")
    report.to_json(paths[3])
    together, copies = report.shares["connected"].value, report.shares["copies of training graphs"].value
    note(f"graphs: {together:.0%} of {len(new)} connected, {copies:.0%} copies, at {new.nfe} evaluations.")
    return paths


def _demo_reference() -> tuple[GraphSet, GraphSet]:
    """Training and test part of the published set, or, without the data folder, graphs of the same rule."""
    graphs = community_small(100) if data_folder() is None else load_named("community_small")
    graphs = graphs.with_split(split_codes(graphs, "gdss", 0.0))
    return graphs.part("train"), graphs.part("test")


def _one(path: Path) -> Any:
    graphs = read_graphs(path)
    if len(graphs) != 1:
        raise UserError(f"--fixed {str(path)!r} must hold one graph, got {len(graphs)}.")
    return graphs[0]


def _label(text: str | None, known: tuple[Any, ...]) -> Any:
    """The value that a label is written as; unknown ones are left to the generator to refuse."""
    return next((value for value in known if str(value) == text), text)


def _summary(graphs: GraphSet) -> dict[str, Any]:
    return {
        "graphs": len(graphs),
        "nodes": f"{graphs.sizes.min()}-{graphs.sizes.max()}, mean {graphs.sizes.mean():.2f}",
        "edges": f"{graphs.num_edges.min()}-{graphs.num_edges.max()}, mean {graphs.num_edges.mean():.2f}",
        "connected": f"{connected(graphs).mean():.1%}",
        "isolated nodes": int((graphs.degrees == 0).sum()),
    }
