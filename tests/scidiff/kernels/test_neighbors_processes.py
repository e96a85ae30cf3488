"""Lists in forked workers, without numba, and on any number of threads."""

import subprocess
import sys
import textwrap
from pathlib import Path

import torch

from scidiff.kernels import knn_graph, radius_graph
from tests.scidiff.kernels.systems import edges

ROOT = Path(__file__).parents[3]


def run(code, timeout=120):
    """A fresh process, so that the threads of this one play no part; hanging is a failure."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_workers_of_a_data_loader_build_lists_after_a_parallel_body_ran():
    """A parallel region in a forked child would kill it or hang; children run the serial bodies."""
    out = run(
        """
        import torch
        from torch.utils.data import DataLoader, Dataset
        from scidiff.kernels import radius_graph
        from scidiff.kernels.cpu_numba import _threads

        torch.set_num_threads(2)
        pos = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) * 12
        ran, plain = [], _threads.in_parallel
        _threads.in_parallel = lambda *args: (ran.append(1), plain(*args))[1]
        here = radius_graph(pos, 2.0, backend="numba")
        assert ran and _threads.thread_count() == 2

        class Lists(Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                count = len(ran)
                g = radius_graph(pos, 2.0, backend="numba")
                assert len(ran) == count and _threads.thread_count() == 1
                return torch.equal(g.source, here.source) and torch.equal(g.t_edge, here.t_edge)

        loader = DataLoader(Lists(), num_workers=2, multiprocessing_context="fork", timeout=60)
        print([bool(x) for x in loader])
        """
    )
    assert out.strip() == "[True, True, True, True]"


def test_without_numba_lists_are_the_same(tmp_path):
    torch.save(_lists(), tmp_path / "lists.pt")
    run(
        f"""
        import sys
        sys.modules["numba"] = None
        import torch
        from tests.scidiff.kernels.test_neighbors_processes import _lists
        from scidiff.kernels import order, radius_graph, report

        wanted = torch.load({str(tmp_path / "lists.pt")!r})
        for ours, theirs in zip(_lists(), wanted):
            assert ours.shape == theirs.shape and torch.equal(ours, theirs)
        assert order.numba_missing()
        assert {{entry["backend"] for entry in report() if "graph" in entry["op"]}} <= {{"scipy", "torch"}}
        try:
            radius_graph(torch.zeros(2, 3), 1.0, backend="numba")
        except ValueError as error:
            assert "cannot run radius_graph" in str(error)
        else:
            raise AssertionError("numba is blocked")
        """
    )


def test_lists_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        serial = _lists()
        torch.set_num_threads(2)
        parallel = _lists()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(serial, parallel))


def test_importing_the_package_imports_no_numba():
    assert run("import sys, scidiff.kernels; print('numba' in sys.modules)").strip() == "False"


def test_shuffled_edges_and_permuted_nodes_give_the_same_graph():
    generator = torch.Generator().manual_seed(0)
    pos = torch.rand(300, 3, generator=generator) * 8
    shuffle = torch.randperm(300, generator=generator)
    found = edges(radius_graph(pos[shuffle], 2.0))
    assert sorted((int(shuffle[i]), int(shuffle[j])) for i, j in found) == edges(radius_graph(pos, 2.0))


def _lists():
    """Edges, images and transposes of small graphs, a large one, crystals and nearest neighbours."""
    generator = torch.Generator().manual_seed(0)
    pos = torch.rand(3000, 3, generator=generator, dtype=torch.float64) * 12
    cell = torch.eye(3).double() * 12 + torch.rand(3, 3, generator=generator)
    small = torch.arange(101) * 30
    graphs = [
        radius_graph(pos, 2.0, batch_ptr=small),
        radius_graph(pos, 2.0),
        radius_graph(pos, 2.0, cell=cell, pbc=torch.tensor([True, True, False])),
        knn_graph(pos, 9),
        knn_graph(pos, 9, batch_ptr=small),
    ]
    tensors = [tensor for g in graphs for tensor in (g.source, g.ptr, g.t_ptr, g.t_edge)]
    return [*tensors, graphs[2].shifts]
