"""`DiffusionForecaster`: one model that forecasts, imputes, refines and synthesizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from scidiff.checkpoint import Pretrained
from scidiff.denoiser import Denoiser
from scidiff.laws import NoiseLaw
from timeseries.bases import Base
from timeseries.data import calendar
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries, as_series
from timeseries.data.windows import Windows, WindowStore
from timeseries.diffusion import Preset, scaled
from timeseries.fitting import TRAINING, train
from timeseries.forecast import Forecast, Imputation
from timeseries.paths import Bar, Progress, num_parts
from timeseries.refinement import RefineOptions, representative_time
from timeseries.tasks import SamplingOptions, draw_windows, is_conditional, profile
from timeseries.walks import WindowModel, forecast_paths, impute_paths, num_blocks, num_passes, refine_paths

__all__ = ["DiffusionForecaster"]

_REFERENCE_WINDOWS = 1024


class DiffusionForecaster(Pretrained):
    """Probabilistic forecasts, imputations, refinements and synthetic series from one diffusion model.

    Follows scikit-learn: the constructor stores options, `fit` trains and returns the object. Data may be anything that
    `timeseries.data.series.as_series` reads; NaN is missing, series may be ragged and shorter than the context.

    Args:
        freq: Frequency; taken from the data if absent.
        prediction_length: P.
        context_length: C; 4 P if absent.
        lags: Lags in steps, which let the model see history before its context; ``"auto"`` for the published ones.
        scaling: See `timeseries.data.scaling`.
        preset: See `timeseries.diffusion.make_denoiser`.
        network: Network whose arguments are used; `timeseries.networks.S4Backbone` by default.
        law: Law of the noise, see `timeseries.priors`.
        conditional: Train a model that sees what is known: forecasts and imputes without guidance, nothing else.
        masks: What its training hides, see `timeseries.conditioning.training_mask`; add ``"gaps"`` to impute.
        base: Where it expects a window, see `timeseries.bases`.
        training: Changes of `timeseries.fitting.TRAINING`, such as ``max_steps``, ``max_time``, ``lr``.
        sampling: Defaults of `timeseries.tasks.SamplingOptions`, as a dict.
        denoiser: Trained denoiser; set by `fit`. Its parameters are frozen.
        spec: Windows it was trained on; set by `fit`.
        refine_time: Noise time of `refine`; set by `fit`.

    Raises:
        ValueError: If an option is out of range or unknown.

    Example:
        >>> m = DiffusionForecaster(freq="h", prediction_length=24, context_length=168).fit(df)
        >>> m.forecast(df, num_samples=100, seed=0).frame()
    """

    def __init__(
        self,
        freq: str | None = None,
        prediction_length: int | None = None,
        context_length: int | None = None,
        *,
        lags: Sequence[int] | Literal["auto"] = (),
        scaling: str = "std",
        preset: Preset = "edm",
        network: nn.Module | None = None,
        law: NoiseLaw | None = None,
        conditional: bool = False,
        masks: Sequence[str] = ("forecast",),
        base: Base | None = None,
        training: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        denoiser: Denoiser | None = None,
        spec: SeriesSpec | None = None,
        refine_time: float | None = None,
    ) -> None:
        if freq is not None:
            calendar.normalize_freq(freq)
        if unknown := set(training or {}) - set(TRAINING):
            raise ValueError(f"unknown training options {sorted(unknown)}; known: {', '.join(TRAINING)}.")
        SamplingOptions(**(sampling or {}))
        self.freq, self.prediction_length, self.context_length = freq, prediction_length, context_length
        self.lags, self.scaling = lags, scaling
        self.preset: Preset = preset
        self.network_template, self.law = (network,), law  # in a tuple: it holds no weights of this object
        self.conditional, self.masks, self.base = conditional, tuple(masks), base
        self.training, self.sampling = dict(training or {}), dict(sampling or {})
        self.denoiser = denoiser.eval().requires_grad_(False) if denoiser is not None else None
        self.spec, self.refine_time = spec, refine_time

    @classmethod
    def from_module(cls, module: Any, **options: Any) -> DiffusionForecaster:
        """Forecaster of a trained `timeseries.diffusion.TimeSeriesDiffusion`, with averaged weights.

        Raises:
            ValueError: If the module has not seen data yet.
        """
        if getattr(module, "spec", None) is None:
            raise ValueError("the module has not seen any data yet: fit it, or build it with spec=.")
        with module.averaged():
            denoiser = Denoiser.from_config(module.denoiser.to_config())
            denoiser.load_state_dict(module.denoiser.state_dict())
        spec = module.spec
        return cls(
            spec.freq,
            spec.prediction_length,
            spec.context_length,
            lags=spec.lags,
            scaling=spec.scaling,
            preset=module.preset,
            law=module.law,
            conditional=module.conditional,
            masks=module.masks,
            base=module.base,
            denoiser=denoiser,
            spec=spec,
            **options,
        )

    # Training

    def fit(
        self, data: Any, *, progress: bool = False, callbacks: Sequence[Any] = (), **columns: Any
    ) -> DiffusionForecaster:
        """Train on all series of ``data``; the last P values of each are held out for the validation loss.

        Args:
            data: See the class.
            progress: Show Lightning's bar.
            callbacks: Further Lightning callbacks.
            columns: ``target``, ``item_id``, ``timestamp`` of a frame.

        Returns:
            This object.
        """
        series = as_series(data, self.freq, **columns)
        trained = train(
            series,
            self.training,
            windows={
                "prediction_length": self.prediction_length,
                "context_length": self.context_length,
                "lags": self.lags,
                "scaling": self.scaling,
            },
            model={
                "network": self.network_template[0],
                "preset": self.preset,
                "law": self.law,
                "conditional": self.conditional,
                "masks": self.masks,
                "base": self.base,
            },
            progress=progress,
            callbacks=callbacks,
        )
        self._adopt(DiffusionForecaster.from_module(trained.module).denoiser, trained.module.spec, trained.module.base)
        self.metadata = {"metrics": trained.metrics, "provenance": trained.provenance}
        if not self.conditional:
            self.calibrate(series)
        return self

    def calibrate(self, data: Any, **columns: Any) -> None:
        """Choose the noise time of `refine` from windows of ``data``: the one with the average eps loss."""
        model = self._fitted()
        _check_unconditional(model, "refine")
        store = WindowStore(self._series(data, **columns), model.spec)
        windows = store.take(store.draw(_REFERENCE_WINDOWS, torch.Generator().manual_seed(0)))
        state, _ = scaled(windows, model.spec)
        self.refine_time = representative_time(model.denoiser, state, windows.observed)
        self._remember(refine_time=self.refine_time)

    # Tasks

    def forecast(
        self,
        data: Any,
        num_samples: int = 100,
        *,
        prediction_length: int | None = None,
        seed: int = 0,
        device: str | torch.device | None = None,
        progress: Progress = False,
        lead_time: int = 0,
        profile: str = "default",
        numbers: Sequence[int] | None = None,
        **options: Any,
    ) -> Forecast:
        """Sample paths from the end of each series.

        Args:
            data: Series, with their history up to where the forecast starts.
            num_samples: S paths a series, drawn together.
            prediction_length: Steps; beyond the trained P each path is continued from its own last values.
            seed: A path depends on this, its series and its number only.
            device: Where to compute; default: where the weights are.
            progress: Show a bar; or a function that is called after each solver step.
            lead_time: Steps between the end of a series and the first forecast one.
            profile: ``"default"`` or ``"parity"``, see `timeseries.tasks.profile`.
            numbers: Number of each series, on which its noise depends; 0, 1, ... if absent. Parts of a data set are so
                forecast as the whole is.
            options: Changes of `timeseries.tasks.SamplingOptions`: ``steps``, ``solver``, ``guidance``, ``rows`` ...;
                and the columns of a frame, as in `fit`.

        Returns:
            Samples (items, S, P), or (items, S, P, D) for several variates.

        Raises:
            ValueError: If the model is not fitted, or data or options do not fit.
        """
        model = self._fitted(device)
        series = self._series(data, **_columns(options))
        length = model.spec.prediction_length if prediction_length is None else prediction_length
        _check_counts(num_samples=num_samples, prediction_length=length)
        if not isinstance(lead_time, Integral) or lead_time < 0:
            raise ValueError(f"lead_time must be an integer of at least 0, got {lead_time!r}.")
        chosen = self.sampling_options(profile, **options)
        blocks = num_blocks(model.spec, lead_time + length)
        with Bar(progress, blocks * num_parts(len(series), num_samples, chosen) * chosen.steps) as advance:
            samples, nfe = forecast_paths(
                model, series, num_samples, lead_time + length, chosen, seed=seed, numbers=numbers, advance=advance
            )
        samples = samples[:, :, lead_time:]
        return Forecast(
            samples[..., 0] if series[0].values.ndim == 1 else samples,
            [calendar.shift(s.start, len(s) + lead_time) for s in series],
            [s.item_id for s in series],
            series[0].names,
            nfe,
        )

    def impute(
        self,
        data: Any,
        num_samples: int = 20,
        *,
        seed: int = 0,
        device: str | torch.device | None = None,
        progress: Progress = False,
        profile: str = "default",
        numbers: Sequence[int] | None = None,
        **options: Any,
    ) -> Imputation:
        """Draw the missing values of each series; observed ones are unchanged in every sample.

        Windows walk over a series from its first missing value on; what a path has drawn counts as observed in its next
        window, so that long gaps are filled coherently.

        Args:
            data: Series with NaN.
            num_samples: S.
            seed: As in `forecast`.
            device: Where to compute.
            progress: Show a bar.
            profile: ``"default"`` or ``"parity"``.
            numbers: As in `forecast`.
            options: As in `forecast`.
        """
        model = self._fitted(device)
        series = self._series(data, **_columns(options))
        _check_counts(num_samples=num_samples)
        chosen = self.sampling_options(profile, **options)
        steps = chosen.steps * max((num_passes(s.table, model.spec) for s in series), default=0)
        with Bar(progress, steps) as advance:
            paths = impute_paths(model, series, num_samples, chosen, seed=seed, numbers=numbers, advance=advance)
        samples = [p[..., 0] if s.values.ndim == 1 else p for p, s in zip(paths, series)]
        return Imputation(series, samples)

    def refine(
        self,
        base: Any,
        data: Any,
        num_samples: int = 100,
        *,
        seed: int = 0,
        device: str | torch.device | None = None,
        t: float | None = None,
        **options: Any,
    ) -> Forecast:
        """Improve the forecasts of another model with the density of this one.

        Args:
            base: Base forecast: a `Forecast`, or samples (items, S0, P) or points (items, P).
            data: Series up to where the forecast starts.
            num_samples: S paths a series; the base is sorted at each step and spread over them by its quantiles, so
                that path j starts at level (j + 1)/(S + 1).
            seed: As in `forecast`.
            device: Where to compute.
            t: Noise time of the energy; default: the one that `fit` chose.
            options: Changes of `timeseries.refinement.RefineOptions`; and the columns of a frame.

        Raises:
            ValueError: If shapes do not fit or no noise time is known.
        """
        model = self._fitted(device)
        _check_unconditional(model, "refine")
        series = self._series(data, **_columns(options))
        _check_counts(num_samples=num_samples)
        time = t if t is not None else self.refine_time
        if time is None:
            raise ValueError("no noise time is known: pass t=, or call calibrate(data) once.")
        samples = refine_paths(model, base, series, num_samples, time, RefineOptions(**options), seed=seed)
        return Forecast(
            samples[..., 0] if series[0].values.ndim == 1 else samples,
            [calendar.shift(s.start, len(s)) for s in series],
            [s.item_id for s in series],
            series[0].names,
        )

    def synthesize(
        self,
        n: int,
        *,
        seed: int = 0,
        device: str | torch.device | None = None,
        progress: Progress = False,
        numbers: Sequence[int] | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Draw ``n`` windows (n, C + P), or (n, C + P, D), in scaled units: location 0 and scale 1 of the context.

        Args:
            n: How many.
            seed: A window depends on this and its number only.
            device: Where to compute.
            progress: Show a bar.
            numbers: Number of each window; 0, 1, ... if absent.
            options: Changes of `timeseries.tasks.SamplingOptions`.
        """
        model = self._fitted(device)
        _check_unconditional(model, "synthesize")
        spec = model.spec
        _check_counts(n=n)
        chosen = self.sampling_options(**{"guidance": "none", **options})
        unit = spec.replaced(
            location=(0.0,) * spec.num_variates, size=(1.0,) * spec.num_variates, spread=(1.0,) * spec.num_variates
        )
        chosen_numbers = range(n) if numbers is None else numbers
        shape = (n, spec.length, spec.num_variates, spec.channels)
        nothing = Windows(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool))
        with Bar(progress, num_parts(n, 1, chosen) * chosen.steps) as advance:
            x, _ = draw_windows(
                model.denoiser, unit, nothing, 1, [(seed, int(k)) for k in chosen_numbers], chosen, callback=advance
            )
        return x[..., 0].numpy() if spec.num_variates == 1 else x.numpy()

    def sample(self, n: int, **options: Any) -> np.ndarray:
        """Another name of `synthesize`."""
        return self.synthesize(n, **options)

    # Helpers

    def _adopt(self, denoiser: Denoiser | None, spec: SeriesSpec | None, base: Base | None) -> None:
        self.denoiser, self.spec, self.base = denoiser, spec, base
        self._remember(denoiser=denoiser, spec=spec, base=base)

    def _fitted(self, device: str | torch.device | None = None) -> WindowModel:
        if self.denoiser is None or self.spec is None:
            raise ValueError("this forecaster is not trained yet: call fit(data), or load one by from_pretrained.")
        self.denoiser.requires_grad_(False)
        if device is not None:
            self.denoiser.to(device)
        return WindowModel(self.denoiser, self.spec, self.base)

    def _series(self, data: Any, **columns: Any) -> list[TimeSeries]:
        assert self.spec is not None
        series = as_series(data, self.spec.freq, **columns)
        if series[0].num_variates != self.spec.num_variates:
            raise ValueError(
                f"the series have {series[0].num_variates} variates, the model takes {self.spec.num_variates}."
            )
        return series

    def sampling_options(self, name: str = "default", **changes: Any) -> SamplingOptions:
        """How windows are drawn: the named profile, the defaults of this forecaster, and changes."""
        if is_conditional(self._fitted().denoiser) and (name != "default" or changes.get("guidance", "none") != "none"):
            raise ValueError("a conditional model sees what is known: leave guidance and profile out.")
        return profile(name, **{**(self.sampling if name == "default" else {}), **changes})


def _columns(options: dict[str, Any]) -> dict[str, Any]:
    """Take the columns of a frame out of the options."""
    return {name: options.pop(name, None) for name in ("target", "item_id", "timestamp")}


def _check_unconditional(model: WindowModel, task: str) -> None:
    if is_conditional(model.denoiser):
        raise ValueError(f"a conditional model knows no density of whole windows: {task} needs an unconditional one.")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}.")
