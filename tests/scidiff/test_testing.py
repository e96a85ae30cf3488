"""The checks themselves: they pass what is right and fail what is wrong."""

import pytest
import torch

from scidiff.testing import (
    assert_equivariant,
    assert_permutation_equivariant,
    convergence_order,
    random_rotation,
    transform_noise,
)

F64 = torch.float64


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def points(generator, dtype=F64):
    return torch.randn(2, 5, 3, generator=generator, dtype=dtype)


def distances(x):
    return torch.linalg.norm(x[:, :, None] - x[:, None] + 1e-12, dim=-1)


def test_rotations_are_orthogonal_and_haar(generator):
    """Trace of a Haar rotation has mean 0 and variance 1 in three dimensions: 4 standard errors over 4,000 draws."""
    turns = torch.stack([random_rotation(generator) for _ in range(4_000)])
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3, dtype=F64).expand_as(turns), rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(4_000, dtype=F64))
    traces = turns.diagonal(dim1=1, dim2=2).sum(1)
    assert float(traces.mean()) == pytest.approx(0, abs=4 / 4_000**0.5)
    assert float(traces.var()) == pytest.approx(1, abs=4 * (2 / 4_000) ** 0.5)
    assert float(torch.linalg.det(random_rotation(generator, reflect=True))) == pytest.approx(-1)
    assert random_rotation(generator, torch.float32, dims=2).shape == (2, 2)


def test_equivariance_accepts_what_transforms_as_said(generator):
    x = points(generator)
    assert_equivariant(lambda p: p - p.mean(1, keepdim=True), [x], kinds=["point"], out="vector")
    assert_equivariant(lambda p: p + 1e-3 * (p - p.flip(1)), [x], kinds=["point"], out="point")
    assert_equivariant(distances, [x], kinds=["point"], out="scalar")
    spread = lambda p: torch.einsum("bni,bnj->bij", p, p)  # noqa: E731
    assert_equivariant(spread, [x], kinds=["vector"], out="matrix", translate=False)
    assert_equivariant(
        lambda p, h: (h * p, h), [x.float(), x[..., :1].float()], kinds=["vector", "scalar"], out=["vector", "scalar"]
    )


@pytest.mark.parametrize(
    ("fn", "kinds", "out", "what"),
    [
        (lambda p: p.sin(), "vector", "vector", "rotation"),
        (lambda p: p, "point", "vector", "translation"),
        (lambda p: torch.cross(p, p.flip(1), dim=-1), "vector", "vector", "reflection"),
        (lambda p: p + 1e-6 * p.abs(), "vector", "vector", "rotation"),
    ],
)
def test_equivariance_rejects_what_does_not(generator, fn, kinds, out, what):
    """A cross product turns correctly and fails in the reflection only."""
    with pytest.raises(AssertionError, match=what):
        assert_equivariant(fn, [points(generator)], kinds=[kinds], out=out, translate=kinds == "point")


def test_unknown_kinds_are_named(generator):
    with pytest.raises(ValueError, match="pseudovector"):
        assert_equivariant(lambda p: p, [points(generator)], kinds=["pseudovector"], out="vector")


def test_permutations(generator):
    x, pair = points(generator), torch.randn(2, 5, 5, generator=generator, dtype=F64)
    assert_permutation_equivariant(lambda p: p - p.mean(1, keepdim=True), [x], axes=[1])
    assert_permutation_equivariant(lambda p, e: e @ p, [x, pair], axes=[1, (1, 2)])
    assert_permutation_equivariant(lambda p: p.sum(1), [x], axes=[1], out=None)
    assert_permutation_equivariant(lambda p: (distances(p), p), [x], axes=[1], out=[(1, 2), 1])
    with pytest.raises(AssertionError, match="permutation"):
        assert_permutation_equivariant(lambda p: p.cumsum(1), [x], axes=[1])


def test_convergence_order_is_the_slope():
    assert convergence_order(lambda n: 3 / n**2, [10, 20, 80]) == pytest.approx([2, 2])
    assert convergence_order(lambda n: torch.tensor([1 / n, -2 / n**3]), [10, 20]) == pytest.approx([1])


def test_transform_noise_acts_on_named_components():
    noise = [{"x": torch.ones(2), "z": torch.ones(2)}, {"z": torch.ones(2)}]
    changed = transform_noise(noise, {"x": torch.neg})
    assert changed[0]["x"].tolist() == [-1, -1]
    assert changed[0]["z"].tolist() == [1, 1]
    assert transform_noise([torch.ones(2)], torch.neg)[0].tolist() == [-1, -1]
    assert noise[0]["x"].tolist() == [1, 1]
