"""Times, errors and memory of one operation against PyG's MessagePassing, interleaved in one process.

A result is compared with the float64 definition before it is timed: a wrong one has no time. On a GPU, times are those
of events, with 20 warm-ups, at least 100 repetitions, inputs that rotate while they are below 100 MB together, and the
replay of a captured graph beside the eager call.

The temporaries of q64 (10 MB) are small enough for the allocator of the C library to keep, and whether it keeps them is
an accident of what lies behind them on the heap, which changes PyG's time by three to four times. So there a record is
the middle one of `PROCESSES`, and a second one has `scidiff.kernels.tune_malloc` on both sides. Results are freed
outside of the time of their call: the block may be the last one that keeps the other side's pages in the process.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.cases import Case, cases, make_size
from scidiff.kernels import tune_malloc

ROTATED_BYTES = 100e6
MODES = ("forward", "training")
PROCESSES = 7
BOUNDS = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 3e-2}
"""Relative error above which a result counts as wrong: 1e-5 was the worst float32 sum over 465 000 edges."""


def runner(
    case: Case, function: Callable[..., Any], mode: str, tensors: list[Tensor] | None = None
) -> Callable[[], Any]:
    """The forward pass without a graph, or the forward and backward pass of a sum of squares."""
    tensors = case.tensors if tensors is None else tensors

    def forward() -> Any:
        with torch.no_grad():
            return function(*tensors)

    def training() -> Any:
        return torch.autograd.grad(loss(function(*tensors)), tensors)

    return forward if mode == "forward" else training


def loss(out: Any) -> Tensor:
    """Sum of squares of all results."""
    parts = [out] if isinstance(out, Tensor) else [o for o in out if o is not None]
    return torch.stack([p.square().sum() for p in parts]).sum()


def errors(case: Case) -> dict[str, float]:
    """Largest relative error (in norm) of results and gradients of both sides against the float64 definition."""
    exact = _all(case.definition, [t.detach().double().requires_grad_() for t in case.tensors])

    def largest(found: list[Tensor]) -> float:
        pairs = zip(found, exact, strict=True)
        return max(float((a.double() - b).norm() / b.norm().clamp_min(1e-300)) for a, b in pairs)

    return {side: largest(_all(call, case.tensors)) for side, call in (("ours", case.ours), ("theirs", case.theirs))}


def _all(function: Callable[..., Any], tensors: list[Tensor]) -> list[Tensor]:
    out = function(*tensors)
    parts = [out] if isinstance(out, Tensor) else [o for o in out if o is not None]
    return [*(p.detach() for p in parts), *torch.autograd.grad(loss(out), tensors)]


def interleaved(functions: list[Callable[[], Any]], repetitions: int, *, warm: bool = False) -> list[dict[str, float]]:
    """Median, minimum, quartiles (wall, ms) and processor time of each, one call in turn, after one unless warm."""
    for function in () if warm else functions:
        function()
    walls: list[list[float]] = [[] for _ in functions]
    processor: list[list[float]] = [[] for _ in functions]
    for _ in range(repetitions):
        for k, function in enumerate(functions):
            wall, cpu = time.perf_counter(), time.process_time()
            result = function()
            walls[k].append(1e3 * (time.perf_counter() - wall))
            processor[k].append(1e3 * (time.process_time() - cpu))
            del result
    return [_summary(w, p) for w, p in zip(walls, processor, strict=True)]


def _summary(walls: list[float], processor: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(walls, n=4) if len(walls) > 1 else walls * 3
    return {"ms": middle, "least": min(walls), "q1": low, "q3": high, "processor": statistics.median(processor)}


def on_device(
    function: Callable[[], Any], case: Case, mode: str, call: Callable[..., Any], count: int
) -> dict[str, float]:
    """Events around eager calls with rotating inputs, and around replays of a captured graph."""
    copies = max(1, min(8, int(ROTATED_BYTES // max(sum(t.nbytes for t in case.tensors), 1))))
    sets = [[t.detach().clone().requires_grad_() for t in case.tensors] for _ in range(copies)]
    calls = [runner(case, call, mode, tensors) for tensors in sets]
    for _ in range(20):
        function()
    eager = _events(lambda k: calls[k % copies](), count)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    result = {**eager, "peak_mb": (torch.cuda.max_memory_allocated() - before) / 2**20}
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            function()
    except RuntimeError:  # an operation that waits for the device cannot be captured
        torch.cuda.synchronize()
        return result
    return {**result, "replay": _events(lambda _: graph.replay(), count)["ms"]}


def _events(function: Callable[[int], Any], count: int) -> dict[str, float]:
    times = []
    for k in range(count):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function(k)
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return _summary(times, [0.0])


def ceilings(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Measured copy (GB/s) and matrix product (TFLOP/s) of the machine."""
    x = torch.empty(1 << 28 if device == "cuda" else 1 << 25, dtype=torch.uint8, device=device)
    y, n = torch.empty_like(x), 8192 if device == "cuda" else 1024
    a = torch.randn(n, n, device=device, dtype=dtype)
    jobs: list[Callable[[], Any]] = [lambda: y.copy_(x), lambda: a @ a]
    if device == "cuda":
        copy, product = (_events(lambda _, f=job: f(), 50)["least"] for job in jobs)
    else:
        copy, product = (entry["least"] for entry in interleaved(jobs, 15))
    return {"copy_gb_s": 2 * x.nbytes / copy / 1e6, "matmul_tflop_s": 2 * n**3 / product / 1e9}


