"""`TimeSeriesDiffusion`: unconditional diffusion of windows, value and lag channels together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scidiff.configurable import Configurable, build
from scidiff.denoiser import Denoiser
from scidiff.laws import NoiseLaw
from scidiff.losses import DenoisingLoss, TimeLaw
from scidiff.noise import Free
from scidiff.process import Component, Process
from scidiff.schedules import EDM, DiscreteVP
from scidiff.training import CONFIG_KEY, DiffusionModule, StepLoss
from timeseries.data.scaling import Scale, SeriesSpec, window_scale
from timeseries.data.windows import Windows
from timeseries.networks.mlp import WindowMLP
from timeseries.networks.s4 import S4Backbone

__all__ = ["NUM_STEPS", "PRESETS", "TimeSeriesDiffusion", "make_denoiser", "scaled"]

PRESETS = ("edm", "tsdiff")
NUM_STEPS = 100
OBSERVED = "observed"
Preset = Literal["edm", "tsdiff"]


def make_denoiser(network: nn.Module, preset: Preset = "edm", law: NoiseLaw | None = None) -> Denoiser:
    """Denoiser of windows.

    Args:
        network: Called as ``network(x, t, cond)`` on windows (B, L, D, channels).
        preset: ``"tsdiff"``: the discrete process of TSDiff, 100 levels with beta from 1e-4 to .1, eps prediction.
            ``"edm"``: sigma(t) = 80 t, preconditioned; ours, because it resolves fluctuations far below the scale.
        law: Law of the noise: white, correlated (a Gaussian-process prior along axis 1), or Student-t (PFGM++).

    Raises:
        ValueError: If the preset is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}.")
    schedule = DiscreteVP.linear(num_levels=NUM_STEPS) if preset == "tsdiff" else EDM()
    process = Process(Component(schedule, law, Free(mask=OBSERVED)))
    heuristic = law is not None and not law.is_gaussian  # moment matching is only approximate for finite D
    prediction = "eps" if preset == "tsdiff" else "edm"
    return Denoiser(network, process, prediction=prediction, heuristic=heuristic)


