"""The recorded path: estimates of known networks, the sample at the end, order and padding of batches."""

import numpy as np
import pytest
import torch

from graphs.data import from_networkx
from graphs.path import PathRecorder
from graphs.processes import encode_gdss, encode_state, gdss_process, graph_process
from tests.graphs.test_diffusion import typed_graphs
from tests.graphs.test_generator import generator_of


@pytest.mark.parametrize("formulation", ["discrete", "continuous"])
def test_frames_are_the_estimates_and_then_the_samples(formulation, monkeypatch):
    """A network with constant outputs has known probabilities; edge class 2 is the likeliest of three, node class 1."""
    generator = generator_of(typed_graphs(), formulation=formulation)
    edge, node = torch.tensor([0.5, 0.125, 0.375]), torch.tensor([0.25, 0.75])
    assert (generator.spec.num_edge_classes, generator.spec.num_node_classes) == (3, 2)

    def constant(state, t, cond):
        value = {"adj": edge.expand(*cond["node_mask"].shape, cond["node_mask"].shape[1], 3)}
        value["x"] = node.expand(*cond["node_mask"].shape, 2)
        scaled = {k: v.log() if formulation == "discrete" else 2 * v - 1 for k, v in value.items()}
        return {**scaled, "features": state["features"], "edge_features": state["edge_features"]}

    monkeypatch.setattr(generator.denoiser.network, "forward", constant)
    new = generator.sample(5, steps=3, seed=1, num_nodes=[4, 2, 5, 3, 4], batch_size=2, path=True)
    path = new.path
    assert len(path) == 4
    assert path.probability.shape == (4, 5, 5, 5)
    assert path.num_nodes.tolist() == [4, 2, 5, 3, 4]
    for k, n in enumerate([4, 2, 5, 3, 4]):
        upper = np.triu_indices(n, 1)
        assert path.probability[:3, k][:, *upper] == pytest.approx(0.5, abs=1e-6)
        assert (path.edge_class[:3, k][:, *upper] == 2).all()
        assert (path.node_class[:3, k, :n] == 1).all()
        rows = slice(*new.graph_set.edge_offsets[k : k + 2])
        drawn = np.zeros((5, 5))
        drawn[*new.graph_set.edges[rows].T] = new.graph_set.classes()[rows]
        shown = np.where(path.probability[-1, k] > 0.5, path.edge_class[-1, k], 0)
        np.testing.assert_array_equal(shown[upper], drawn[upper])
        nodes = slice(*new.graph_set.offsets[k : k + 2])
        np.testing.assert_array_equal(path.node_class[-1, k, :n], new.graph_set.node_label[nodes])


def test_every_state_of_the_same_graph_is_the_same_frame():
    spec = generator_of(typed_graphs()).spec
    batch = {name: torch.as_tensor(value) for name, value in spec.pad(from_networkx(typed_graphs())).items()}
    batch |= {name: batch[name].long() for name in ("adj", "x")}
    batch["node_mask"] = torch.arange(batch["x"].shape[1]) < batch["num_nodes"][:, None]
    processes = [graph_process(spec), graph_process(spec, "continuous"), gdss_process()]
    for process in processes:
        is_gdss = process is processes[-1]
        state = encode_gdss(batch, 2) if is_gdss else encode_state(batch, spec, process)
        recorder = PathRecorder(process, 3, is_gdss)
        recorder.add(state)
        path = recorder.path(batch["num_nodes"].numpy(), spec.attributes)
        there = batch["adj"].numpy() > 0
        np.testing.assert_array_equal(path.probability[0] * there, there)
        np.testing.assert_array_equal(path.edge_class[0][there], batch["adj"].numpy()[there])
        real = batch["node_mask"].numpy()
        np.testing.assert_array_equal(path.node_class[0][real], batch["x"].numpy()[real])
