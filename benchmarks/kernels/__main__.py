r"""Message passing and neighbour lists against PyG and others: ``python -m benchmarks.kernels``.

``--quick`` takes about seven minutes on two cores. On the CPU both states of the allocator are printed: the default,
and the one of `scidiff.kernels.tune_malloc` for size q. Writes ``results/kernels.json`` and a section of the README.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.kernels import ops
from benchmarks.kernels.lists import list_rows
from benchmarks.kernels.networks import network_rows
from benchmarks.kernels.others import absent
from benchmarks.kernels.targets import bars

DTYPES = {"fp32": "float32", "fp64": "float64", "bf16": "bfloat16"}
SAVED = ("painn", "edge_mlp")  # operations whose memory is measured


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--suite", default="q64,q,r", help="sizes, of q64, q, r")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--threads", type=int, help="of torch; by default as it finds them")
    parser.add_argument("--quick", action="store_true", help="about seven minutes on two cores")
    parser.add_argument(
        "--only", nargs="+", help="operations to measure again, by name; other figures stay as they are"
    )
    parser.add_argument("--json", help="another file for the figures; the README is then left alone")
    parser.add_argument("--tuned", action="store_true", help=argparse.SUPPRESS)  # records of size q to stdout
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    dtype, sizes = getattr(torch, DTYPES[args.dtype]), args.suite.split(",")
    content: dict[str, Any] = {"device": args.device, "dtype": args.dtype, "ceilings": ops.ceilings(args.device, dtype)}
    content["absent"] = absent()
    if hasattr(os, "getloadavg"):
        content["load"] = os.getloadavg()[0]
    budget = 0.8 if args.quick else 6.0
    if args.device == "cpu":
        content["ops"] = ops.separate_records(sizes, DTYPES[args.dtype], budget)
    else:
        content["ops"] = ops.records(sizes, dtype, args.device, budget)
    if args.device == "cpu":
        content["start_up"] = ops.start_up()
        if "q" in sizes:
            content["tuned"] = tuned(args)
        if "r" in sizes:
            sides = ("theirs", "ours")
            content["memory"] = {
                op: {s: ops.peak_memory(op, s, "r", DTYPES[args.dtype]) for s in sides} for op in SAVED
            }
        content["lists"] = list_rows(quick=args.quick)
        content["networks"] = network_rows(quick=args.quick)
    return content


def measure_again(args: argparse.Namespace, names: list[str], content: dict[str, Any]) -> dict[str, Any]:
    """All figures, those of some operations new."""
    sizes = args.suite.split(",")
    found = ops.separate_records(sizes, DTYPES[args.dtype], 0.8 if args.quick else 6.0, names)
    parts = {"ops": found} | ({"tuned": tuned(args)} if "q" in sizes else {})
    for part, records in parts.items():
        new = {(r["size"], r["op"], r["mode"]): r for r in records}
        content[part] = [new.get((r["size"], r["op"], r["mode"]), r) for r in content[part]]
    sides = ("theirs", "ours")
    for op in {*names} & {*SAVED} if "r" in sizes else ():
        content["memory"][op] = {s: ops.peak_memory(op, s, "r", DTYPES[args.dtype]) for s in sides}
    return {**content, "again": sorted({*content.get("again", []), *names})}


def tuned(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Size q with one thread and the tuned allocator, on both sides, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.kernels", "--tuned", "--threads", "1", "--dtype", args.dtype]
    command += ["--quick"] if args.quick else []
    command += ["--only", *args.only] if args.only else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(result.stdout)


_PAGES = f""" Whether the allocator keeps the temporaries of q64 or maps them anew
in each call is an accident of the heap, and changes PyG's time by three to four times. So rows "q64" are the middle
ones of {ops.PROCESSES} processes, with the least and largest ratio among them, and rows "q64, tuned" have `tune_malloc`
on both sides: nobody pays for pages there, and most ratios fall below the targets, which speak of the default
allocator."""


def page(content: dict[str, Any], place: dict[str, Any]) -> str:
    """The README section."""
    copy = content["ceilings"]["copy_gb_s"]
    rows = []
    for r in content["ops"]:
        if "ours" not in r:
            rows.append([r["size"], r["op"], r["mode"], "-", "wrong", "-", "-", f"{r['error']['ours']:.0e}"])
            continue
        theirs, ours = (_spread(r[side]) if side in r else "wrong" for side in ("theirs", "ours"))
        bound = 1e-6 * r["least_bytes"] / copy
        share = f"{bound / r['ours']['ms']:.0%}" if r["mode"] == "forward" else "-"
        ratio = f"{r['ratio']:.1f}" if "ratio" in r else "-"
        if r["size"] == "q64" and "ratio" in r and "ratios" in r:
            ratio += f" ({r['ratios'][0]:.1f}-{r['ratios'][1]:.1f})"
        rows.append([r["size"], r["op"], r["mode"], theirs, ours, ratio, share, f"{r['error']['ours']:.0e}"])
    head = ["size", "operation", "pass", "PyG, ms", "ours, ms", "ratio", "of the byte bound", "error"]
    marks = "\n".join(f"- {'reached' if bar.is_reached else '**missed**'}: {bar.text}" for bar in bars(content))
    again = ""
    if content.get("again"):
        again = f"\nThe rows of {_listed(content['again'])} were measured again, later{content.get('note', '')}."
    text = f"""
