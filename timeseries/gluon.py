"""GluonTS estimator and predictor around `DiffusionForecaster`, without ``gluonts.torch`` and its trainer.

The estimator trains like any of GluonTS's, the predictor passes ``make_evaluation_predictions``, ``evaluate_model``,
``ParallelizedPredictor`` and ``Localizer``, and is written and read by ``serialize`` and ``Predictor.deserialize``.
Serialised predictors name this module, so its classes keep their place.

References: Alexandrov et al. 2020 (GluonTS).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from gluonts.model.estimator import Estimator
from gluonts.model.forecast import SampleForecast
from gluonts.model.predictor import Predictor

from timeseries.data import calendar
from timeseries.forecast import Forecast
from timeseries.generator import DiffusionForecaster

__all__ = ["DiffusionEstimator", "DiffusionPredictor", "to_gluonts"]

_OPTIONS = "predictor.json"
_WEIGHTS = "model.safetensors"


class DiffusionPredictor(Predictor):
    """GluonTS predictor of a trained forecaster.

    Args:
        forecaster: Trained forecaster; its ``sampling`` options decide solver, guidance and steps.
        num_samples: S of `predict` where none is asked for, as in ``evaluate_model``.
        seed: Path j of entry i depends on this, i and j only.
        lead_time: Steps between the end of an entry and its first forecast one.
        prediction_length: Steps; default: the trained P. Longer forecasts are continued from their own values.
        progress: Show a bar.

    Raises:
        ValueError: If the forecaster is not trained or an option is out of range.
    """

    def __init__(
        self,
        forecaster: DiffusionForecaster,
        *,
        num_samples: int = 100,
        seed: int = 0,
        lead_time: int = 0,
        prediction_length: int | None = None,
        progress: bool = False,
    ) -> None:
        if forecaster.spec is None:
            raise ValueError("a predictor needs a trained forecaster: call fit(data), or load one by from_pretrained.")
        steps = forecaster.spec.prediction_length if prediction_length is None else prediction_length
        if min(num_samples, steps) < 1 or lead_time < 0:
            raise ValueError(
                "num_samples and prediction_length must be at least 1 and lead_time at least 0, got "
                f"{num_samples}, {steps} and {lead_time}."
            )
        super().__init__(prediction_length=steps, lead_time=lead_time)
        self.forecaster, self.num_samples, self.seed, self.progress = forecaster, num_samples, seed, progress

    @property
    def freq(self) -> str:
        """Frequency of the entries."""
        assert self.forecaster.spec is not None
        return self.forecaster.spec.freq

    def predict(
        self, dataset: Iterable[Mapping[str, Any]], num_samples: int | None = None, **_: Any
    ) -> Iterator[SampleForecast]:
        """Forecasts from the end of each entry, in order; samples (S, P), or (S, P, D) for a (D, T) target, float32.

        All S paths of an entry are drawn together, so that the quantile levels of guidance belong to them. Nothing is
        yielded before the last path is drawn: between two forecasts the gradient mode is the caller's.

        Args:
            dataset: Entries with ``start`` and ``target``; NaN is missing.
            num_samples: S; default: that of the constructor.
        """
        entries = list(dataset)
        if not entries:
            return
        for number, entry in enumerate(entries):
            _check_entry(entry, number, self.freq)
        forecast = self.forecaster.forecast(
            entries,
            self.num_samples if num_samples is None else num_samples,
            prediction_length=self.prediction_length,
            seed=self.seed,
            lead_time=self.lead_time,
            progress=self.progress,
        )
        for entry, samples in zip(entries, forecast.samples):
            length = np.shape(entry["target"])[-1]
            start = calendar.shift(entry["start"], length + self.lead_time)
            name = entry.get("item_id")
            yield SampleForecast(samples.astype(np.float32), start, item_id=name, info=entry.get("info"))

    def serialize(self, path: Path) -> None:
        """Write the predictor into a folder: GluonTS's own file, options as JSON, one checkpoint."""
        super().serialize(path)
        options = {"num_samples": self.num_samples, "seed": self.seed, "lead_time": self.lead_time}
        options["prediction_length"] = self.prediction_length
        (path / _OPTIONS).write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
        self.forecaster.save(path / _WEIGHTS)

    @classmethod
    def deserialize(cls, path: Path, device: str | None = None, **_: Any) -> DiffusionPredictor:
        """Read what `serialize` wrote; the same seed gives the same samples."""
        options = json.loads((Path(path) / _OPTIONS).read_text(encoding="utf-8"))
        forecaster = DiffusionForecaster.from_pretrained(Path(path) / _WEIGHTS, device=device or "cpu")
        return cls(forecaster, **options)


