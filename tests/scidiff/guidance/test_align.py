import pytest
import torch

from scidiff.guidance.align import align


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recovers_a_rigid_motion(seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    mask = torch.tensor([True, True, True, False, True, True])[None, :, None]
    rotation = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator, dtype=torch.float64))[0]
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    target = points @ rotation + torch.randn(2, 1, 3, generator=generator, dtype=torch.float64)
    moved = align(torch.where(mask, points, 99.0), target, mask, rotate=True)
    torch.testing.assert_close(moved, torch.where(mask, target, 0.0), rtol=1e-10, atol=1e-10)


def test_never_mirrors():
    """Onto a mirror image the best proper rotation leaves a misfit; the reflection would not."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64)
    mask = torch.ones(1, 6, 1, dtype=torch.bool)
    moved = align(points, -points, mask, rotate=True)
    assert (moved + points).abs().max() > 0.1
    gram = points[0] - points[0, :1]
    turned = moved[0] - moved[0, :1]
    torch.testing.assert_close(turned @ turned.T, gram @ gram.T, rtol=1e-9, atol=1e-9)
    assert torch.linalg.det(turned[1:4]) * torch.linalg.det(gram[1:4]) > 0


def test_translation_only_shares_the_axes():
    points = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones(2, 3, 4, 1, dtype=torch.bool)
    shift = torch.randn(2, 1, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(align(points, points + shift, mask, axes=(1, 2)), points + shift)
