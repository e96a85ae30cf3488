"""Package scidiff/guidance."""
