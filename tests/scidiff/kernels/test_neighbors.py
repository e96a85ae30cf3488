"""Neighbour lists against brute force, vesin and matscipy, on every body; edge cases with their results."""

import numpy as np
import pytest
import torch

from scidiff.kernels import edge_geometry, knn_graph, radius_graph
from tests.scidiff.kernels.systems import BODIES, brute_force, edges, random_batch, random_crystal


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("loop", [False, True], ids=["open", "loop"])
@pytest.mark.parametrize("body", BODIES)
def test_batches_equal_brute_force(generator, body, loop):
    pos, batch = random_batch(generator, [7, 0, 1, 18, 2])
    g = radius_graph(pos, 4.0, batch, loop=loop, backend=body)
    assert edges(g) == brute_force(pos, 4.0, batch, loop=loop)
    assert 0 < g.num_edges < 18 * 18 + 7 * 7
    assert (g.batch_ptr.tolist(), g.max_nodes, g.symmetric) == ([0, 7, 7, 8, 26, 28], 18, True)
    g.validate()


@pytest.mark.parametrize("body", BODIES)
def test_each_graph_has_its_cutoff(generator, body):
    pos, batch = random_batch(generator, [9, 9, 9])
    cutoff = torch.tensor([2.0, 5.0, 9.0])
    found = edges(radius_graph(pos, cutoff, batch, backend=body))
    expected = [e for c in range(3) for e in brute_force(pos, float(cutoff[c]), batch) if int(batch[e[0]]) == c]
    assert found == expected


@pytest.mark.parametrize("body", BODIES)
def test_large_graphs_equal_brute_force(generator, body):
    """Enough points for cells; a flat cloud, so that the number of cells differs by axis."""
    pos = torch.rand(1200, 3, generator=generator, dtype=torch.float64) * torch.tensor([30.0, 12.0, 2.0])
    pos = torch.cat([pos, torch.rand(600, 3, generator=generator).double() * 9])
    batch = torch.tensor([0] * 1200 + [1] * 600)
    g = radius_graph(pos, 2.0, batch, backend=body)
    d2 = (pos[None] - pos[:, None]).square().sum(-1)
    close = (d2 <= 4.0) & (batch[None] == batch[:, None]) & ~torch.eye(1800, dtype=torch.bool)
    assert torch.equal(g.edge_index.flip(0).T, close.nonzero())


def test_periodic_systems_equal_vesin_and_matscipy():
    """200 random cells, skewed, partly periodic, with points outside and cutoffs above half the cell."""
    from matscipy.neighbours import neighbour_list
    from vesin import NeighborList as Vesin

    rng = np.random.default_rng(0)
    largest = 0
    for case in range(200):
        pos, cell, pbc, cutoff = random_crystal(rng, int(rng.integers(1, 12)))
        theirs = neighbour_list("ijS", cutoff=cutoff, positions=pos, cell=cell, pbc=pbc)
        expected = sorted((i, j, *s) for i, j, s in zip(*(array.tolist() for array in theirs)))
        i, j, s = Vesin(cutoff=cutoff, full_list=True).compute(points=pos, box=cell, periodic=pbc, quantities="ijS")
        vesin = sorted((a, b, *c) for a, b, c in zip(i.tolist(), j.tolist(), s.tolist()))
        args = (torch.tensor(pos), cutoff)
        kwargs = {"cell": torch.tensor(cell), "pbc": torch.tensor(pbc)}
        found = [edges(radius_graph(*args, **kwargs, backend=body)) for body in BODIES]
        assert found[0] == expected, case
        assert found[0] == vesin, case
        assert found[1] == found[0], case
        assert found[2] == found[0], case
        largest = max(largest, int(np.abs([e[2:] for e in expected]).max(initial=0)))
    assert largest > 3


@pytest.mark.parametrize("body", BODIES)
def test_batches_of_crystals(body):
    """Each graph has its cell, its axes and its cutoff; enough points in one for several cells along each axis."""
    rng = np.random.default_rng(1)
    systems = [random_crystal(rng, n) for n in (5, 0, 9)]
    cell = np.eye(3) * 14 + rng.uniform(-2, 2, (3, 3))
    systems.append((rng.uniform(-1, 2, (500, 3)) @ cell, cell, np.array([True, False, True]), 3.0))
    batch = torch.tensor([0] * 5 + [2] * 9 + [3] * 500)
    g = radius_graph(
        torch.tensor(np.concatenate([s[0] for s in systems])),
        torch.tensor([s[3] for s in systems]),
        batch,
        cell=torch.tensor(np.stack([s[1] for s in systems])),
        pbc=torch.tensor(np.stack([s[2] for s in systems])),
        backend=body,
    )
    expected, first = [], 0
    for pos, cell, pbc, cutoff in systems:
        expected += [(i + first, j + first, *s) for i, j, *s in brute_force(pos, cutoff, cell=cell, pbc=pbc)]
        first += len(pos)
    assert edges(g) == expected
    g.validate()
    reverse = {(j, i, -a, -b, -c) for i, j, a, b, c in edges(g)}
    assert reverse == set(edges(g))
    assert g.t_target.tolist() == g.source.tolist()


