"""`DiffusionForecaster`: one unconditional model that forecasts, imputes, refines and synthesizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scidiff.checkpoint import Pretrained
from scidiff.denoiser import Denoiser
from timeseries.data import calendar
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries, as_series
from timeseries.data.windows import Cuts, Windows, WindowStore
from timeseries.diffusion import Preset, scaled
from timeseries.fitting import TRAINING, train
from timeseries.forecast import Forecast, Imputation
from timeseries.paths import STRIDE, Bar, base_paths, fill, num_parts, path_seeds, window_start
from timeseries.refinement import RefineOptions, refine_windows, representative_time
from timeseries.tasks import SamplingOptions, draw_windows, profile

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
        law: Law of the noise.
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
        law: Any = None,
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
            model={"network": self.network_template[0], "preset": self.preset, "law": self.law},
            progress=progress,
            callbacks=callbacks,
        )
        self._adopt(DiffusionForecaster.from_module(trained.module).denoiser, trained.module.spec)
        self.metadata = {"metrics": trained.metrics, "provenance": trained.provenance}
        self.calibrate(series)
        return self

    def calibrate(self, data: Any, **columns: Any) -> None:
        """Choose the noise time of `refine` from windows of ``data``: the one with the average eps loss."""
        denoiser, spec = self._fitted()
        store = WindowStore(self._series(data, **columns), spec)
        generator = torch.Generator().manual_seed(0)
        windows = store.take(store.draw(_REFERENCE_WINDOWS, generator))
        state, _ = scaled(windows, spec)
        self.refine_time = representative_time(denoiser, state, windows.observed)
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
        progress: bool = False,
        lead_time: int = 0,
        profile: str = "default",
        target: str | Sequence[str] | None = None,
        item_id: str | None = None,
        timestamp: str | None = None,
        **options: Any,
    ) -> Forecast:
        """Sample paths from the end of each series.

        Args:
            data: Series, with their history up to where the forecast starts.
            num_samples: S paths a series, drawn together.
            prediction_length: Steps; beyond the trained P each path is continued from its own last values.
            seed: A path depends on this, its series and its number only.
            device: Where to compute; default: where the weights are.
            progress: Show a bar.
            lead_time: Steps between the end of a series and the first forecast one.
            profile: ``"default"`` or ``"parity"``, see `timeseries.tasks.profile`.
            target: Column of the values of a frame.
            item_id: Column of the names.
            timestamp: Column of the time stamps.
            options: Changes of `timeseries.tasks.SamplingOptions`: ``steps``, ``solver``, ``guidance``, ``rows`` ...

        Returns:
            Samples (items, S, P), or (items, S, P, D) for several variates.

        Raises:
            ValueError: If the model is not fitted, or data or options do not fit.
        """
        denoiser, spec = self._fitted(device)
        series = self._series(data, target=target, item_id=item_id, timestamp=timestamp)
        horizon = lead_time + (spec.prediction_length if prediction_length is None else prediction_length)
        _check_counts(num_samples=num_samples, prediction_length=horizon - lead_time)
        if not isinstance(lead_time, Integral) or lead_time < 0:
            raise ValueError(f"lead_time must be an integer of at least 0, got {lead_time!r}.")
        chosen = self._options(profile, options)
        blocks = -(-horizon // spec.prediction_length)
        levels = ((torch.arange(num_samples, dtype=torch.float64) + 1) / (num_samples + 1)).repeat(len(series))
        tables = [s.table[-spec.history :] for s in series]
        paths: list[Tensor] = []
        nfe = 0
        with Bar(progress, blocks * num_parts(len(series), num_samples, chosen) * chosen.steps) as advance:
            for block in range(blocks):
                store = WindowStore([TimeSeries(t, series[0].start) for t in tables], spec)
                windows = store.take(store.ends(), hide_future=True)
                each = num_samples if block == 0 else 1
                seeds = path_seeds(seed, len(series), num_samples, block)
                x, nfe = draw_windows(denoiser, spec, windows, each, seeds, chosen, levels=levels, callback=advance)
                paths.append(x[:, spec.context_length :])
                if block + 1 < blocks:
                    if block == 0:
                        tables = [table for table in tables for _ in range(num_samples)]
                    tables = [np.concatenate([t, p.numpy()])[-spec.history :] for t, p in zip(tables, paths[-1])]
        samples = torch.cat(paths, 1)[:, lead_time:horizon].unflatten(0, (len(series), num_samples)).numpy()
        return Forecast(
            samples[..., 0] if series[0].values.ndim == 1 else samples,
            [calendar.shift(s.start, len(s) + lead_time) for s in series],
            [s.item_id for s in series],
            series[0].names,
            blocks * nfe,
        )

    def impute(
        self,
        data: Any,
        num_samples: int = 20,
        *,
        seed: int = 0,
        device: str | torch.device | None = None,
        profile: str = "default",
        target: str | Sequence[str] | None = None,
        item_id: str | None = None,
        timestamp: str | None = None,
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
            profile: ``"default"`` or ``"parity"``.
            target: Column of the values of a frame.
            item_id: Column of the names.
            timestamp: Column of the time stamps.
            options: Changes of `timeseries.tasks.SamplingOptions`.
        """
        denoiser, spec = self._fitted(device)
        series = self._series(data, target=target, item_id=item_id, timestamp=timestamp)
        _check_counts(num_samples=num_samples)
        chosen = self._options(profile, options)
        paths = [np.repeat(s.table[None], num_samples, 0) for s in series]
        levels = (torch.arange(num_samples, dtype=torch.float64) + 1) / (num_samples + 1)
        block = 0
        while open_ := [k for k, path in enumerate(paths) if np.isnan(path[0]).any()]:
            starts = [window_start(paths[k][0], spec.length) for k in open_]
            flat = [TimeSeries(path, series[k].start) for k in open_ for path in paths[k]]
            store = WindowStore(flat, spec)
            cuts = torch.tensor(starts).repeat_interleave(num_samples) + spec.context_length
            windows = store.take(Cuts(torch.arange(len(flat)), cuts))
            seeds = [(seed, ((block * STRIDE + k) * STRIDE) + j) for k in open_ for j in range(num_samples)]
            drawn, _ = draw_windows(
                denoiser, spec, windows, 1, seeds, chosen, levels=levels.repeat(len(open_)), anywhere=True
            )
            values = drawn.unflatten(0, (len(open_), num_samples)).numpy()
            for k, start, window in zip(open_, starts, values):
                fill(paths[k], window, start)
            block += 1
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
        target: str | Sequence[str] | None = None,
        item_id: str | None = None,
        timestamp: str | None = None,
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
            target: Column of the values of a frame.
            item_id: Column of the names.
            timestamp: Column of the time stamps.
            options: Changes of `timeseries.refinement.RefineOptions`.

        Raises:
            ValueError: If shapes do not fit or no noise time is known.
        """
        denoiser, spec = self._fitted(device)
        series = self._series(data, target=target, item_id=item_id, timestamp=timestamp)
        _check_counts(num_samples=num_samples)
        time = t if t is not None else self.refine_time
        if time is None:
            raise ValueError("no noise time is known: pass t=, or call calibrate(data) once.")
        paths = base_paths(base, len(series), spec, num_samples)
        flat = [
            TimeSeries(np.concatenate([s.table[-spec.history :], path]), s.start)
            for s, own in zip(series, paths)
            for path in own
        ]
        store = WindowStore(flat, spec)
        cuts = store.ends(spec.prediction_length)
        seen = store.take(cuts, hide_future=True)
        state, scale = scaled(Windows(*store.take(cuts)), spec)
        levels = ((torch.arange(num_samples, dtype=torch.float64) + 1) / (num_samples + 1)).repeat(len(series))
        y = refine_windows(
            denoiser,
            state,
            seen.observed,
            levels,
            time,
            path_seeds(seed, len(series), num_samples),
            RefineOptions(**options),
        )
        values = y[:, spec.context_length :, :, 0].double() * scale.scale + scale.location
        samples = values.unflatten(0, (len(series), num_samples)).numpy()
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
        progress: bool = False,
        **options: Any,
    ) -> np.ndarray:
        """Draw ``n`` windows (n, C + P), or (n, C + P, D), in scaled units: location 0 and scale 1 of the context.

        Args:
            n: How many.
            seed: A window depends on this and its number only.
            device: Where to compute.
            progress: Show a bar.
            options: Changes of `timeseries.tasks.SamplingOptions`.
        """
        denoiser, spec = self._fitted(device)
        _check_counts(n=n)
        chosen = self._options("default", {"guidance": "none", **options})
        unit = spec.replaced(
            location=(0.0,) * spec.num_variates, size=(1.0,) * spec.num_variates, spread=(1.0,) * spec.num_variates
        )
        shape = (n, spec.length, spec.num_variates, spec.channels)
        nothing = Windows(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool))
        with Bar(progress, num_parts(n, 1, chosen) * chosen.steps) as advance:
            x, _ = draw_windows(denoiser, unit, nothing, 1, [(seed, k) for k in range(n)], chosen, callback=advance)
        return x[..., 0].numpy() if spec.num_variates == 1 else x.numpy()

    def sample(self, n: int, **options: Any) -> np.ndarray:
        """Another name of `synthesize`."""
        return self.synthesize(n, **options)

    # Helpers

    def _adopt(self, denoiser: Denoiser | None, spec: SeriesSpec | None) -> None:
        self.denoiser, self.spec = denoiser, spec
        self._remember(denoiser=denoiser, spec=spec)

    def _fitted(self, device: str | torch.device | None = None) -> tuple[Denoiser, SeriesSpec]:
        if self.denoiser is None or self.spec is None:
            raise ValueError("this forecaster is not trained yet: call fit(data), or load one by from_pretrained.")
        self.denoiser.requires_grad_(False)
        if device is not None:
            self.denoiser.to(device)
        return self.denoiser, self.spec

    def _series(self, data: Any, **columns: Any) -> list[TimeSeries]:
        assert self.spec is not None
        series = as_series(data, self.spec.freq, **columns)
        if series[0].num_variates != self.spec.num_variates:
            raise ValueError(
                f"the series have {series[0].num_variates} variates, the model takes {self.spec.num_variates}."
            )
        return series

    def _options(self, name: str, changes: Mapping[str, Any]) -> SamplingOptions:
        return profile(name, **{**(self.sampling if name == "default" else {}), **changes})


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}.")
