"""Spaces: orthogonal projections, unit variances, dimensions; noise sources: seeds, padding, recorded draws."""

import math

import pytest
import torch
from scipy import stats

from scidiff import VPSDE, Compose, Free, GaussianNoise, Masked, NoiseSource, Process, Symmetric, ZeroMean
from scidiff.noise import Space
from scidiff.process import Component

F64 = torch.float64


def node_mask(*counts, size=5):
    return torch.arange(size) < torch.tensor(counts)[:, None]


POINTS = (3, 5, 2)
PAIRS = (3, 5, 5)
COND = {"node_mask": node_mask(5, 4, 2), "live": node_mask(5, 3, 4), "pairs": torch.ones(3, 5, 5, dtype=torch.bool)}
COND["pairs"][:, 0, 1] = COND["pairs"][:, 1, 0] = False
SPACES = [
    (Free(), POINTS, [10, 8, 4]),
    (ZeroMean(), POINTS, [8, 6, 2]),
    (Masked(), POINTS, [10, 6, 8]),
    (Masked(invert=True), POINTS, [0, 4, 2]),
    (Symmetric(), PAIRS, [10, 6, 1]),
    (Compose([Masked(), ZeroMean()]), POINTS, [8, 4, 2]),
    (Compose([Masked("pairs"), Symmetric()]), PAIRS, [9, 5, 0]),
]
IDS = [repr(space) for space, _, _ in SPACES]


def projector(space: Space, shape, sample, cond=COND):
    """Matrix of ``project`` for one sample of the batch."""
    dims = math.prod(shape[1:])
    basis = torch.eye(dims, dtype=F64).reshape(dims, *shape[1:])
    one = {k: v[sample : sample + 1].expand(dims, *v.shape[1:]) for k, v in cond.items()}
    return space.project(basis, one).reshape(dims, dims), one, basis


@pytest.mark.parametrize(("space", "shape", "dims"), SPACES, ids=IDS)
def test_projection_is_orthogonal_and_has_the_stated_rank(space, shape, dims):
    """A matrix with P^2 = P = P^T, whose trace is the dimension of the space."""
    for sample, count in enumerate(dims):
        matrix, _, _ = projector(space, shape, sample)
        torch.testing.assert_close(matrix @ matrix, matrix, rtol=0, atol=1e-14)
        torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-14)
        assert float(matrix.trace()) == pytest.approx(count, abs=1e-12)
    assert space.dims(torch.zeros(shape, dtype=F64), COND).tolist() == dims


@pytest.mark.parametrize(("space", "shape", "dims"), SPACES, ids=IDS)
def test_noise_lies_in_the_space_with_unit_variance(space, shape, dims):
    """The covariance of arranged noise is the projector; for pairs twice it, so that an entry has variance 1."""
    for sample, _ in enumerate(dims):
        matrix, one, basis = projector(space, shape, sample)
        live = space.live(basis, one)
        drawn = basis if live is None else torch.where(live, basis, 0)
        noise = space.arrange(drawn, one).reshape(len(basis), -1)
        is_pairs = any(isinstance(s, Symmetric) for s in (space, *getattr(space, "spaces", ())))
        torch.testing.assert_close(noise.T @ noise, (2 if is_pairs else 1) * matrix, rtol=0, atol=1e-14)


def test_zero_mean_covariance():
    """I - 1 1^T/n by Monte Carlo through the source: 4 standard errors of a covariance of unit normals."""
    n, count = 4, 20_000
    source = NoiseSource(0, count)
    noise = Process(VPSDE(), space=ZeroMean()).noise({"": torch.zeros(count, n, 1, dtype=F64)}, source)[""][..., 0]
    wanted = torch.eye(n, dtype=F64) - 1 / n
    error = (noise.T @ noise / count - wanted).abs().max()
    assert float(error) < 4 * (2 / count) ** 0.5


def test_symmetric_noise():
    """Unit variance of a pair (an average of two draws would have 1/2), zero diagonal, mirrored exactly."""
    count = 4_000
    like = torch.zeros(count, 6, 6)
    noise = Process(VPSDE(), space=Symmetric()).noise({"": like}, NoiseSource(1, count))[""]
    assert torch.equal(noise, noise.transpose(1, 2))
    assert not bool(noise.diagonal(dim1=1, dim2=2).any())
    upper = noise[:, *torch.triu_indices(6, 6, 1)]
    assert float(upper.var()) == pytest.approx(1, abs=4 * (2 / upper.numel()) ** 0.5)
    assert stats.kstest(upper.flatten().numpy(), "norm").pvalue > 1e-3