@pytest.mark.parametrize("body", BODIES)
def test_unsorted_batches_keep_the_numbers_of_the_nodes(generator, body):
    pos, batch = random_batch(generator, [7, 12, 5])
    shuffle = torch.randperm(24, generator=generator)
    g = radius_graph(pos[shuffle], 5.0, batch[shuffle], backend=body)
    assert edges(g) == brute_force(pos[shuffle], 5.0, batch[shuffle])
    assert torch.equal(g.batch, batch[shuffle])
    assert g.num_graphs == 3
    cells = torch.eye(3).double() * torch.tensor([3.0, 4.0, 5.0])[:, None, None]
    g = radius_graph(pos[shuffle], 3.0, batch[shuffle], cell=cells, backend=body)
    ordered = radius_graph(pos, 3.0, batch, cell=cells, backend=body)
    back = sorted((int(shuffle[i]), int(shuffle[j]), *s) for i, j, *s in edges(g))
    assert back == edges(ordered)
    assert float(edge_geometry(pos[shuffle], g, cells)[1].max()) <= 3.0 + 1e-12


@pytest.mark.parametrize("body", BODIES)
def test_the_cutoff_is_inclusive(body):
    """Lattice points at exactly representable distances, open and periodic (also half a cell, and the whole cell)."""
    line = torch.tensor([[0.0, 0, 0], [5, 0, 0], [10, 0, 0], [10, 3, 4]]).double()
    assert edges(radius_graph(line, 5.0, backend=body)) == [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]
    grid = torch.cartesian_prod(*[torch.arange(4.0)] * 3).double() * 2.5 - 1e-17
    for cutoff, degree in ((2.5, 6), (5.0, 32), (10.0, 256)):
        g = radius_graph(grid, cutoff, cell=torch.eye(3) * 10, backend=body)
        assert g.degree.unique().tolist() == [degree], cutoff


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("nodes", [0, 1, 3])
def test_small_and_empty_graphs(body, nodes):
    pos = torch.zeros(nodes, 3)
    g = radius_graph(pos, 1.0, backend=body).validate()
    assert (g.num_nodes, g.num_edges) == (nodes, nodes * (nodes - 1))  # coincident points are neighbours
    empty = torch.zeros(1, dtype=torch.int64)
    if nodes == 0:
        g = radius_graph(pos, 1.0, batch_ptr=empty, backend=body)
        assert (g.num_graphs, g.num_edges, g.ptr.tolist()) == (0, 0, [0])
        g = radius_graph(pos, 1.0, batch_ptr=empty, cell=torch.zeros(0, 3, 3), backend=body)
        assert (g.num_graphs, g.num_edges, g.shifts.shape) == (0, 0, (0, 3))
    assert knn_graph(pos, 2, backend=body).num_edges == nodes * (nodes - 1)


@pytest.mark.parametrize("body", BODIES)
def test_a_single_atom_sees_its_images(body):
    g = radius_graph(torch.zeros(1, 3), 1.0, cell=torch.eye(3), backend=body)
    assert edges(g) == [(0, 0, *s) for s in [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0)]]
    with_loop = radius_graph(torch.zeros(1, 3), 1.0, cell=torch.eye(3), loop=True, backend=body)
    assert edges(with_loop)[3] == (0, 0, 0, 0, 0)
    assert with_loop.num_edges == 7


@pytest.mark.parametrize("body", BODIES)
def test_huge_coordinates_and_collinear_points(body):
    """Cells of a wide graph are few, whatever its extent; duplicates and points on a line are ordinary."""
    line = torch.zeros(1800, 3, dtype=torch.float64)
    line[:, 0] = torch.arange(1800) * 1.0
    line[450:, 0] += 1e8
    line[-1, 0] = 1e15
    g = radius_graph(line, 1.0, backend=body)
    chain = [(i, j) for i in range(1799) for j in (i - 1, i + 1) if 0 <= j < 1799 and (i < 450) == (j < 450)]
    assert edges(g) == chain


def test_high_degree_has_no_limit():
    """A hub of degree 5000: nothing is truncated silently."""
    pos = torch.zeros(5001, 3)
    angle = torch.arange(5000) / 5000 * 6.28
    pos[1:] = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    g = radius_graph(pos, 1.001)
    assert int(g.degree[0]) == 5000


