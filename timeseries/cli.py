"""Verbs of ``scidiff timeseries``; imports nothing heavy."""

from __future__ import annotations

from scidiff.cli.domain import Domain

__all__ = ["DOMAIN"]

DOMAIN = Domain(
    name="timeseries",
    help="time series: train a diffusion model that forecasts, imputes, refines and synthesizes",
    export="timeseries.commands:export",
)
