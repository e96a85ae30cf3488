"""The common core: processes, denoisers, samplers, guidance and training."""

from scidiff.denoiser import Denoiser
from scidiff.discrete import Categorical
from scidiff.noise import Compose, Free, GaussianNoise, Masked, NoiseSource, Symmetric, ZeroMean
from scidiff.process import Component, Process
from scidiff.samplers import sample
from scidiff.schedules import EDM, VESDE, VPSDE, Cosine, DiscreteVP, Linear, SubVPSDE, Trig

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "VESDE",
    "VPSDE",
    "Categorical",
    "Component",
    "Compose",
    "Cosine",
    "Denoiser",
    "DiscreteVP",
    "Free",
    "GaussianNoise",
    "Linear",
    "Masked",
    "NoiseSource",
    "Process",
    "SubVPSDE",
    "Symmetric",
    "Trig",
    "ZeroMean",
    "sample",
]
