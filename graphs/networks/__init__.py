"""Networks that denoise graphs."""

from graphs.networks.edge_transformer import EdgeTransformer
from graphs.networks.gdss import GDSSNetwork, ScoreNetworkA, ScoreNetworkX, ScoreNetworkXGMH

__all__ = ["EdgeTransformer", "GDSSNetwork", "ScoreNetworkA", "ScoreNetworkX", "ScoreNetworkXGMH"]
