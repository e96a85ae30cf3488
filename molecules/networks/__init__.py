"""Package molecules/networks."""
