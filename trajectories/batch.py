"""`TrajectoryBatch`: trajectories with what belongs to them, and their file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidiff.arrays import read_npz
from scidiff.files import atomic_path

__all__ = ["TrajectoryBatch"]

_AXES = {"h": 3, "edge_attr": 4, "node_mask": 2, "z": 2}  # of the features, the axis of systems included
_KEPT = {"node_mask": torch.bool, "z": torch.int64}  # dtypes; that of pos for the others


@dataclass(frozen=True)
class TrajectoryBatch:
    """B systems of N nodes over F frames in D dimensions.

    Attributes:
        pos: Positions (B, N, F, D).
        h: Node features (B, N, c), or None.
        edge_attr: Pair features (B, N, N, c_e), or None.
        node_mask: True for real nodes, bool (B, N); None for all.
        z: Atomic numbers, int64 (B, N), 0 for padding; None if the nodes are no atoms.
        dt: Time between frames, or None if unknown.
        unit: Unit of positions, or None if unknown.
        meta: Plain data about the origin: seed, solver, number of evaluations.
    """

    pos: Tensor
    h: Tensor | None = None
    edge_attr: Tensor | None = None
    node_mask: Tensor | None = None
    z: Tensor | None = None
    dt: float | None = None
    unit: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pos.ndim != 4 or 0 in self.pos.shape:
            raise ValueError(f"pos must have shape (B, N, F, D) without empty axes, got {tuple(self.pos.shape)}.")
        if not bool(torch.isfinite(self.pos).all()):
            raise ValueError("positions must be finite numbers, got NaN or infinity.")
        b, n = self.pos.shape[:2]
        for name, shape in (("h", (b, n)), ("edge_attr", (b, n, n)), ("node_mask", (b, n)), ("z", (b, n))):
            value = getattr(self, name)
            if value is not None and tuple(value.shape[: len(shape)]) != shape:
                raise ValueError(
                    f"{name} must have the leading axes {shape} of pos {tuple(self.pos.shape)}, "
                    f"got {tuple(value.shape)}."
                )

    def __len__(self) -> int:
        return len(self.pos)

    @classmethod
    def of(cls, value: Any, **features: Any) -> TrajectoryBatch:
        """Frames (F, N, D) or (B, F, N, D), an array or tensor, as a batch; a batch with its features replaced.

        Args:
            value: Positions with frames first, or a `TrajectoryBatch`.
            features: ``h`` (N, c) or (B, N, c), ``edge_attr``, ``node_mask``, ``z``, ``dt``, ``unit``; None changes
                nothing.

        Raises:
            ValueError: If the array has another number of axes, or a shape does not fit.
        """
        given = {name: feature for name, feature in features.items() if feature is not None}
        if isinstance(value, TrajectoryBatch):
            pos = value.pos
        else:
            frames = torch.as_tensor(np.asarray(value))
            if frames.ndim not in (3, 4):
                raise ValueError(f"frames must have shape (F, N, D) or (B, F, N, D), got {tuple(frames.shape)}.")
            pos = (frames if frames.ndim == 4 else frames[None]).transpose(1, 2)
            pos = pos if pos.dtype.is_floating_point else pos.float()
        for name, axes in _AXES.items():
            if name in given:
                feature = torch.as_tensor(np.asarray(given[name])).to(_KEPT.get(name, pos.dtype))
                one = feature.ndim == axes - 1
                given[name] = feature.expand(len(pos), *feature.shape) if one else feature
        return replace(value, **given) if isinstance(value, TrajectoryBatch) else cls(pos, **given)

    @property
    def frames(self) -> np.ndarray:
        """Positions with frames first, (B, F, N, D)."""
        return self.pos.transpose(1, 2).cpu().numpy()

    @property
    def features(self) -> dict[str, Tensor]:
        """Those of ``h``, ``edge_attr``, ``node_mask``, ``z`` that exist."""
        return {name: value for name in _AXES if (value := getattr(self, name)) is not None}

    def index(self, rows: Tensor) -> TrajectoryBatch:
        """The systems of an index tensor."""
        return replace(self, pos=self.pos[rows], **{name: value[rows] for name, value in self.features.items()})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``.npz``: pos (B, F, N, D), the features, dt, unit, meta (JSON)."""
        arrays: dict[str, Any] = {"pos": self.frames, "meta": np.array(json.dumps(dict(self.meta)))}
        arrays |= {name: value.cpu().numpy() for name, value in self.features.items()}
        if self.dt is not None:
            arrays["dt"] = np.float64(self.dt)
        if self.unit is not None:
            arrays["unit"] = np.array(self.unit)
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrajectoryBatch:
        """Read what `save` or ``scidiff trajectories simulate`` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file has no positions (B, F, N, D).
        """
        arrays = read_npz(path)
        pos = arrays.get("pos")
        if pos is None or pos.ndim != 4:
            raise ValueError(
                f"{path} must hold positions pos (B, F, N, D), got the arrays {', '.join(sorted(arrays))}."
            )
        return cls(
            torch.from_numpy(pos).transpose(1, 2),
            **{name: torch.from_numpy(arrays[name]) for name in _AXES if name in arrays},
            dt=float(arrays["dt"]) if "dt" in arrays else None,
            unit=str(arrays["unit"]) if "unit" in arrays else None,
            meta=json.loads(str(arrays["meta"])) if "meta" in arrays else {},
        )