Operations of `scidiff.kernels` against PyG's MessagePassing as its users write it, interleaved in one process, median
wall time (quartiles; least), ratios of medians; the pass "training" is forward and backward of a sum of squares with
gradients of all inputs and weights. {content["device"]}, {content["dtype"]}, {place["processor"]}, {place["threads"]}
threads, torch {place["torch"]}, {place["date"]}, load {content.get("load", 0):.1f}; measured copy {copy:.0f} GB/s,
matrix product {content["ceilings"]["matmul_tflop_s"]:.2f} TFLOP/s. q64, q: 64 and 256 molecules of 18
atoms, fully connected, 128 channels; r: 10 000 points, cutoff 5 angstrom, 64 channels. Errors: largest relative one of
results and gradients against float64.{_PAGES if content["device"] == "cpu" else ""}{again}
Run `python -m benchmarks.kernels`; figures in `results/kernels.json`.

{marks}

{report.table(head, rows)}

{_bounds(content)}
"""
    if "lists" in content:
        lines = [[r["case"], r["peer"], *_list_times(r)] for r in content["lists"]]
        head = ["neighbour list", "against", "theirs, ms", "ours, ms", "ratio"]
        text += "\nNeighbour lists, medians (quartiles); a list that is not equal to ours has no time.\n\n"
        text += report.table(head, lines) + "\n"
    if "networks" in content:
        lines = [
            [r["case"], r["network"], f"{r['parameters'] / 1e3:.0f} k"]
            + [f"{r[key]:.3g}" for key in ("forward_ms", "step_ms", "forward_ratio", "step_ratio")]
            for r in content["networks"]
        ]
        head = ["molecules x atoms", "network", "weights", "forward, ms", "step, ms", "faster forward", "faster step"]
        text += (
            "\nNetworks of the molecules' sizes with about as many weights, medians; ratios against PairFormer, the "
        )
        text += "network that the packaged molecule models have."
        text += " Older than the rows measured again.\n\n" if again else "\n\n"
        text += "\n".join(f"- {line}" for line in fastest(content["networks"]))
        text += f"\n\n{report.table(head, lines)}\n"
    return text


def _bounds(content: dict[str, Any]) -> str:
    """What bounds the figures that miss what was asked or hoped for, and the peers that are not here."""
    reasons: dict[str, list[str]] = {}
    for bar in bars(content):
        if bar.bound:
            reasons.setdefault(bar.bound, []).append(bar.text.split(":")[0])
    lines = [f"- {'; '.join(names)}. {bound}" for bound, names in reasons.items()]
    if lines:
        lines = ["What bounds the figures that miss what was asked, or hoped for at best:", "", *lines]
    if content["absent"]:
        lines += ["", f"Not importable on this machine: {', '.join(content['absent'])}."]
    return "\n".join(lines)


def fastest(rows: list[dict[str, Any]]) -> list[str]:
    """One sentence for each size: which network is the fastest."""
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        forward, step = (min(own, key=lambda row: row[key]) for key in ("forward_ms", "step_ms"))
        lines.append(
            f"{case} atoms: {forward['network']} is the fastest forward ({forward['forward_ms']:.3g} ms), "
            f"{step['network']} in training ({step['step_ms']:.3g} ms)."
        )
    return lines


def _spread(entry: dict[str, float]) -> str:
    return f"{entry['ms']:.3g} ({entry['q1']:.3g}-{entry['q3']:.3g}; {entry['least']:.3g})"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _list_times(row: dict[str, Any]) -> list[str]:
    def text(side: str) -> str:
        low, high = row[f"{side}_quartiles_ms"]
        return f"{row[f'{side}_ms']:.3g} ({low:.3g}-{high:.3g})"

    return [text("peer"), text("ours"), f"{row['ratio']:.1f}"] if row["equal"] else ["wrong", text("ours"), "-"]


def main() -> None:
    """Measure, write JSON and README section, say what was reached."""
    args = options()
    if args.threads:
        torch.set_num_threads(args.threads)
    names = args.only
    if args.tuned:
        budget = 0.8 if args.quick else 10.0  # of a second or more a call
        found = ops.records(["q"], getattr(torch, DTYPES[args.dtype]), "cpu", budget, names, is_tuned=True)
        print(json.dumps(found))
        return
    place = report.machine()
    if names:
        content = measure_again(args, names, json.loads((report.RESULTS / "kernels.json").read_text()))
        place = content
    else:
        content = {**place, **measure(args)}
    if args.json:
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")
    else:
        report.write_json("kernels", content)
        report.write_section("Kernels", page(content, place))
    for bar in bars(content):
        print("reached" if bar.is_reached else "MISSED", bar.text)
    print(_bounds(content))
    for text in fastest(content.get("networks", [])):
        print(text)


if __name__ == "__main__":
    main()
