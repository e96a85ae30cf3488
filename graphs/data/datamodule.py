"""Lightning data module of graphs: a named set, a file, or graphs in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from graphs.data.batches import Batch, DenseGraphs
from graphs.data.convert import as_graph_set
from graphs.data.graph_set import GraphSet
from graphs.data.sources import SOURCES, SplitRule, load_named, split_codes
from graphs.data.spec import GraphSpec
from scidiff.buckets import BucketSampler
from scidiff.configurable import Configurable
from scidiff.loaders import ResumableLoader

__all__ = ["GraphDataModule"]

_IN_MEMORY = "graphs in memory"


class GraphDataModule(Configurable, pl.LightningDataModule):
    """Graphs as dense padded batches, bucketed by size; see `graphs.data.batches.Batch`.

    Args:
        source: Name of a data set (`graphs.data.SOURCES`), a path (flat ``.npz``, ``.g6``, ``.graphml`` or a folder of
            them, ``.pt``, ``.smi``), or graphs: networkx, PyG ``Data``, `GraphSet`.
        split: ``"gdss"``, ``"spectre"``, ``"random"`` or ``"given"``; None takes that of the named set, the one a file
            carries, else ``"random"``.
        batch_size: Graphs a batch.
        bucket: Whether graphs of similar size share batches; else all batches are padded to the largest graph.
        val_fraction: Share of the training part that becomes the validation part.
        test_fraction: Share of the test part under ``"random"``.
        seed: Seed of the split and of the order of batches.
        max_nodes: Largest graph to accept; None accepts all.
        symmetrize: Take directed graphs as undirected.
        remove_self_loops: Leave self-loops out.
        node_attributes: Node attributes to keep; None keeps all.
        edge_attributes: Edge attributes to keep; None keeps all.
        num_workers: Worker processes of the loaders; a batch is one indexing, so 0 is usually fastest.
        pin_memory: Whether batches are put into pinned memory.

    Raises:
        ValueError: If an option is wrong, or graphs in memory cannot be represented; at `setup`, the same for a file.
        FileNotFoundError: At `setup`, if a file is missing.

    Example:
        >>> data = GraphDataModule([nx.gnp_random_graph(n, 0.3, seed=n) for n in range(12, 21)] * 20)
        >>> data.spec, len(data.train)
    """

    def __init__(
        self,
        source: Any,
        *,
        split: SplitRule | None = None,
        batch_size: int = 64,
        bucket: bool = True,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        seed: int = 0,
        max_nodes: int | None = None,
        symmetrize: bool = False,
        remove_self_loops: bool = False,
        node_attributes: Sequence[str] | None = None,
        edge_attributes: Sequence[str] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}.")
        if split is not None and split not in ("gdss", "spectre", "random", "given"):
            raise ValueError(f"split must be gdss, spectre, random or given, got {split!r}.")
        self.source = source
        self.split: SplitRule | None = split
        self.batch_size = batch_size
        self.bucket = bucket
        self.fractions = (val_fraction, test_fraction)
        self.seed = seed
        self.max_nodes = max_nodes
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._read: dict[str, Any] = {
            "symmetrize": symmetrize,
            "remove_self_loops": remove_self_loops,
            "node_attributes": node_attributes,
            "edge_attributes": edge_attributes,
        }
        self._graphs: GraphSet | None = None
        self._spec: GraphSpec | None = None
        self._dense: dict[str, DenseGraphs] = {}
        if not isinstance(source, str | Path):
            self.source = _IN_MEMORY
            self._remember(source=_IN_MEMORY)
            self._adopt(as_graph_set(source, **self._read))

    def setup(self, stage: str | None = None) -> None:
        """Read the graphs and build the vocabulary; tensors are padded when a loader first needs them."""
        if self._graphs is None:
            self._adopt(self._load())

    @property
    def spec(self) -> GraphSpec:
        """Vocabulary and statistics of the training part."""
        self.setup()
        assert self._spec is not None
        return self._spec

    @property
    def graphs(self) -> GraphSet:
        """All graphs with their split."""
        self.setup()
        assert self._graphs is not None
        return self._graphs

    @property
    def train(self) -> GraphSet:
        """Training part."""
        return self.graphs.part("train")

    @property
    def valid(self) -> GraphSet:
        """Validation part, may be empty."""
        return self.graphs.part("valid")

    @property
    def test(self) -> GraphSet:
        """Test part, may be empty."""
        return self.graphs.part("test")

    def dense(self, name: str) -> DenseGraphs:
        """Padded tensors of one part, built at the first call."""
        if name not in self._dense:
            self._dense[name] = DenseGraphs(self.graphs.part(name), self.spec, self.batch_size, bucket=self.bucket)
        return self._dense[name]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the training part; the order depends on the seed and the epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Batches of the validation part, always the same; an empty list without one."""
        return self._loader("valid", shuffle=False) if len(self.valid) else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test part, always the same."""
        return self._loader("test", shuffle=False)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The same as `test_dataloader`."""
        return self.test_dataloader()

    def _loader(self, name: str, shuffle: bool) -> DataLoader[Batch]:
        data = self.dense(name)
        sampler = BucketSampler(data, shuffle=shuffle, seed=self.seed, epoch=self._current_epoch)
        return ResumableLoader(
            data, batch_size=None, sampler=sampler, num_workers=self.num_workers, pin_memory=self.pin_memory
        )

    def _current_epoch(self) -> int | None:
        """Epoch of the trainer; a sampler that Lightning has wrapped for several processes is told no other way."""
        return None if self.trainer is None else self.trainer.current_epoch

    def _load(self) -> GraphSet:
        if self.source == _IN_MEMORY:
            raise ValueError("these graphs were in memory when the data module was described; pass them again.")
        if isinstance(self.source, str) and self.source in SOURCES:
            graphs = load_named(self.source)
            self.split = SOURCES[self.source].split if self.split is None else self.split
            keep = self._read["node_attributes"], self._read["edge_attributes"]
            return graphs if keep == (None, None) else as_graph_set(list(graphs), **self._read).with_split(graphs.split)
        from graphs.io import read_graphs

        return read_graphs(self.source, **self._read)

    def _adopt(self, graphs: GraphSet) -> None:
        if self.max_nodes is not None and int(graphs.sizes.max()) > self.max_nodes:
            k = int(np.argmax(graphs.sizes > self.max_nodes))
            raise ValueError(
                f"graph {k} has {graphs.sizes[k]} nodes, more than max_nodes={self.max_nodes}; leave it out or raise "
                "max_nodes."
            )
        rule: SplitRule = self.split or ("random" if graphs.split is None else "given")
        val_fraction, test_fraction = self.fractions
        graphs = graphs.with_split(split_codes(graphs, rule, val_fraction, test_fraction, self.seed))
        self._spec = GraphSpec.from_graphs(graphs.part("train"))
        self._graphs = graphs
