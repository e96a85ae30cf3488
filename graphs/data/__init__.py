"""Graphs as flat arrays and dense padded batches; sources, splits and conversions."""

from graphs.data.attributes import Attributes
from graphs.data.batches import Batch, DenseGraphs, dense_batch
from graphs.data.convert import as_graph_set, from_networkx, from_pyg, to_networkx, to_pyg
from graphs.data.datamodule import GraphDataModule
from graphs.data.graph_set import GraphSet
from graphs.data.sources import SOURCES, load_named, prepare_named, split_codes
from graphs.data.spec import GraphSpec

__all__ = [
    "SOURCES",
    "Attributes",
    "Batch",
    "DenseGraphs",
    "GraphDataModule",
    "GraphSet",
    "GraphSpec",
    "as_graph_set",
    "dense_batch",
    "from_networkx",
    "from_pyg",
    "load_named",
    "prepare_named",
    "split_codes",
    "to_networkx",
    "to_pyg",
]
