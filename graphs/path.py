"""The path of a denoising: what the model takes the clean graphs to be at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphs.data.attributes import Attributes
from graphs.processes import decode_state
from scidiff.process import Component, Process
from scidiff.samplers.engine import StepInfo

__all__ = ["DenoisingPath", "PathRecorder"]


@dataclass(frozen=True)
class DenoisingPath:
    """Estimates of the clean graphs, one frame a solver step, and the samples as the last frame.

    Attributes:
        probability: Probability of an edge (T, B, N, N), symmetric; padding and diagonal mean nothing.
        edge_class: Most probable class of an edge, if there is one, from 1 (T, B, N, N).
        node_class: Most probable node class (T, B, N); None for nodes without classes.
        num_nodes: Sizes (B,).
        attributes: Vocabulary of the classes.
    """

    probability: np.ndarray
    edge_class: np.ndarray
    node_class: np.ndarray | None
    num_nodes: np.ndarray
    attributes: Attributes

    def __len__(self) -> int:
        return len(self.probability)

    @classmethod
    def joined(cls, parts: Sequence[DenoisingPath], order: np.ndarray) -> DenoisingPath:
        """Paths of several batches as one, padded to the largest graph; graph k is ``order[k]`` of all of them."""
        size = max(part.probability.shape[-1] for part in parts)
        wide = [part._padded(size) for part in parts]
        nodes = [part.node_class for part in wide if part.node_class is not None]
        return cls(
            np.concatenate([part.probability for part in wide], axis=1)[:, order],
            np.concatenate([part.edge_class for part in wide], axis=1)[:, order],
            np.concatenate(nodes, axis=1)[:, order] if nodes else None,
            np.concatenate([part.num_nodes for part in wide])[order],
            parts[0].attributes,
        )

    def _padded(self, size: int) -> DenoisingPath:
        more = (0, size - self.probability.shape[-1])
        nodes = None if self.node_class is None else np.pad(self.node_class, ((0, 0), (0, 0), more))
        pairs = ((0, 0), (0, 0), more, more)
        return replace(
            self,
            probability=np.pad(self.probability, pairs),
            edge_class=np.pad(self.edge_class, pairs, constant_values=1),
            node_class=nodes,
        )


class PathRecorder:
    """Callback of the sampler that keeps the estimates of the clean graphs.

    Args:
        process: Process of the denoiser, which says how states stand for classes.
        num_edge_classes: Edge classes, "no edge" included.
        is_gdss: Whether adj is the edge class as one number, as in GDSS.
    """

    def __init__(self, process: Process, num_edge_classes: int, is_gdss: bool) -> None:
        self.is_signed = isinstance(process.components["adj"], Component)
        self.num_edge_classes, self.is_gdss = num_edge_classes, is_gdss
        self.frames: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def __call__(self, info: StepInfo) -> None:
        """Keep the estimate that led to this step."""
        if info.prediction is not None:
            self.add(info.prediction.x0)

    def add(self, state: Mapping[str, Any], *, is_sample: bool = False) -> None:
        """Keep an estimate of a clean state, or a sample, whose edges are there or not."""
        state = decode_state(state) if is_sample and not self.is_gdss else state
        probability, kind = self._edges(state["adj"])
        probability = (probability >= 0.5).float() if is_sample else probability
        nodes = None
        if "x" in state:
            value: Tensor = state["x"]
            nodes = (value.argmax(-1) if value.dtype.is_floating_point else value).to(torch.uint8).cpu().numpy()
        self.frames.append((probability.float().cpu().numpy(), kind.to(torch.uint8).cpu().numpy(), nodes))

    def path(self, num_nodes: np.ndarray, attributes: Attributes) -> DenoisingPath:
        """All frames so far."""
        probability, kinds, nodes = zip(*self.frames)
        named = None if not attributes.node_names else np.stack(nodes)
        return DenoisingPath(np.stack(probability), np.stack(kinds), named, np.asarray(num_nodes), attributes)

    def _edges(self, adj: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of an edge, and its most probable class."""
        if self.is_gdss:
            thresholds = torch.arange(1, self.num_edge_classes - 1, device=adj.device) + 0.5
            return adj.clamp(0, 1), 1 + (adj[..., None] >= thresholds).sum(-1)
        if not adj.dtype.is_floating_point:
            shares = F.one_hot(adj, self.num_edge_classes).float()
        elif not self.is_signed:
            shares = adj
        elif adj.ndim == 3:
            shares = torch.stack([1 - adj, 1 + adj], -1).clamp(0, 2) / 2
        else:
            shares = (1 + adj).clamp(0, 2) / 2
        return 1 - shares[..., 0], 1 + shares[..., 1:].argmax(-1)