class TimeSeriesDiffusion(DiffusionModule):
    """Unconditional model of windows (B, L, D, 1 + lags): forecasting, imputation and refinement come by guidance.

    Each window is scaled by its observed context. All channels are noised and denoised together; positions that are not
    observed carry noise, but no loss (the reference counts its zero-filled missing values). With ``preset="tsdiff"``,
    ``lr_end=1``, no warm-up, no average, Adam's usual betas and mean scaling this is the published configuration.

    Args:
        network: Only its arguments are used: channels and variates come from the data, and weights start anew.
            `S4Backbone` by default.
        spec: Windows of the training data; taken from the data module when training starts, if absent.
        preset: See `make_denoiser`; ``"tsdiff"`` trains on the 100 levels with the loss on eps, ``"edm"`` on log-normal
            noise levels with its preconditioned loss.
        law: Law of the noise.
        time_law: Distribution of the training time; default by preset.
        lr: Peak learning rate.
        warmup_steps: Steps of the linear warm-up.
        lr_end: Final learning rate as a fraction of ``lr``.
        betas: Decay rates of AdamW's moments.
        ema: Decay of the weight average; None for none.
        noise_seed: Seed of training and validation noise.
        compile: Run the network through ``torch.compile`` in training.

    Raises:
        ValueError: If an argument is outside its range; when training starts, if the data has other windows.

    References: Kollovieh et al. 2023 (TSDiff); Karras et al. 2022 (EDM), section 5.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        *,
        spec: SeriesSpec | None = None,
        preset: Preset = "edm",
        law: NoiseLaw | None = None,
        time_law: TimeLaw | None = None,
        lr: float = 1e-3,
        warmup_steps: int = 100,
        lr_end: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.99),
        ema: float | None = 0.999,
        noise_seed: int = 0,
        compile: bool = False,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}.")
        is_tsdiff = preset == "tsdiff"
        super().__init__(
            loss=DenoisingLoss(weighting="eps" if is_tsdiff else "edm"),
            time_law=time_law if time_law is not None else TimeLaw("uniform" if is_tsdiff else "lognormal_sigma"),
            lr=lr,
            warmup_steps=warmup_steps,
            lr_end=lr_end,
            betas=betas,
            ema=ema,
            noise_seed=noise_seed,
            compile=compile,
        )
        self.preset: Preset = preset
        self.law = law
        network = network if network is not None else S4Backbone()
        if not isinstance(network, Configurable):
            raise ValueError(f"network must be a Configurable such as S4Backbone, got {type(network).__name__}.")
        self._template = network.to_config()
        self.spec: SeriesSpec | None = None
        if spec is not None:
            self._adopt(spec)

    def configure_model(self) -> None:
        """Take the windows of the data module, once; later data must have the same ones."""
        spec = getattr(getattr(self.trainer, "datamodule", None), "spec", None)
        if self.spec is None:
            if not isinstance(spec, SeriesSpec):
                raise ValueError("no windows: fit with a TimeSeriesDataModule, or build the module with spec=.")
            self._adopt(spec)
        elif isinstance(spec, SeriesSpec):
            _check_windows(self.spec, spec)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained on other windows."""
        config = json.loads(checkpoint.get(CONFIG_KEY, "{}")).get("init_args", {}).get("spec")
        if config is not None and self.spec is not None:
            _check_windows(build(config), self.spec)

    def prepare(self, batch: Windows) -> tuple[Tensor, None, dict[str, Any]]:
        """Scaled windows, no endpoint, and the observed mask."""
        assert self.spec is not None
        state, _ = scaled(Windows(*batch), self.spec)
        return state, None, {OBSERVED: batch[1]}

    def training_loss(self, batch: Windows, generator: torch.Generator) -> StepLoss:
        """Noise everywhere, loss where observed."""
        state, _, cond = self.prepare(batch)
        t = self.sample_time(len(state), generator)
        x_t, _ = self.denoiser.process.perturb(state, t, generator=generator)
        result = self.loss(self.denoiser, state, t, x_t=x_t, cond=cond)
        return StepLoss(result.total, {}, t)

    def sample_time(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Times of the law; with ``preset="tsdiff"`` those of the 100 levels."""
        t = super().sample_time(num_samples, generator)
        if self.preset != "tsdiff":
            return t
        return (NUM_STEPS * t.double()).ceil().clamp(1, NUM_STEPS).div(NUM_STEPS).to(t.dtype)

    def _adopt(self, spec: SeriesSpec) -> None:
        """Build the network for ``spec``, and remember both as constructor arguments."""
        network = _fitted(self._template, spec)
        self.spec = spec
        self.denoiser = make_denoiser(network, self.preset, self.law)
        self._remember(spec=spec, network=network)


def scaled(windows: Windows, spec: SeriesSpec, *, anywhere: bool = False) -> tuple[Tensor, Scale]:
    """Windows in scaled units, float32, 0 where not observed, and their scale (B, 1, D).

    Args:
        windows: Windows in the units of the data.
        spec: How to scale.
        anywhere: If the context holds less than two observed values, use all observed values of the window.
    """
    values, observed = windows.values[..., 0], windows.observed[..., 0]
    known = torch.arange(values.shape[1], device=values.device)[:, None] < spec.context_length
    if anywhere:
        known = known | ((observed & known).sum(1, keepdim=True) < 2)
    scale = window_scale(values, observed & known, spec)
    state = (windows.values - scale.location[..., None]) / scale.scale[..., None]
    return torch.where(windows.observed, state, 0).float(), scale


def _check_windows(model: SeriesSpec, data: SeriesSpec) -> None:
    if not model.is_compatible(data):
        raise ValueError(
            f"the model was built for {model}, but the data is {data}: frequency, lengths, lags, scaling and number of "
            "variates must be the same."
        )


def _fitted(template: Mapping[str, Any], spec: SeriesSpec) -> nn.Module:
    """The network of a configuration, with channels, variates and length of ``spec``."""
    arguments = {**template["init_args"], "channels": spec.channels, "num_variates": spec.num_variates}
    if template["class_path"] == f"{WindowMLP.__module__}.{WindowMLP.__qualname__}":
        arguments["length"] = spec.length
    return build({**template, "init_args": arguments})
