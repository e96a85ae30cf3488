"""Package scidiff/nn."""
