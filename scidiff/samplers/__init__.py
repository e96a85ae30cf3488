"""Solvers by name, and `sample`."""

from scidiff.samplers.base import Plan, Solver, get_solver, register, solver_names
from scidiff.samplers.ddim import DDIM, Ancestral
from scidiff.samplers.dpmpp import DPMpp2M
from scidiff.samplers.engine import SampleInfo, StepInfo, sample
from scidiff.samplers.euler import Euler, EulerMaruyama, Heun

__all__ = [
    "DDIM",
    "Ancestral",
    "DPMpp2M",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Plan",
    "SampleInfo",
    "Solver",
    "StepInfo",
    "get_solver",
    "register",
    "sample",
    "solver_names",
]
