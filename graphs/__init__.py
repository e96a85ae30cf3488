"""Graphs: generation with systems of stochastic differential equations."""
