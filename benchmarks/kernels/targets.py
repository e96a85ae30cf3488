"""What was asked of the CPU bodies, with two threads, and what bounds the figures that fall short.

A target has a ratio that must be reached and one that was hoped for. Where a figure misses either, the sentence of its
row says what bounds it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Bar", "bars"]


class Target(NamedTuple):
    """The ratio asked for, the one hoped for, and what bounds it."""

    must: float
    stretch: float
    bound: str


class Bar(NamedTuple):
    """One requirement: what was measured, whether it is reached, and the sentence on what bounds it."""

    text: str
    is_reached: bool
    bound: str


_GMS_TRAINING = (
    "It reads the filters twice and writes their gradient, three times E x F numbers, at three quarters of the "
    "measured copy; cfconv, which makes filters on the way, has no such gradient. At q64 half of the time are the "
    "pages of that gradient, mapped anew, and PyG's time halves where its temporaries stay in the process."
)
_GMS_TORCH = (
    "Messages are gathered, multiplied and added by calls of torch of their own, three passes instead of one (two on "
    "small full graphs of one size, where the gather is a view), but in pieces that stay in the cache. PyG takes 1.4 "
    "or 4 to 6 ms at q64 as its temporaries stay in the process or are mapped anew, and this .9 or 1.4 with them."
)
_WEIGHTED = (
    "A small call after PyG's large ones: at q64 its 1.3 MB are no longer in the cache, and where the pages of its "
    "result are mapped anew it takes half as long again as with kept memory. PyG takes 1.4 ms where its temporaries "
    "stay in the process, and 5 to 6 ms where they do not."
)
_WEIGHTED_R = "It gathers E rows of F numbers from the cache and adds them; nothing else is left."
_ATTENTION = (
    "Products, exponentials and sums row by row, on 3 MB that PyG's temporaries have pushed out of the cache, and the "
    "pages of the result. PyG takes 5 ms where its temporaries stay in the process, and 13 ms where they do not."
)
_PAINN_FORWARD = (
    "The product of basis and weights, E x 21 x 3 F with a short side of 21, and one pass over the filters."
)
_PAINN_TRAINING = (
    "Four thin products of basis and filters, and one pass that reads and writes 25 F numbers an edge in the cache."
)
_MLP_FORWARD = "One product E x F x F and two passes of exponentials over E x F numbers; PyG has three such products."
_MLP_TRAINING = (
    "Four products E x F x F against nine bound the ratio by 2.25 where PyG's temporaries cost nothing; the rest is "
    "activations and sums between the products."
)
_PONITA = (
    "Both sides make the same product of basis and W, E x O x C x C, which takes half of our time; PyG's time is 10 or "
    "25 ms as its temporaries stay in the process or not."
)


def _by_size(bound: str, **ratios: tuple[float, float]) -> dict[str, Target]:
    return {size: Target(must, stretch, bound) for size, (must, stretch) in ratios.items()}


_GMS = "It reads the filters once, E x F numbers, from memory; at q64 the call is a tenth of it."
OPS: dict[tuple[str, str], dict[str, Target]] = {
    ("gms", "forward"): _by_size(_GMS, q64=(4, 6), q=(5, 10), r=(5, 9)),
    ("gms", "training"): _by_size(_GMS_TRAINING, q64=(4, 6), q=(3.3, 5), r=(3, 4.5)),
    ("gms, no numba", "forward"): _by_size(_GMS_TORCH, q64=(2.5, 4), q=(2.5, 4), r=(2.5, 4)),
    ("weighted_sum", "forward"): _by_size(_WEIGHTED, q64=(20, 50), q=(20, 50)) | _by_size(_WEIGHTED_R, r=(20, 50)),
    ("attention", "forward"): _by_size(_ATTENTION, q64=(15, 30)),
    ("attention", "training"): _by_size(_ATTENTION, q64=(5, 9)),
    ("painn", "forward"): _by_size(_PAINN_FORWARD, q64=(8, 14), q=(12, 22), r=(7, 13)),
    ("painn", "training"): _by_size(_PAINN_TRAINING, q64=(5, 8), q=(7, 12), r=(4, 7)),
    ("edge_mlp", "forward"): _by_size(_MLP_FORWARD, q64=(2.2, 3.5), q=(4, 7), r=(4.5, 8)),
    ("edge_mlp", "training"): _by_size(_MLP_TRAINING, q64=(1.8, 2.5), q=(2.5, 4), r=(2.4, 3.5)),
    ("ponita", "forward"): _by_size(_PONITA, q64=(1.8, 3)),
}
TUNED: dict[tuple[str, str], Target] = {
    ("gms", "training"): Target(3, 4, _GMS_TRAINING),
    ("painn", "training"): Target(5, 7, _PAINN_TRAINING),
    ("edge_mlp", "training"): Target(2, 3, _MLP_TRAINING),
}
_SMALL_LIST = (
    ".9 MB of edges have to be written whoever finds them, by a call that finds neither its code nor its data in the "
    "cache after the other searches."
)
_LARGE_LIST = "It compares 27 cells of points for each point and sorts each row, as the others do."
LISTS: dict[tuple[str, str], Target] = {
    ("radius, 256 x 18 in boxes of 6", "dense torch, padded from a batch"): Target(5, 8, _SMALL_LIST),
    ("radius, 10 000 points, open", "vesin"): Target(0.8, 1.2, _LARGE_LIST),
    ("radius, 10 000 points, open", "matscipy"): Target(1.7, 2.5, _LARGE_LIST),
    ("radius, 10 000 points, periodic", "vesin"): Target(0.8, 1.2, _LARGE_LIST),
    ("radius, 10 000 points, periodic", "matscipy"): Target(1.7, 2.5, _LARGE_LIST),
}
MEMORY: dict[str, Target] = {
    "painn": Target(10, 25, "Results and gradients of the inputs, and one piece of filters."),
    "edge_mlp": Target(15, 50, "Results and gradients of the inputs, and the values of one piece of 2400 edges."),
}
_START = Target(
    1, 0.7, "Half of it is the import of numba; the rest is to load a few milliseconds of code for each body."
)


def bars(content: dict[str, Any]) -> list[Bar]:
    """The requirements that the figures speak of; rows whose result or peer is wrong or absent are left out."""
    found = []
    if content["device"] == "cpu":
        for record in content["ops"]:
            target = OPS.get((record["op"], record["mode"]), {}).get(record["size"])
            text = f"{record['op']} {record['mode']}, {record['size']}"
            found.append(_faster(text, record.get("ratio"), target))
    for op, entry in content.get("memory", {}).items():
        ratio = entry["theirs"] / max(entry["ours"], 1.0)
        text = f"{op}, r: {ratio:.0f} times less memory, {entry['theirs']:.0f} to {entry['ours']:.0f} MB"
        found.append(_bar(text, ratio, MEMORY[op]))
    for record in content.get("tuned", []):
        text = f"{record['op']} {record['mode']}, q, tuned allocator, 1 thread"
        found.append(_faster(text, record.get("ratio"), TUNED.get((record["op"], record["mode"]))))
    for row in content.get("lists", []):
        found.append(
            _faster(f"{row['case']}, against {row['peer']}", row["ratio"], LISTS.get((row["case"], row["peer"])))
        )
    if "start_up" in content:
        seconds = content["start_up"]
        text = f"start of all numba bodies of a network from the cache: {seconds:.2f} s (at most {_START.must:g})"
        found.append(Bar(text, seconds <= _START.must, "" if seconds <= _START.stretch else _START.bound))
    return [bar for bar in found if bar is not None]


def _faster(text: str, ratio: float | None, target: Target | None) -> Bar | None:
    return None if ratio is None or target is None else _bar(f"{text}: {ratio:.1f} times faster", ratio, target)


def _bar(text: str, ratio: float, target: Target) -> Bar:
    asked = f"at least {target.must:g}, at best {target.stretch:g}"
    return Bar(f"{text} ({asked})", ratio >= target.must, "" if ratio >= target.stretch else target.bound)
