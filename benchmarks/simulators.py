"""Time of a simulated run: ``python -m benchmarks.simulators [--quick]``.

3,000 steps of 0.001 (30 frames), CPU time of one thread, chunks of 1,024 runs, best of three.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.report import machine, table, write_json, write_section
from trajectories.data.simulators import simulate
from trajectories.data.systems import SYSTEMS

CHUNK = 1024


def milliseconds(kind: str, *, num_runs: int = CHUNK, repeats: int = 3) -> float:
    """CPU milliseconds of one run of 30 frames, the best of ``repeats``."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        simulate(kind, num_runs, num_frames=30, chunk=num_runs)
        best = min(best, time.process_time() - start)
    return 1e3 * best / num_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="256 runs, once; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"num_runs": 256, "repeats": 1} if options.quick else {}
    results = {kind: milliseconds(kind, **settings) for kind in SYSTEMS}
    rows = [[kind, str(SYSTEMS[kind].num_bodies), f"{value:.2f}"] for kind, value in results.items()]
    text = table(["system", "particles", "CPU ms a run"], rows)
    print(text)
    if not options.quick:
        where = machine()
        write_json("simulators", {"machine": where, "milliseconds": results})
        note = f"30 frames, 3,000 steps; {where['processor']}, CPU time of one thread, {where['date']}, best of three."
        write_section("Simulators of particles", f"{note}\n\n{text}")


if __name__ == "__main__":
    main()