@pytest.mark.parametrize("body", BODIES)
def test_overflow_is_an_error_or_keeps_the_nearest(generator, body):
    pos = torch.randint(0, 4, (40, 3), generator=generator).double()  # many ties
    full = radius_graph(pos, 2.0, backend=body)
    most = int(full.degree.max())
    with pytest.raises(ValueError, match=f"max_neighbors must be at least {most} for these points, got 3"):
        radius_graph(pos, 2.0, max_neighbors=3, backend=body)
    assert radius_graph(pos, 2.0, max_neighbors=most, backend=body).symmetric
    g = radius_graph(pos, 2.0, max_neighbors=3, on_overflow="nearest", backend=body)
    expected = []
    for i in range(40):
        ranked = sorted((float((pos[j] - pos[i]).square().sum()), j) for a, j in edges(full) if a == i)
        expected += sorted((i, j) for _, j in ranked[:3])
    assert edges(g) == expected
    assert not g.symmetric
    periodic = radius_graph(pos, 2.0, cell=torch.eye(3) * 4, max_neighbors=3, on_overflow="nearest", backend=body)
    _, dist = edge_geometry(pos, periodic, torch.eye(3) * 4)
    everything = radius_graph(pos, 2.0, cell=torch.eye(3) * 4, backend=body)
    _, all_dist = edge_geometry(pos, everything, torch.eye(3) * 4)
    for i in range(40):
        nearest = all_dist[everything.target == i].sort().values[:3]
        assert torch.equal(dist[periodic.target == i].sort().values, nearest)


@pytest.mark.parametrize("body", [*BODIES, "auto"])
def test_lists_of_fixed_size(generator, body):
    pos, batch = random_batch(generator, [7, 1, 12])
    full = radius_graph(pos, 4.0, batch)
    size = full.num_edges
    g = radius_graph(pos, 4.0, batch, max_edges=size + 9, backend=body)
    assert (g.num_edges, int(g.num_found), bool(g.overflow)) == (size + 9, size, False)
    assert int(g.edge_mask.sum()) == size
    assert torch.equal(g.edge_index[:, :size], full.edge_index)
    assert torch.equal(g.ptr, full.ptr)
    assert (g.edge_index[:, size:] == 19).all()
    g.validate()
    g = radius_graph(pos, 4.0, batch, max_edges=size - 5, backend=body)
    assert (g.num_edges, int(g.num_found), bool(g.overflow)) == (size - 5, size, True)
    assert torch.equal(g.edge_index, full.edge_index[:, : size - 5])
    with pytest.raises(ValueError, match=f"max_edges must be at least {size}"):
        g.validate()
    crystal = radius_graph(pos, 4.0, batch, cell=torch.eye(3) * 6, max_edges=5000, backend=body)
    assert crystal.shifts.shape == (5000, 3)
    _, dist = edge_geometry(pos, crystal, torch.eye(3) * 6)
    assert float(dist.detach()[~crystal.edge_mask].abs().sum()) == 0


@pytest.mark.parametrize("body", BODIES)
def test_lists_of_fixed_size_know_their_graphs(generator, body):
    pos, batch = random_batch(generator, [7, 5, 12])
    g = radius_graph(pos, torch.tensor([3.0, 9.0, 4.0]), batch, max_edges=400, backend=body)
    assert g.num_graphs == 3
    assert torch.equal(g.batch, batch)
    by_pointers = radius_graph(
        pos, torch.tensor([3.0, 9.0, 4.0]), batch_ptr=torch.tensor([0, 7, 12, 24]), max_edges=400, backend=body
    )
    assert torch.equal(by_pointers.batch, batch)
    assert torch.equal(by_pointers.edge_index, g.edge_index)


@pytest.mark.parametrize(
    "change",
    [
        {"max_nodes": 11},
        {"batch": torch.tensor([1] * 12 + [0] * 7)},
        {"pos": torch.full((19, 3), torch.nan)},
        {"pos": torch.full((19, 3), torch.inf)},
        {"cutoff": torch.tensor([4.0, -1.0])},
        {"cutoff": torch.tensor(torch.nan)},
        {"batch": None, "batch_ptr": torch.tensor([0, 7, 18])},
        {"batch": None, "batch_ptr": torch.tensor([1, 7, 19])},
    ],
    ids=["max_nodes", "unsorted", "nan", "inf", "cutoff", "nan-cutoff", "short", "late"],
)
def test_lists_of_fixed_size_say_that_they_are_incomplete(generator, change):
    """Without synchronisation nothing is raised at once, and nothing is silently left out."""
    pos, batch = random_batch(generator, [7, 12])
    arguments = {"pos": pos, "cutoff": 4.0, "batch": batch, "max_edges": 400, "max_nodes": 12, "backend": "torch"}
    complete = radius_graph(**arguments)
    assert not complete.overflow
    assert not complete.incomplete
    g = radius_graph(**(arguments | change))
    assert g.overflow
    assert g.to("cpu", index_dtype=torch.int32).overflow
    with pytest.raises(ValueError, match="is incomplete"):
        g.validate()


