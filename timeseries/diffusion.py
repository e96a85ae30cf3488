"""`TimeSeriesDiffusion`: diffusion of windows, unconditional (value and lag channels together) or conditional."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from scidiff.configurable import Configurable, build
from scidiff.denoiser import Denoiser
from scidiff.laws import NoiseLaw
from scidiff.losses import DenoisingLoss, TimeLaw
from scidiff.nn.s4d import S4D
from scidiff.noise import Free
from scidiff.process import Component, Process
from scidiff.schedules import EDM, DiscreteVP, Linear, Schedule
from scidiff.student import StudentTNoise
from scidiff.training import CONFIG_KEY, DiffusionModule, StepLoss
from timeseries.bases import Base
from timeseries.conditioning import FEATURES, MASKS, conditions, training_mask
from timeseries.data.scaling import Scale, SeriesSpec, window_scale
from timeseries.data.windows import Windows
from timeseries.networks.mlp import WindowMLP
from timeseries.networks.s4 import S4Backbone
from timeseries.networks.wiener import WienerNetwork
from timeseries.priors import WindowNoise

__all__ = ["NUM_STEPS", "PRESETS", "TimeSeriesDiffusion", "make_denoiser", "scaled"]

NUM_STEPS = 100
OBSERVED = "observed"
_MEASURED = 8192  # windows that the moments of a Wiener filter are taken from
_OF_FIXED_LENGTH = tuple(f"{c.__module__}.{c.__qualname__}" for c in (WindowMLP, WienerNetwork))
Preset = Literal["edm", "tsdiff", "pfgmpp", "flow"]


class _Recipe(NamedTuple):
    """What a preset stands for: schedule, prediction, weighting of the loss, law of the time, degrees of freedom D."""

    schedule: Callable[[], Schedule]
    prediction: str
    weighting: str
    time_law: str
    D: float = math.inf


_RECIPES: dict[str, _Recipe] = {
    "edm": _Recipe(EDM, "edm", "edm", "lognormal_sigma"),
    "tsdiff": _Recipe(lambda: DiscreteVP.linear(num_levels=NUM_STEPS), "eps", "eps", "uniform"),
    "pfgmpp": _Recipe(EDM, "edm", "edm", "lognormal_sigma", D=128.0),
    "flow": _Recipe(Linear, "velocity", "velocity", "uniform"),
}
PRESETS = tuple(_RECIPES)


def make_denoiser(network: nn.Module, preset: Preset = "edm", law: NoiseLaw | None = None) -> Denoiser:
    """Denoiser of windows.

    Args:
        network: Called as ``network(x, t, cond)`` on windows (B, L, D, channels).
        preset: ``"tsdiff"``: the discrete process of TSDiff, 100 levels with beta from 1e-4 to .1, eps prediction.
            ``"edm"``: sigma(t) = 80 t, preconditioned; ours, because it resolves fluctuations far below the scale.
            ``"pfgmpp"``: the same with Student-t noise, D = 128. ``"flow"``: the straight path from the noise to the
            data, velocity prediction; with a Gaussian-process law this is TSFlow.
        law: Law of the noise: white, correlated (`timeseries.priors`), or Student-t (PFGM++); that of the preset if
            absent.

    Raises:
        ValueError: If the preset is unknown.
    """
    recipe = _recipe(preset)
    if law is None and math.isfinite(recipe.D):
        law = StudentTNoise(recipe.D)
    process = Process(Component(recipe.schedule(), law, Free(mask=OBSERVED)))
    heuristic = law is not None and not law.is_gaussian  # moment matching is only approximate for finite D
    return Denoiser(network, process, prediction=recipe.prediction, heuristic=heuristic)


def _recipe(preset: str) -> _Recipe:
    if preset not in _RECIPES:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}.")
    return _RECIPES[preset]


class TimeSeriesDiffusion(DiffusionModule):
    """Model of windows (B, L, D, 1 + lags), unconditional unless it is asked to see what is known.

    Each window is scaled by its observed context. An unconditional model noises and denoises all channels together, and
    forecasting, imputation and refinement come by guidance. A conditional one diffuses the value channel and sees lags,
    known values and their mask as features; it forecasts and imputes without guidance, and does nothing else.
    Positions that are not observed carry noise, but no loss (the reference counts its zero-filled missing values). With
    ``preset="tsdiff"``, ``lr_end=1``, no warm-up, no average, Adam's usual betas and mean scaling this is the published
    configuration of TSDiff, or of TSDiff-Cond.

    Args:
        network: Only its arguments are used: channels and variates come from the data, and weights start anew.
            `S4Backbone` by default; a `WienerNetwork` needs ``preset="edm"`` and measures its moments at the start.
        spec: Windows of the training data; taken from the data module when training starts, if absent.
        preset: See `make_denoiser`; ``"tsdiff"`` trains on the 100 levels with the loss on eps, ``"edm"`` and
            ``"pfgmpp"`` on log-normal noise levels with the preconditioned loss, ``"flow"`` on uniform times with the
            loss on the velocity.
        law: Law of the noise; a law of `timeseries.priors` gets its length and season from the windows.
        conditional: Show the network what is known.
        masks: What training hides from a conditional model, see `timeseries.conditioning.training_mask`.
        base: Where a conditional model expects the window (`timeseries.bases`); the noise is around it.
        state_lr: Learning rate of the decay rates, frequencies and steps of state-space layers, which then have no
            weight decay either; that of all others if absent.
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
        conditional: bool = False,
        masks: Sequence[str] = ("forecast",),
        base: Base | None = None,
        state_lr: float | None = None,
        time_law: TimeLaw | None = None,
        lr: float = 1e-3,
        warmup_steps: int = 100,
        lr_end: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.99),
        ema: float | None = 0.999,
        noise_seed: int = 0,
        compile: bool = False,
    ) -> None:
        recipe = _recipe(preset)
        if not masks or not set(masks) <= set(MASKS):
            raise ValueError(f"masks must be some of {', '.join(MASKS)}, got {list(masks)}.")
        if base is not None and not conditional:
            raise ValueError("a base needs a model that sees what is known: pass conditional=True.")
        super().__init__(
            loss=DenoisingLoss(weighting=recipe.weighting),
            time_law=time_law if time_law is not None else TimeLaw(recipe.time_law),  # type: ignore[arg-type]
            lr=lr,
            warmup_steps=warmup_steps,
            lr_end=lr_end,
            betas=betas,
            ema=ema,
            noise_seed=noise_seed,
            compile=compile,
        )
        self.preset: Preset = preset
        self.law, self.base, self.state_lr = law, base, state_lr
        self.conditional, self.masks = conditional, tuple(masks)
        network = network if network is not None else S4Backbone()
        if not isinstance(network, Configurable):
            raise ValueError(f"network must be a Configurable such as S4Backbone, got {type(network).__name__}.")
        if isinstance(network, WienerNetwork) and (preset != "edm" or conditional or law is not None):
            raise ValueError(
                "a WienerNetwork is for unconditional models with preset='edm' and white noise, got "
                f"preset={preset!r}, conditional={conditional} and law={law!r}."
            )
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

    def on_fit_start(self) -> None:
        """Measure the moments that a `WienerNetwork` needs, unless they came with a checkpoint."""
        network = self.denoiser.network
        if isinstance(network, WienerNetwork) and network.needs_moments:
            windows = self.trainer.datamodule.training_windows(_MEASURED)  # type: ignore[attr-defined]
            network.measure(*(v.to(self.device) for v in (self.prepare(windows)[0], windows.observed)))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained on other windows."""
        config = json.loads(checkpoint.get(CONFIG_KEY, "{}")).get("init_args", {}).get("spec")
        if config is not None and self.spec is not None:
            _check_windows(build(config), self.spec)

    def prepare(self, batch: Windows, generator: torch.Generator | None = None) -> tuple[Tensor, None, dict[str, Any]]:
        """Scaled windows, no endpoint, and the observed mask; for a conditional model the value channel, relative to
        its base, and the features that a random training mask leaves."""
        assert self.spec is not None
        windows = Windows(*batch)
        if not self.conditional:
            state, _ = scaled(windows, self.spec)
            return state, None, {OBSERVED: windows.observed}
        hidden = training_mask(self.masks, len(windows.values), self.spec, generator).to(windows.values.device)
        known = windows.observed[..., 0] & ~hidden
        state, _ = scaled(windows, self.spec, anywhere=True, known=known)
        seen = conditions(state, windows.observed, known, self.spec, self.base)
        return state[..., :1] - seen.mean, None, {OBSERVED: windows.observed[..., :1], FEATURES: seen.features}

    def training_loss(self, batch: Windows, generator: torch.Generator) -> StepLoss:
        """Noise everywhere, loss where observed."""
        state, _, cond = self.prepare(batch, generator)
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

    def parameter_groups(self) -> list[dict[str, Any]]:
        """With ``state_lr``: the state matrices and steps of S4D layers at their own rate, without weight decay."""
        groups = super().parameter_groups()
        if self.state_lr is None:
            return groups
        layers = [layer for layer in self.modules() if isinstance(layer, S4D)]
        state = [p for layer in layers for p in (layer.log_dt, layer.log_decay, layer.frequency)]
        own = {id(p) for p in state}
        rest = [{**group, "params": [p for p in group["params"] if id(p) not in own]} for group in groups]
        return [*rest, {"params": state, "lr": self.state_lr, "weight_decay": 0.0}]

    def _adopt(self, spec: SeriesSpec) -> None:
        """Build network, law and base for ``spec``, and remember them as constructor arguments."""
        network = _fitted(self._template, spec, self.conditional)
        self.spec = spec
        self.base = None if self.base is None else self.base.fitted(spec)
        law = None if self.base is None else self.base.law(spec)
        law = self.law if law is None else law
        law = law.fitted(spec) if isinstance(law, WindowNoise) else law
        self.denoiser = make_denoiser(network, self.preset, law)
        self._remember(spec=spec, network=network, base=self.base)


def scaled(
    windows: Windows, spec: SeriesSpec, *, anywhere: bool = False, known: Tensor | None = None
) -> tuple[Tensor, Scale]:
    """Windows in scaled units, float32, 0 where not observed, and their scale (B, 1, D).

    Args:
        windows: Windows in the units of the data.
        spec: How to scale.
        anywhere: If the context holds less than two known values, use all known values of the window.
        known: Values (B, L, D) that the scale may be taken from; default: the observed ones.
    """
    values, known = windows.values[..., 0], windows.observed[..., 0] if known is None else known
    place = torch.arange(values.shape[1], device=values.device)[:, None] < spec.context_length
    if anywhere:
        place = place | ((known & place).sum(1, keepdim=True) < 2)
    scale = window_scale(values, known & place, spec, windows.size)
    state = (windows.values - scale.location[..., None]) / scale.scale[..., None]
    return torch.where(windows.observed, state, 0).float(), scale


def _check_windows(model: SeriesSpec, data: SeriesSpec) -> None:
    if not model.is_compatible(data):
        raise ValueError(
            f"the model was built for {model}, but the data is {data}: frequency, lengths, lags, scaling and number of "
            "variates must be the same."
        )


def _fitted(template: Mapping[str, Any], spec: SeriesSpec, conditional: bool) -> nn.Module:
    """The network of a configuration, with channels, features, variates and length of ``spec``."""
    if conditional and "features" not in template["init_args"]:
        name = template["class_path"].rpartition(".")[2]
        raise ValueError(f"a conditional model needs a network with features, S4Backbone or WindowMLP, got {name}.")
    sizes = {"channels": 1, "features": spec.channels + 1} if conditional else {"channels": spec.channels}
    return build(_sized(template, {**sizes, "num_variates": spec.num_variates}, spec.length))


def _sized(template: Mapping[str, Any], sizes: Mapping[str, int], length: int) -> dict[str, Any]:
    arguments = {**template["init_args"], **sizes}
    if template["class_path"] in _OF_FIXED_LENGTH:
        arguments["length"] = length
    if "network" in arguments:
        inner = arguments["network"] if arguments["network"] is not None else S4Backbone().to_config()
        arguments["network"] = _sized(inner, sizes, length)
    return {**template, "init_args": arguments}
