"""Trajectory data: simulators and Lightning data modules."""
