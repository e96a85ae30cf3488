"""Trajectories of particles, atoms and people."""