def test_lists_of_fixed_size_need_a_positive_cutoff(generator):
    for cutoff in (-1.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match="cutoff must be above 0"):
            radius_graph(torch.zeros(4, 3), cutoff, max_edges=4, backend="torch")


def test_fixed_lists_compile_to_one_graph(generator):
    pos, batch = random_batch(generator, [7, 12])

    def degrees(pos):
        g = radius_graph(pos, 4.0, batch, max_edges=400, max_nodes=12, backend="torch")
        return torch.zeros(19, dtype=torch.int64).index_add(0, g.target, g.edge_mask.long())

    compiled = torch.compile(degrees, fullgraph=True, backend="eager")
    assert torch.equal(compiled(pos), radius_graph(pos, 4.0, batch).degree)


@pytest.mark.parametrize("body", BODIES)
def test_lists_do_not_depend_on_the_dtype_of_equal_numbers(generator, body):
    """float32 coordinates are widened, not rounded further."""
    pos = torch.rand(60, 3, generator=generator) * 6
    assert edges(radius_graph(pos, 2.5, backend=body)) == edges(radius_graph(pos.double(), 2.5, backend=body))


def test_needs_rebuild_follows_the_farthest_node(generator):
    pos, _ = random_batch(generator, [10])
    g = radius_graph(pos, 3.0 + 1.0)
    moved = pos.clone()
    moved[3, 0] += 0.499
    assert not g.needs_rebuild(moved, 1.0)
    moved[3, 0] += 0.002
    assert g.needs_rebuild(moved, 1.0)
    moved[3, 0] = torch.nan
    assert g.needs_rebuild(moved, 1.0)
    with pytest.raises(ValueError, match="number of nodes"):
        g.needs_rebuild(pos[1:], 1.0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pos": torch.zeros(4, 2)}, r"pos must be a floating point tensor \(N, 3\)"),
        ({"pos": torch.tensor([[0.0, 0, 0]] * 3 + [[0, torch.nan, 0]])}, "at node 3 of graph 1"),
        ({"pos": torch.tensor([[0.0, 0, 0]] * 3 + [[0, torch.inf, 0]])}, "pos must be finite"),
        ({"cutoff": 0.0}, "cutoff must be above 0, got 0.0"),
        ({"cutoff": torch.tensor([1.0, -2.0])}, "got -2.0"),
        ({"cutoff": torch.ones(1)}, r"a number or one a graph \(2,\), got shape \(1,\)"),
        ({"cutoff": float("nan")}, "cutoff must be above 0"),
        ({"cutoff": torch.inf, "cell": torch.eye(3)}, "cutoff must be finite"),
        ({"cell": torch.ones(3, 3)}, "linearly independent"),
        ({"cell": torch.eye(4)}, "cell must have shape"),
        ({"pbc": torch.tensor([True, False, False])}, "pbc needs"),
        ({"batch": torch.tensor([0, 0, 1])}, "one entry a node"),
        ({"batch": torch.tensor([0, 0, -1, 1])}, "at least 0, got -1"),
        ({"max_neighbors": 0}, "at least 1"),
        ({"on_overflow": "truncate"}, "on_overflow"),
        ({"backend": "cuda"}, "backend must be one of"),
    ],
)
def test_bad_input_is_refused(change, text):
    arguments = {"pos": torch.zeros(4, 3), "cutoff": 1.0, "batch": torch.tensor([0, 0, 1, 1])} | change
    with pytest.raises(ValueError, match=text):
        radius_graph(**arguments)


def test_bad_pointers_are_refused():
    with pytest.raises(ValueError, match="end at the number of nodes, 4, got 3"):
        radius_graph(torch.zeros(4, 3), 1.0, batch_ptr=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="not decrease"):
        radius_graph(torch.zeros(4, 3), 1.0, batch_ptr=torch.tensor([0, 5, 4]))
    with pytest.raises(ValueError, match="k must be at least 1"):
        knn_graph(torch.zeros(4, 3), 0)


@pytest.mark.parametrize(
    "search", [lambda pos: radius_graph(pos, 1.5), lambda pos: knn_graph(pos, 3)], ids=["radius", "knn"]
)
def test_search_inside_a_transform(search):
    """Under torch.func the torch body runs, and finds the same edges."""
    pos = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []

    def fn(pos):
        g = search(pos)
        found.append(g.edge_index.tolist())
        return edge_geometry(pos, g)[1].square().sum()

    _, slope = torch.func.jvp(fn, (pos,), (pos,))
    assert found[0] == search(pos).edge_index.tolist()
    assert slope.item() == pytest.approx(2 * fn(pos).item())  # scaling a sum of squares
    assert torch.func.grad(fn)(pos).shape == pos.shape
