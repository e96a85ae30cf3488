import pytest
import torch

from scidiff.guidance.krylov import conjugate_gradients, gmres


@pytest.fixture
def system():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64)
    return root, torch.randn(3, 2, 3, generator=generator, dtype=torch.float64)


def product(matrix):
    return lambda u: ((matrix @ u.flatten(1)[..., None]).reshape(u.shape), {})


@pytest.mark.parametrize("solve", [conjugate_gradients, gmres])
@pytest.mark.parametrize("iterations", [6, 12])
def test_symmetric_systems_are_solved_in_as_many_steps_as_dimensions(system, solve, iterations):
    """Residual below condition number (about 1e2) times 1e-16; going on does no harm."""
    matrix = system[0] @ system[0].mT + torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, system[1].flatten(1)[..., None]).reshape(system[1].shape)
    torch.testing.assert_close(solve(product(matrix), system[1], iterations).u, expected, rtol=1e-9, atol=1e-11)


def test_gmres_solves_what_is_not_symmetric(system):
    matrix = system[0] + 4 * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, system[1].flatten(1)[..., None]).reshape(system[1].shape)
    torch.testing.assert_close(gmres(product(matrix), system[1], 6).u, expected, rtol=1e-9, atol=1e-11)
    assert (conjugate_gradients(product(matrix), system[1], 6).u - expected).abs().max() > 1e-3


def test_gmres_takes_the_least_residual(system):
    """After one product the answer is the best multiple of b."""
    matrix, b = system[0] + 4 * torch.eye(6, dtype=torch.float64), system[1]
    image, _ = product(matrix)(b)
    best = (image * b).sum((1, 2), keepdim=True) / image.square().sum((1, 2), keepdim=True) * b
    torch.testing.assert_close(gmres(product(matrix), b, 1).u, best)


@pytest.mark.parametrize("solve", [conjugate_gradients, gmres])
def test_zero_right_hand_side_stays_zero(solve):
    b = torch.zeros(2, 3)
    b[1] = 1.0
    u = solve(lambda v: (2 * v, {}), b, 3).u
    torch.testing.assert_close(u, b / 2)


@pytest.mark.parametrize("solve", [conjugate_gradients, gmres])
def test_by_products_are_those_of_the_solution(system, solve):
    """Also where the iterations end early: B u of the u that is returned, from as many products."""
    matrix = system[0] @ system[0].mT + torch.eye(6, dtype=torch.float64)
    other = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    calls = []

    def operator(u):
        calls.append(u)
        return product(matrix)(u)[0], {"other": u.flatten(1) @ other.T}

    for iterations in (1, 3, 8):
        calls.clear()
        found = solve(operator, system[1], iterations)
        assert len(calls) == iterations
        torch.testing.assert_close(found.products["other"], found.u.flatten(1) @ other.T, rtol=1e-10, atol=1e-12)
