"""Package scidiff/cli."""