def records(
    sizes: list[str],
    dtype: torch.dtype,
    device: str,
    budget: float,
    names: list[str] | None = None,
    *,
    is_tuned: bool = False,
) -> list[dict[str, Any]]:
    """One record for each size, operation (all, or those named) and mode; ``budget`` seconds of calls for each.

    Times come first: large temporaries of the check in float64 would change what the allocator keeps.
    """
    if is_tuned:
        tune_malloc()
    found = []
    for name in sizes:
        size = make_size(name, device)
        for case in cases(size, dtype, names):
            times = [_timed(case, mode, device, budget, ["theirs", "ours"]) for mode in MODES]
            wrong = errors(case)
            for mode, entry in zip(MODES, times, strict=True):
                label = f"{name}, tuned" if is_tuned else name
                record = {"size": label, "op": case.name, "mode": mode, "least_bytes": case.least_bytes}
                record |= {"error": wrong, "memory": device == "cpu" and name == "r"}
                if wrong["ours"] > BOUNDS[dtype]:
                    found.append({**record, "wrong": True})
                elif wrong["theirs"] > BOUNDS[dtype]:
                    found.append({**record, "ours": entry["ours"]})
                else:
                    found.append({**record, **entry})
    return found


def separate_records(
    sizes: list[str], dtype: str, budget: float, names: list[str] | None = None
) -> list[dict[str, Any]]:
    """`records` on the CPU, each size and operation in a process of its own, with the allocator as a program finds it.

    What earlier operations have freed decides whether later temporaries are mapped anew: in one process the order of
    the table would decide the ratios.
    """
    states = [(name, is_tuned) for name in sizes for is_tuned in ((False, True) if name == "q64" else (False,))]
    found = []
    for name, is_tuned in states:
        processes = PROCESSES if name == "q64" and not is_tuned else 1
        for case in cases(make_size(name, "cpu"), getattr(torch, dtype), names):
            options = f"[{name!r}], torch.{dtype}, 'cpu', {budget!r}, [{case.name!r}], is_tuned={is_tuned}"
            code = f"import json, torch; from benchmarks.kernels import ops; print(json.dumps(ops.records({options})))"
            command = [sys.executable, "-c", code]
            runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(processes)]
            modes = zip(*(json.loads(run.stdout.splitlines()[-1]) for run in runs), strict=True)
            for entries in modes:
                ranked = sorted(entries, key=lambda r: r.get("ratio", 0.0))
                extremes = [entry.get("ratio", 0.0) for entry in (ranked[0], ranked[-1])]
                found.append({**ranked[processes // 2], "ratios": extremes})
    return found


def _timed(case: Case, mode: str, device: str, budget: float, sides: list[str]) -> dict[str, Any]:
    """Times of the sides whose results are right, and their ratios if both are."""
    calls = [getattr(case, side) for side in sides]
    runs = [runner(case, call, mode) for call in calls]
    if device == "cuda":
        entries = [on_device(run, case, mode, call, 100) for run, call in zip(runs, calls, strict=True)]
    else:
        first = interleaved(runs, 1)
        count = int(1e3 * budget / sum(entry["ms"] for entry in first))
        entries = interleaved(runs, min(max(count, 3), 30), warm=True)
    found: dict[str, Any] = dict(zip(sides, entries, strict=True))
    if len(sides) == 2:
        found |= {
            name: found["theirs"][k] / found["ours"][k] for name, k in (("ratio", "ms"), ("ratio_least", "least"))
        }
    return found


def peak_memory(op: str, side: str, size: str, dtype: str) -> float:
    """Peak resident memory (MB) of one training pass above that of its inputs, in a process of its own."""
    code = f"from benchmarks.kernels.ops import _peak; _peak({op!r}, {side!r}, {size!r}, {dtype!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def _peak(op: str, side: str, size: str, dtype: str) -> None:
    (case,) = cases(make_size(size, "cpu"), getattr(torch, dtype), [op])
    small = next(c for c in cases(make_size("q64", "cpu"), getattr(torch, dtype), [op]))
    runner(small, getattr(small, side), "training")()  # code is loaded and compiled
    with torch.no_grad():
        [t.add_(0) for t in case.tensors]
    gc.collect()
    before = _resident(reset=True)
    runner(case, getattr(case, side), "training")()
    print(json.dumps(_resident() - before))


def _resident(*, reset: bool = False) -> float:
    """High-water mark of resident memory (MB); where the system allows it, first set back to what is in use now."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if reset and clear.exists():
        clear.write_text("5")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def start_up() -> float:
    """Seconds from the first import of numba to the end of all bodies of one network, with a filled cache."""
    code = """
import time, torch, scidiff.kernels as K
g = K.full_graph(torch.tensor([0, 4, 8]))
x, v, d = torch.randn(8, 12, requires_grad=True), torch.randn(8, 4, 3, requires_grad=True), torch.rand(24)
u, W, b = torch.randn(24, 3), torch.randn(5, 12), torch.randn(12)
began = time.perf_counter()
h, dv = K.painn_message(x, v, d, u, W, b, g, K.BesselBasis(5, 2.0), K.CosineCutoff(2.0))
out = K.gather_multiply_sum(x, torch.randn(24, 12, requires_grad=True), g)
out = out + K.softmax_gather_sum(torch.randn(24, 12), x, g)
(h.sum() + dv.sum() + out.sum()).backward()
print(time.perf_counter() - began)
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    return min(float(run.stdout) for run in runs[1:])
