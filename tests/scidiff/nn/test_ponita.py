"""PONITA against its equations, written pair by pair; symmetry of the grids; calibration; checkpoints."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import gelu

from scidiff.nn.ponita import PONITA, orientation_grid
from scidiff.testing import random_rotation
from tests.scidiff.nn.cases import IN_CHANNELS, TOLERANCE, batch_of, network, sparse

F64 = torch.float64


def products(*invariants):
    """All products of up to three invariants, in order."""
    return torch.stack(
        [math.prod(chosen) for power in (1, 2, 3) for chosen in itertools.product(invariants, repeat=power)]
    )


def mlp(net, x):
    return gelu(net[2](gelu(net[0](x))))


def invariants_of(r, o):
    if o is None:
        return products(r.norm())
    along = r @ o
    if len(r) == 2:
        return products(along, -r[0] * o[1] + r[1] * o[0])
    return products(along, (r - along * o).norm())


def envelope(r, cutoff):
    u = r / cutoff if cutoff else 0
    return 1 - 28 * u**6 + 48 * u**7 - 21 * u**8 if u < 1 else 0.0


def spatial(net, pos, e, i, j, o, cutoff):
    """Basis of the pair j -> i at one orientation; loops have no edge features."""
    r = pos[j] - pos[i]
    features = e[i, j] if i != j else torch.zeros_like(e[i, j])
    return envelope(r.norm(), cutoff) * mlp(net.spatial_basis, torch.cat([invariants_of(r, o), features]))


def convolve(net, conv, f, pos, e, grid, cutoff):
    n = len(pos)
    y, z = torch.zeros_like(f), torch.zeros_like(f)
    for i, j, (k, o) in itertools.product(range(n), range(n), enumerate(grid)):
        y[i, k] += conv.spatial.weight @ spatial(net, pos, e, i, j, o, cutoff) * f[j, k]
    if grid[0] is None:
        return y + conv.bias
    for i, (k, o), (p, q) in itertools.product(range(n), enumerate(grid), enumerate(grid)):
        z[i, p] += conv.fiber.weight @ mlp(net.fiber_basis, products(o @ q)) * y[i, k] / len(grid)
    return z + conv.bias


def by_pairs(net, x, cutoff):
    pos, e, vectors = x.pos[0], x.edge_attr[0], x.v[0]
    grid = list(net.grid) if net.num_orientations else [None]
    components = [vectors.norm(dim=-1) if o is None else vectors @ o for o in grid]
    f = torch.stack([net.embedding(torch.cat([x.h[0], c], -1)) for c in components], 1)
    h, v = 0, torch.zeros(len(pos), net.out_vectors, pos.shape[1], dtype=F64)
    for layer, (block, readout) in enumerate(zip(net.blocks, net.readouts)):
        step = block.mlp[2](gelu(block.mlp[0](block.norm(convolve(net, block.conv, f, pos, e, grid, cutoff)))))
        f = f + step * block.scale
        out = readout(f)
        h = h + out[..., : net.out_channels].mean(1) / net.num_layers
        for i, (k, o) in itertools.product(range(len(pos)), enumerate(grid)):
            others = out[i, k, net.out_channels :]
            if o is not None:
                v[i] += torch.outer(others, o) / len(grid) / net.num_layers
                continue
            v[i] += others.view(net.out_vectors, -1) @ vectors[i] / net.num_layers
            for j in range(len(pos)):
                r = pos[j] - pos[i]
                kernel = net.edge_kernels[layer].weight @ spatial(net, pos, e, i, j, o, cutoff) * f[j, 0]
                v[i] += torch.outer(net.edge_readouts[layer].weight @ kernel, r / (1 + r.norm())) / net.num_layers
    return h, v


@pytest.mark.parametrize(
    ("options", "dims"),
    [({}, 3), ({"cutoff": 3.0}, 3), ({"dims": 2}, 2), ({"num_orientations": 0}, 3)],
    ids=["complete", "cutoff", "plane", "none"],
)
def test_equations(options, dims):
    options = {"num_orientations": 5, **options}
    net = network("ponita", time_channels=0, out_vectors=2, basis_channels=6, basis_hidden=7, **options)
    x = batch_of([5], dims=dims)
    edges = {k: v for k, v in sparse(x)[1].items() if k.startswith("edge")}
    with torch.no_grad():
        out = net(x.h[0], x.pos[0], v=x.v[0], **edges)
        h, v = by_pairs(net, x, options.get("cutoff"))
    torch.testing.assert_close(out.h, h, rtol=0, atol=1e-10)
    torch.testing.assert_close(out.v, v, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("count", "low", "high"), [(16, 0.315, 0.346), (20, 0.331, 0.337)])
def test_second_moments_of_the_grid(count, low, high):
    """Recorded eigenvalues; 1/3 is ideal."""
    grid = orientation_grid(count)
    torch.testing.assert_close(grid.norm(dim=1), torch.ones(count, dtype=F64))
    eigenvalues = torch.linalg.eigvalsh(grid.T @ grid / count)
    assert float(eigenvalues.min()) == pytest.approx(low, abs=1e-3)
    assert float(eigenvalues.max()) == pytest.approx(high, abs=1e-3)


@torch.no_grad()
def changed_by(net, x, turn):
    """Largest differences of scalars and of vectors, relative to the largest entries."""
    out, pos, v = x.call(net), x.pos, x.v
    x.pos, x.v = pos @ turn.T + 5, v @ turn.T
    h, w = x.call(net)
    x.pos, x.v = pos, v
    scale_h, scale_v = out[0].abs().max(), out[1].abs().max()
    return float((h - out[0]).abs().max() / scale_h), float((w - out[1] @ turn.T).abs().max() / scale_v)


def half_turn(count):
    """About the horizontal axis at half the angle of the last point."""
    angle = 0.5 * math.pi * (1 + math.sqrt(5)) * (count - 1)
    axis = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=F64)
    return 2 * torch.outer(axis, axis) - torch.eye(3, dtype=F64)


def turn_of(angle):
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=F64)


def test_symmetry_of_the_grid_is_exact():
    """Half a turn of the Fibonacci grid, turns by 2 pi / O of the circle; others are not exact."""
    grid, turn = orientation_grid(16), half_turn(16)
    torch.testing.assert_close((grid @ turn.T).flip(0), grid, rtol=0, atol=1e-12)
    net, x = network("ponita"), batch_of([6, 4])
    net.grid.copy_(grid)  # in double precision
    assert max(changed_by(net, x, turn)) < 1e-9
    assert max(changed_by(net, x, turn_about_z(1.0))) > 1e-3
    net, x = network("ponita", dims=2, num_orientations=8), batch_of([6, 4], dims=2)
    net.grid.copy_(orientation_grid(8, dims=2))
    assert max(changed_by(net, x, turn_of(6 * math.pi / 8))) < 1e-9
    assert max(changed_by(net, x, turn_of(math.pi / 8))) > 1e-5
    assert max(changed_by(net, x, torch.diag(torch.tensor([1.0, -1.0], dtype=F64)))) > 1e-3  # a mirror


def turn_about_z(angle):
    turn = torch.eye(3, dtype=F64)
    turn[:2, :2] = turn_of(angle)
    return turn


def test_error_falls_with_the_number_of_orientations():
    """Root mean square over rotations and reflections, of scalars and vectors; each doubling twice gains 2 or more."""
    x = batch_of([6, 4])
    generator = torch.Generator().manual_seed(0)
    turns = [random_rotation(generator, reflect=bool(k % 2)) for k in range(6)]
    errors = []
    for count in (8, 32, 128):
        net = network("ponita", num_orientations=count)
        changes = torch.tensor([changed_by(net, x, turn) for turn in turns])
        errors.append(changes.square().mean(0).sqrt())
    assert bool((errors[0] > 2 * errors[1]).all())
    assert bool((errors[1] > 2 * errors[2]).all())
    assert float(errors[2].max()) < 0.02


@torch.no_grad()
def test_shared_tolerance_is_twice_the_distance_to_a_fine_grid():
    coarse, fine, x = network("ponita"), network("ponita", num_orientations=160), batch_of([6, 4])
    generator, pos, v, largest = torch.Generator().manual_seed(0), x.pos, x.v, 0.0
    for k in range(10):
        turn = random_rotation(generator, reflect=bool(k % 2))
        x.pos, x.v = pos @ turn.T, v @ turn.T
        pairs = zip(x.call(coarse)[:2], x.call(fine)[:2], strict=True)
        largest = max(largest, *(float((a - b).abs().max() / b.abs().max()) for a, b in pairs))
    assert 0.5 * TOLERANCE["ponita"] < 2 * largest <= TOLERANCE["ponita"]


def test_a_lifted_vector_reads_back_as_a_third():
    """(1/O) sum_o (v . o) o = v / 3 for a grid with the second moments of the sphere."""
    grid = orientation_grid(200)
    v = torch.tensor([0.3, -1.0, 2.0], dtype=F64)
    torch.testing.assert_close(grid.T @ (grid @ v) / 200, v / 3, rtol=0, atol=2e-3)


def test_calibration_happens_once_and_is_saved():
    """Scales are ratios of standard deviations in one unscaled pass, so that convolutions keep the spread of f."""
    net, x = PONITA(IN_CHANNELS, hidden=16, num_layers=2, edge_channels=3, vector_channels=2).double(), batch_of([6, 6])

    def weights():
        return [w.detach().clone() for b in net.blocks for w in (b.conv.spatial.weight, b.conv.fiber.weight)]

    @torch.no_grad()
    def spreads():
        found, hooks = [], []
        for block in net.blocks:
            record = lambda _, args, out: found.append((args[0].std(), out.std()))  # noqa: E731
            hooks.append(block.conv.register_forward_hook(record))
        x.call(net)
        [hook.remove() for hook in hooks]
        return found

    before = weights()
    net.eval()
    raw = spreads()
    assert not bool(net.is_calibrated)
    net.train()
    x.call(net)
    after = weights()
    assert bool(net.is_calibrated)
    for layer, (std_in, std_out) in enumerate(raw):
        ratios = [(after[2 * layer + k] / before[2 * layer + k]).flatten() for k in (0, 1)]
        for ratio in ratios:
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        product = float(ratios[0][0] * ratios[1][0])
        assert product == pytest.approx(float(std_in / std_out), rel=1e-9)
    for std_in, std_out in spreads():  # blocks start with a scale of 1e-6, so that the features hardly change
        assert float(std_out / std_in) == pytest.approx(1, rel=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(weights(), after))
    again = PONITA(IN_CHANNELS, hidden=16, num_layers=2, edge_channels=3, vector_channels=2).double().train()
    again.load_state_dict(net.state_dict())
    x.call(again)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))


def test_a_batch_without_spread_leaves_the_calibration_to_the_next():
    """Features that are all zero have no scale to keep."""
    options = {"hidden": 8, "num_layers": 2, "edge_channels": 3, "vector_channels": 2}
    net, x = PONITA(IN_CHANNELS, **options).double().train(), batch_of([5, 4])
    fresh = PONITA(IN_CHANNELS, **options).double().train()
    fresh.load_state_dict(net.state_dict())
    h, v = x.h, x.v
    x.h, x.v = torch.zeros_like(h), torch.zeros_like(v)
    x.call(net)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values()))
    x.h, x.v = h, v
    x.call(net)
    x.call(fresh)
    assert bool(net.is_calibrated)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values()))


def test_the_grid_travels_in_the_checkpoint():
    net, x = network("ponita"), batch_of([4])
    turned = network("ponita")
    turned.grid.copy_(turned.grid @ random_rotation(torch.Generator().manual_seed(1)))
    assert (x.call(net)[0] - x.call(turned)[0]).abs().max() > 1e-6
    turned.load_state_dict(net.state_dict())
    assert torch.equal(x.call(net)[0], x.call(turned)[0])


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="num_orientations >= 0"):
        PONITA(3, num_orientations=-1)
    with pytest.raises(ValueError, match="2 or 3"):
        PONITA(3, dims=4)
    with pytest.raises(ValueError, match="works in 2 dimensions"):
        PONITA(3, dims=2)(torch.zeros(2, 3), torch.zeros(2, 3))
