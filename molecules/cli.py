"""Verbs of ``scidiff molecules``; imports nothing heavy."""

from __future__ import annotations

from scidiff.cli.domain import Domain

__all__ = ["DOMAIN"]

DOMAIN = Domain(
    name="molecules",
    help="3D molecules: prepare data, train, generate, evaluate",
)