class DiffusionEstimator(Estimator):
    """GluonTS estimator that trains a `DiffusionForecaster`.

    Args:
        freq: Frequency of the entries.
        prediction_length: P.
        context_length: C; 4 P if absent.
        lead_time: Of the predictor.
        num_samples: Of the predictor.
        seed: Of weights, windows and the predictor.
        training: Options of `DiffusionForecaster`'s training, as a dict: ``max_steps``, ``lr``, ...
        callbacks: Lightning callbacks.
        progress: Show Lightning's bar.
        model: Further arguments of `DiffusionForecaster`: ``lags``, ``scaling``, ``preset``, ``network``, ``sampling``.

    Example:
        >>> predictor = DiffusionEstimator("h", 24, training={"max_steps": 1000}).train(dataset.train)
    """

    def __init__(
        self,
        freq: str,
        prediction_length: int,
        context_length: int | None = None,
        *,
        lead_time: int = 0,
        num_samples: int = 100,
        seed: int = 0,
        training: Mapping[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
        progress: bool = False,
        **model: Any,
    ) -> None:
        super().__init__(lead_time=lead_time)
        self.freq, self.prediction_length, self.context_length = freq, prediction_length, context_length
        self.num_samples, self.seed, self.progress = num_samples, seed, progress
        self.training, self.callbacks, self.model = {"seed": seed, **(training or {})}, tuple(callbacks), dict(model)
        self._untrained()  # wrong options are refused here

    def train(
        self,
        training_data: Iterable[Mapping[str, Any]],
        validation_data: Iterable[Mapping[str, Any]] | None = None,
        **_: Any,
    ) -> DiffusionPredictor:
        """Train a new forecaster.

        Args:
            training_data: Entries, which may be ragged and hold NaN.
            validation_data: Not read: the last P values of each training entry are held out for the validation loss.
        """
        entries = list(training_data)
        for number, entry in enumerate(entries):
            _check_entry(entry, number, self.freq)
        forecaster = self._untrained().fit(entries, progress=self.progress, callbacks=self.callbacks)
        return DiffusionPredictor(
            forecaster, num_samples=self.num_samples, seed=self.seed, lead_time=self.lead_time, progress=self.progress
        )

    def _untrained(self) -> DiffusionForecaster:
        return DiffusionForecaster(
            self.freq, self.prediction_length, self.context_length, training=self.training, **self.model
        )


def to_gluonts(forecast: Forecast) -> list[SampleForecast]:
    """Forecasts of a `Forecast` as GluonTS's, for its evaluators and plots."""
    return [
        SampleForecast(samples, start, item_id=name)
        for samples, start, name in zip(forecast.samples, forecast.starts, forecast.item_ids)
    ]


def _check_entry(entry: Mapping[str, Any], number: int, freq: str) -> None:
    """Refuse an entry of another frequency, which would silently be read as one of ours."""
    start = entry.get("start")
    own = calendar.normalize_freq(start.freqstr) if isinstance(start, pd.Period) else None
    if own is not None and own != calendar.normalize_freq(freq):
        raise ValueError(f"entry {number} has the frequency {own!r}, the model {calendar.normalize_freq(freq)!r}.")
    if "target" not in entry or np.ndim(entry["target"]) not in (1, 2):
        raise ValueError(f"entry {number} needs a target (T,) or (D, T), got {sorted(entry)}.")
