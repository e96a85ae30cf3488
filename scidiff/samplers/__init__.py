"""Package scidiff/samplers."""
