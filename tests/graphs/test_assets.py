"""The packaged checkpoints do what they are shipped for."""

import networkx as nx
import numpy as np
import pytest

from graphs import GraphGenerator
from graphs.chemistry import judge
from graphs.data.generators import community_fresh, erdos_renyi
from graphs.mmd import DESCRIPTORS, Comparison
from scidiff.assets import packaged

CHECKPOINTS = packaged("graphs")


def test_the_promised_checkpoints_are_there():
    assert {"community_fresh", "community_small", "ego_small", "qm9_2d"} <= set(CHECKPOINTS)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_small_and_says_where_it_comes_from(name):
    assert CHECKPOINTS[name].stat().st_size < 16 * 2**20
    generator = GraphGenerator.from_pretrained(name)
    assert generator.metadata["provenance"]["steps"] > 1000
    found = generator.sample(2, steps=2, seed=0)
    assert all(len(graph) in generator.spec.sizes for graph in found) or generator.is_gdss


@pytest.mark.parametrize("name", ["community_fresh", "ego_small"])
def test_samples_are_connected(name):
    """Released shares are above 0.8; fewer than 14 of 24 has a probability below 0.01 at 0.8."""
    found = GraphGenerator.from_pretrained(name).sample(24, steps=31, seed=0)
    assert sum(nx.is_connected(graph) for graph in found) >= 14


def test_communities_beat_random_graphs_of_their_density():
    """Clustering against 100 graphs of the rule: the random graphs of the same sizes and densities are far."""
    found = GraphGenerator.from_pretrained("community_fresh").sample(40, steps=31, seed=0)
    real = community_fresh(100, seed=5)
    descriptor = DESCRIPTORS["clustering"]
    rows = {"found": found.graph_set, "real": real, "random": erdos_renyi(real, 40, seed=0)}
    both = Comparison({name: descriptor.histogram(part) for name, part in rows.items()}, descriptor, "emd")
    assert both.mmd2("found", "real") < 0.25 * both.mmd2("random", "real")


def test_molecules_are_valid():
    """Released validity is above 0.93; 0.8 of 60 is more than four standard errors below."""
    found = GraphGenerator.from_pretrained("qm9_2d").sample(60, steps=31, seed=0)
    verdicts = judge(found.graph_set)
    assert np.mean([verdict.valid for verdict in verdicts]) > 0.8
