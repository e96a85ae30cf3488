"""Package scidiff/kernels."""