def test_trajectory_mean_over_nodes_and_frames():
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 2] = False
    x = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    space, cond = ZeroMean(axes=(1, 2)), {"node_mask": mask}
    y = space.project(x, cond)
    torch.testing.assert_close(y.sum((1, 2)), torch.zeros(2, 2, dtype=F64), rtol=0, atol=1e-13)
    assert not bool(y[1, 2].any())
    assert space.dims(x, cond).tolist() == [22.0, 14.0]
    per_frame = ZeroMean(axes=(1,))
    assert per_frame.dims(x, cond).tolist() == [16.0, 8.0]
    frames = {"node_mask": torch.tensor([[[True, False]] * 3])}  # a frame without nodes has no mean to remove
    assert per_frame.dims(x[:1, :, :2], frames).tolist() == [4.0]


def test_log_density_counts_live_numbers_once():
    """Against scipy on the independent coordinates of each space."""
    sigma = 0.7
    generator = torch.Generator().manual_seed(0)
    x = Symmetric().project(torch.randn(PAIRS, generator=generator, dtype=F64), COND)
    value = Component(VPSDE(), space=Symmetric()).log_prob(x, sigma, COND)
    for i, n in enumerate((5, 4, 2)):
        pairs = x[i, :n, :n][*torch.triu_indices(n, n, 1)].numpy()
        assert float(value[i]) == pytest.approx(stats.norm(0, sigma).logpdf(pairs).sum(), rel=1e-12)
    y = ZeroMean().project(torch.randn(POINTS, generator=generator, dtype=F64), COND)
    value = Component(VPSDE(), space=ZeroMean()).log_prob(y, sigma, COND)
    for i, n in enumerate((5, 4, 2)):
        basis = torch.linalg.svd(torch.eye(n, dtype=F64) - 1 / n)[0][:, : n - 1]
        coordinates = (basis.T @ y[i, :n]).numpy()
        assert float(value[i]) == pytest.approx(stats.norm(0, sigma).logpdf(coordinates).sum(), rel=1e-12)
    flat = torch.tensor([0.3, -2.0], dtype=F64)  # states without further axes
    torch.testing.assert_close(GaussianNoise().log_prob(flat, 1.0), torch.from_numpy(stats.norm().logpdf(flat)))


@pytest.mark.parametrize(
    ("space", "shape", "padded"),
    [(ZeroMean(), (4, 3), (9, 3)), (Symmetric(), (4, 4), (9, 9)), (Free(), (4, 3), (9, 3))],
    ids=["zero mean", "symmetric", "free"],
)
def test_padding_and_batch_do_not_change_noise(space, shape, padded):
    """Sample (3, i) has the same noise alone, in a batch of 7, and padded from 4 to 9 nodes."""
    process = Process(VPSDE(), space=space)
    small = process.noise({"": torch.zeros(7, *shape)}, NoiseSource(3, 7), {"node_mask": node_mask(*[4] * 7, size=4)})[
        ""
    ]
    large = process.noise({"": torch.zeros(7, *padded)}, NoiseSource(3, 7), {"node_mask": node_mask(*[4] * 7, size=9)})[
        ""
    ]
    inside = (slice(None), *(slice(0, 4) if n == 9 else slice(None) for n in padded))
    # the mean is a sum over more zeros: same numbers, another order of summation
    torch.testing.assert_close(large[inside], small, rtol=0, atol=1e-6 if isinstance(space, ZeroMean) else 0)
    alone = process.noise({"": torch.zeros(1, *shape)}, NoiseSource([(3, 5)], 1))[""]
    assert torch.equal(alone[0], process.noise({"": torch.zeros(7, *shape)}, NoiseSource(3, 7))[""][5])


def test_compose_refuses_points_with_pairs():
    with pytest.raises(ValueError, match="ZeroMean and Symmetric"):
        Compose([ZeroMean(), Symmetric()])


def test_uniform_numbers_stay_below_one_in_any_dtype():
    """A float32 that rounds up to 1 would select a class beyond the last."""
    source = NoiseSource(0, 1)
    source_values = source._place(lambda *_: torch.tensor([[1 - 2.0**-33]], dtype=F64), torch.zeros(1, 1), "", None)
    assert float(source_values) == 1.0  # what rounding does to other numbers
    u = NoiseSource(0, 2_000).uniform(torch.zeros(2_000, 500, dtype=torch.float16))
    assert float(u.max()) < 1


def test_recorded_noise_runs_out_with_a_sentence():
    source = NoiseSource(0, 2, recorded=[torch.zeros(2, 3)])
    assert torch.equal(source.replay(), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="has 1 draws"):
        source.replay()
