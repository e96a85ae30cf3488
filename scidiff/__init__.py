"""The common core: processes, denoisers, samplers, guidance and training."""

from typing import TYPE_CHECKING

from scidiff.lazy import lazy_exports

if TYPE_CHECKING:  # each of these names stands in _EXPORTS, too; a test compares the two lists
    from scidiff.denoiser import Denoiser
    from scidiff.discrete import Categorical
    from scidiff.encoding import encode, encode_noise
    from scidiff.endpoints import BrownianBridge, MeanReverting, Residual
    from scidiff.interpolants import Custom, Interpolant
    from scidiff.laws import GaussianNoise
    from scidiff.likelihood import log_prob
    from scidiff.noise import Compose, Free, Masked, NoiseSource, Symmetric, ZeroMean
    from scidiff.process import Component, Process
    from scidiff.samplers import sample
    from scidiff.schedules import EDM, VESDE, VPSDE, Cosine, DiscreteVP, Linear, SubVPSDE, Trig
    from scidiff.student import StudentTNoise

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "VESDE",
    "VPSDE",
    "BrownianBridge",
    "Categorical",
    "Component",
    "Compose",
    "Cosine",
    "Custom",
    "Denoiser",
    "DiscreteVP",
    "Free",
    "GaussianNoise",
    "Interpolant",
    "Linear",
    "Masked",
    "MeanReverting",
    "NoiseSource",
    "Process",
    "Residual",
    "StudentTNoise",
    "SubVPSDE",
    "Symmetric",
    "Trig",
    "ZeroMean",
    "encode",
    "encode_noise",
    "log_prob",
    "sample",
]

_EXPORTS = {
    "Denoiser": "scidiff.denoiser",
    "Categorical": "scidiff.discrete",
    "encode": "scidiff.encoding",
    "encode_noise": "scidiff.encoding",
    "BrownianBridge": "scidiff.endpoints",
    "MeanReverting": "scidiff.endpoints",
    "Residual": "scidiff.endpoints",
    "Custom": "scidiff.interpolants",
    "Interpolant": "scidiff.interpolants",
    "Compose": "scidiff.noise",
    "Free": "scidiff.noise",
    "GaussianNoise": "scidiff.laws",
    "log_prob": "scidiff.likelihood",
    "Masked": "scidiff.noise",
    "NoiseSource": "scidiff.noise",
    "Symmetric": "scidiff.noise",
    "ZeroMean": "scidiff.noise",
    "Component": "scidiff.process",
    "Process": "scidiff.process",
    "sample": "scidiff.samplers",
    "EDM": "scidiff.schedules",
    "VESDE": "scidiff.schedules",
    "VPSDE": "scidiff.schedules",
    "Cosine": "scidiff.schedules",
    "DiscreteVP": "scidiff.schedules",
    "Linear": "scidiff.schedules",
    "SubVPSDE": "scidiff.schedules",
    "Trig": "scidiff.schedules",
    "StudentTNoise": "scidiff.student",
}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
