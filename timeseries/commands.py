"""What the verbs of ``scidiff timeseries`` do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timeseries.generator import DiffusionForecaster

__all__ = ["export"]


def export(module: Any, path: Path, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write the user checkpoint of a trained `timeseries.diffusion.TimeSeriesDiffusion`."""
    forecaster = DiffusionForecaster.from_module(module)
    data = getattr(getattr(module, "_trainer", None), "datamodule", None)
    if data is not None:
        forecaster.calibrate(data.series)
    return forecaster.save(path, metadata=metadata)
