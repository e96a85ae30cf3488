"""Guidance: objects that turn a denoiser into a guided one, for ``sample(..., guidance=...)``."""

from scidiff.guidance.base import Guidance, Guided, Sum
from scidiff.guidance.contrast import Auto, AutoGuidance, ClassifierFree
from scidiff.guidance.dps import DPS
from scidiff.guidance.energy import Classifier, Energy
from scidiff.guidance.observation import Observation
from scidiff.guidance.posterior import MomentMatching, PseudoInverse
from scidiff.guidance.replace import Replace
from scidiff.guidance.self_guidance import SelfGuidance, quantile_levels

__all__ = [
    "DPS",
    "Auto",
    "AutoGuidance",
    "Classifier",
    "ClassifierFree",
    "Energy",
    "Guidance",
    "Guided",
    "MomentMatching",
    "Observation",
    "PseudoInverse",
    "Replace",
    "SelfGuidance",
    "Sum",
    "quantile_levels",
]
