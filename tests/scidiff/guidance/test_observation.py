import pytest
import torch

from scidiff import VPSDE, Process
from scidiff.guidance import Observation

X = torch.arange(12.0).reshape(2, 3, 2)


def test_mask_runs_over_the_leading_axes():
    mask = torch.tensor([[True, False, True], [False, True, False]])
    observation = Observation(mask, y=torch.where(mask[..., None], 1.0, torch.nan))
    forward = observation.forward({"": X})
    assert (forward == X * mask[..., None]).all()
    assert (observation.residual({"": X}) == (1 - X) * mask[..., None]).all()
    assert (observation.adjoint(X, {"": X})[""] == X * mask[..., None]).all()


@pytest.mark.parametrize("kind", ["matrix", "callable", "callable with adjoint", "dict"])
def test_adjoint_is_the_transpose(kind):
    """<H x, u> = <x, H^T u> for random x and u."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 6, generator=generator)
    H, HT = (lambda x: x.flatten(1) @ matrix.T), (lambda u: (u @ matrix).reshape(-1, 3, 2))
    y = torch.zeros(1, 4)
    observation = {
        "matrix": Observation(matrix, y=y),
        "callable": Observation(H, y=y),
        "callable with adjoint": Observation(H, HT, y),
        "dict": Observation(lambda s: H(s["a"]) + s["b"], y=y),
    }[kind]
    parts = {"": X} if kind != "dict" else {"a": X, "b": torch.randn(2, 4, generator=generator)}
    u = torch.randn(2, 4, generator=generator)
    back = observation.adjoint(u, parts)
    left = (observation.forward(parts) * u).sum()
    torch.testing.assert_close(left, sum((parts[k] * back[k]).sum() for k in parts), rtol=1e-5, atol=1e-4)


def test_errors_name_the_cause():
    mask = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="needs y"):
        Observation(mask)
    with pytest.raises(ValueError, match="noise_std"):
        Observation(mask, y=X, noise_std=-1.0)
    with pytest.raises(TypeError, match="bool mask, a matrix or a callable"):
        Observation([True], y=X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype bool"):
        Observation(torch.ones(3), y=X)
    system = Process({"a": VPSDE(), "b": VPSDE()})
    with pytest.raises(ValueError, match="component="):
        Observation(mask, y=X).check(system)
    with pytest.raises(ValueError, match="known: "):
        Observation(mask, y=X, component="c").check(system)
    with pytest.raises(ValueError, match="leading axes"):
        Observation(torch.ones(3, dtype=torch.bool), y=X).forward({"": X})
    with pytest.raises(ValueError, match="bool mask"):
        Observation(torch.ones(3, 6), y=X).observed(X)
