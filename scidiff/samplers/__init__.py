"""Solvers by name, and `sample`."""

from scidiff.samplers.base import Plan, Solver, get_solver, register, solver_names
from scidiff.samplers.ddim import DDIM, Ancestral
from scidiff.samplers.deis import DEIS
from scidiff.samplers.dpm_solver import SingleStep
from scidiff.samplers.dpmpp import DPMpp2M, DPMpp3M, DPMppSDE2M
from scidiff.samplers.edm import EDMHeun
from scidiff.samplers.engine import SampleInfo, StepInfo, sample
from scidiff.samplers.euler import Euler, EulerMaruyama, Heun
from scidiff.samplers.interpolant import InterpolantSDE
from scidiff.samplers.predictor_corrector import PredictorCorrector, ReverseDiffusion
from scidiff.samplers.rk45 import RK45
from scidiff.samplers.rows import Row
from scidiff.samplers.s4 import S4
from scidiff.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "RK45",
    "S4",
    "Ancestral",
    "DPMpp2M",
    "DPMpp3M",
    "DPMppSDE2M",
    "EDMHeun",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "InterpolantSDE",
    "Plan",
    "PredictorCorrector",
    "ReverseDiffusion",
    "Row",
    "SampleInfo",
    "SingleStep",
    "Solver",
    "StepInfo",
    "UniPC",
    "get_solver",
    "register",
    "sample",
    "solver_names",
]
