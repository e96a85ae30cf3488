"""Processes of graphs, and the way between classes and their states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphs.data.spec import GraphSpec
from scidiff.discrete import Categorical
from scidiff.noise import Symmetric
from scidiff.process import Component, Process
from scidiff.schedules import VESDE, VPSDE, Cosine, Linear, Schedule

__all__ = [
    "decode_gdss",
    "decode_state",
    "encode_gdss",
    "encode_state",
    "gdss_prediction",
    "gdss_process",
    "graph_process",
]

_PAIRS = ("adj", "edge_features")


def graph_process(
    spec: GraphSpec, formulation: Literal["discrete", "continuous"] = "discrete", schedule: Schedule | None = None
) -> Process:
    """Components ``adj`` and, as far as the graphs carry them, ``x``, ``features`` and ``edge_features``.

    Args:
        spec: Vocabulary and shares of the classes.
        formulation: Classes that are drawn anew from their shares, or numbers in {-1, +1} with Gaussian noise.
        schedule: Keep probability (default `Linear`), or schedule of the noise (default `Cosine`).
    """
    parts: dict[str, Categorical | Component] = {}
    noise = schedule if schedule is not None and formulation == "continuous" else Cosine()
    if formulation == "discrete":
        keep = schedule if schedule is not None else Linear()
        parts["adj"] = Categorical(spec.edge_marginal, keep, Symmetric())
        if spec.node_marginal:
            parts["x"] = Categorical(spec.node_marginal, keep)
    else:
        parts["adj"] = Component(noise, space=Symmetric())
        if spec.node_marginal:
            parts["x"] = Component(noise)
    if spec.feature_mean:
        parts["features"] = Component(noise)
    if spec.edge_feature_mean:
        parts["edge_features"] = Component(noise, space=Symmetric())
    return Process(parts)


def gdss_process(schedule_x: Schedule | None = None, schedule_adj: Schedule | None = None) -> Process:
    """The system of GDSS: node features and adjacency matrix, ``VPSDE(0.1, 1.0)`` unless said otherwise."""
    return Process(
        {
            "x": Component(schedule_x if schedule_x is not None else VPSDE(0.1, 1.0)),
            "adj": Component(schedule_adj if schedule_adj is not None else VPSDE(0.1, 1.0), space=Symmetric()),
        }
    )


def gdss_prediction(process: Process) -> dict[str, str]:
    """What the networks of GDSS estimate: the score of variance-exploding components, else the unit noise."""
    return {k: "score" if isinstance(c.schedule, VESDE) else "eps" for k, c in process.continuous.items()}


def encode_state(batch: Mapping[str, Tensor], spec: GraphSpec, process: Process) -> dict[str, Tensor]:
    """State of the components of ``process`` from the classes and features of a batch.

    Where the process is continuous, classes become numbers in {-1, +1}: one for two edge classes, else one a class.
    """
    state = {}
    counts = {"adj": spec.num_edge_classes, "x": len(spec.node_marginal)}
    for name, component in process.components.items():
        value = batch[name]
        if isinstance(component, Component) and name in counts:
            is_binary = name == "adj" and counts[name] == 2
            signs = 2 * (value if is_binary else F.one_hot(value, counts[name])).to(torch.get_default_dtype()) - 1
            value = component.space.project(signs, batch)
        state[name] = value
    return state


def decode_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `encode_state` after sampling: the most probable classes of numbers in {-1, +1}."""
    decoded = {}
    for name, value in state.items():
        if name in ("adj", "x") and value.dtype.is_floating_point:
            axes = 3 if name in _PAIRS else 2
            value = value.argmax(-1) if value.ndim > axes else (value > 0).long()
        decoded[name] = value
    return decoded


def encode_gdss(batch: Mapping[str, Tensor], num_features: int) -> dict[str, Tensor]:
    """State of GDSS: one-hot node classes (or degrees, for nodes without), and the edge class as a number.

    Raises:
        ValueError: If a degree is not below ``num_features``.
    """
    mask = batch["node_mask"]
    classes = batch["x"] if "x" in batch else (batch["adj"] > 0).sum(-1)
    if "x" not in batch and int(classes.max()) >= num_features:
        raise ValueError(
            f"degrees are one-hot features with {num_features} classes, but a node has degree {int(classes.max())}."
        )
    x = F.one_hot(classes, num_features).to(torch.get_default_dtype()) * mask[..., None]
    return {"x": x, "adj": batch["adj"].to(x.dtype)}


def decode_gdss(
    state: Mapping[str, Tensor], spec: GraphSpec, sizes: np.ndarray
) -> tuple[dict[str, Tensor], np.ndarray]:
    """Classes from samples of GDSS, and the number of nodes that are left (B,).

    An edge class is the number of thresholds 0.5, 1.5, ... that adj reaches. Node features above 0.5 count as 1; the
    class is the largest of these and of 1 minus their sum, which stands for "no node". Such nodes are left out, but
    for one if none remains. Degree features are not read.
    """
    thresholds = torch.arange(spec.num_edge_classes - 1, device=state["adj"].device) + 0.5
    adj = (state["adj"][..., None] >= thresholds).sum(-1)
    if not spec.node_marginal:
        return {"adj": adj}, sizes
    ones = torch.where(state["x"] > 0.5, torch.ones_like(state["x"]), state["x"])
    x = torch.cat([ones, 1 - ones.sum(-1, keepdim=True)], -1).argmax(-1)
    num_classes = len(spec.node_marginal)
    place = torch.arange(x.shape[1], device=x.device)
    real = (place < torch.as_tensor(sizes, device=x.device)[:, None]) & (x < num_classes)
    real[:, 0] |= ~real.any(1)
    order = torch.where(real, place, place + x.shape[1]).argsort(1)
    x = torch.where(real, x.clamp_max(num_classes - 1), 0).gather(1, order)
    rows = order[:, :, None].expand_as(adj)
    adj = adj.gather(1, rows).gather(2, rows.transpose(1, 2))
    return {"adj": adj, "x": x}, real.sum(1).cpu().numpy()
