"""Package molecules/data."""
