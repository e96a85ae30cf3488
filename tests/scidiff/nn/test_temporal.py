"""Temporal attention against its equations, frame by frame; symmetry, masks, causality, order of frames."""

import math

import pytest
import torch

from scidiff.configurable import build, config_of
from scidiff.nn.temporal import TemporalAttention
from scidiff.testing import assert_equivariant

F64 = torch.float64
HIDDEN, FRAMES, NODES = 8, 6, 3


def layer_of(dtype=F64, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = TemporalAttention(HIDDEN, **options)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return layer.to(dtype)


def data(dtype=F64, dims=3, vectors=0):
    generator = torch.Generator().manual_seed(1)
    shapes = ((NODES, FRAMES, HIDDEN), (NODES, FRAMES, dims), (NODES, FRAMES, vectors, dims))
    h, pos, v = (torch.randn(shape, generator=generator, dtype=F64).to(dtype) for shape in shapes)
    return h, pos, v


def psi(step):
    frequencies = [math.exp(-math.log(10_000) * k / 15) for k in range(16)]
    return torch.tensor([f(step * w) for f in (math.sin, math.cos) for w in frequencies], dtype=F64)


def by_frames(layer, h, pos, v, frames, mask, heads, causal, scaled):
    """One node at a time, one pair of frames at a time; r is built for each."""
    out_h, out_x, out_v = h.clone(), pos.clone(), v.clone()
    width = HIDDEN // heads
    for n in range(len(h)):
        q, k, value = layer.query(h[n]), layer.key(h[n]), layer.value(h[n])
        u = layer.step(value)
        for f in range(len(frames)):
            seen = [s for s in range(len(frames)) if mask[n, s] and not (causal and frames[s] > frames[f])]
            if not mask[n, f]:
                continue
            r = {s: layer.relative(psi(frames[f] - frames[s])) for s in seen}
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                logits = torch.stack([q[f, part] @ (k[s, part] + r[s][part]) for s in seen])
                a = (logits / math.sqrt(width) if scaled else logits).softmax(0)
                for weight, s in zip(a, seen):
                    out_h[n, f, part] += weight * (value[s, part] + r[s][part])
                    out_x[n, f] += weight * u[s, head] * (pos[n, f] - pos[n, s])
                    if v.shape[2]:
                        c = v.shape[2] // heads
                        own = slice(head * c, (head + 1) * c)
                        out_v[n, f, own] += weight * (layer.vectors.weight @ v[n, s])[own]
    return out_h, out_x, out_v


VARIANTS = {
    "published": {},
    "causal": {"is_causal": True},
    "heads": {"num_heads": 2, "is_scaled": True},
    "vectors": {"num_heads": 2, "vector_channels": 4},
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("is_masked", [False, True], ids=["full", "masked"])
def test_equations(variant, is_masked, dims):
    options = VARIANTS[variant]
    layer, (h, pos, v) = layer_of(**options), data(dims=dims, vectors=options.get("vector_channels", 0))
    frames = [0, 1, 2, 5, 9, 4]  # true times, not in order
    mask = torch.ones(NODES, FRAMES, dtype=torch.bool)
    if is_masked:
        mask[0, 1] = mask[1, :4] = mask[2] = False  # a hole, a late start, a node that is never there
    heads, causal, scaled = options.get("num_heads", 1), "is_causal" in options, "is_scaled" in options
    with torch.no_grad():
        out = layer(
            h,
            pos,
            v=v if "vector_channels" in options else None,
            frames=torch.tensor(frames),
            frame_mask=mask if is_masked else None,
        )
        wanted = by_frames(layer, h, pos, v, frames, mask, heads, causal, scaled)
    torch.testing.assert_close(out.h, wanted[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(out.pos, wanted[1], rtol=0, atol=1e-10)
    if out.v is not None:
        torch.testing.assert_close(out.v, wanted[2], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
def test_equivariance(dtype):
    layer, (h, pos, v) = layer_of(dtype, num_heads=2, vector_channels=2), data(dtype, vectors=2)
    assert_equivariant(
        lambda pos, v: layer(h, pos, v=v),
        (pos, v),
        kinds=("point", "vector"),
        out=("scalar", "point", "vector"),
    )


def test_distant_origins_cost_no_digits():
    """In single precision the step itself keeps its digits far from the origin, as positions themselves do not."""
    layer, (h, pos, _) = layer_of(torch.float32), data(torch.float32)
    pos = (pos * 1024).round() / 1024  # exact after a shift by 4096, in float32
    near, far = layer(h, pos).pos - pos, layer(h, pos + 4096).pos - (pos + 4096)
    assert float((near - far).detach().abs().max()) <= 4096 * 2**-23 * 2


def test_masked_frames_are_not_seen_and_stay():
    layer, (h, pos, _) = layer_of(), data()
    mask = torch.ones(NODES, FRAMES, dtype=torch.bool)
    mask[:, 2] = mask[1] = False
    before = layer(h, pos, frame_mask=mask)
    h[~mask], pos[~mask] = torch.nan, torch.inf
    after = layer(h, pos, frame_mask=mask)
    assert torch.equal(after.h[mask], before.h[mask])
    assert torch.equal(after.pos[mask], before.pos[mask])
    assert bool(after.h[~mask].isnan().all())
    assert bool((after.pos[~mask] == torch.inf).all())
    short = layer(*(x[:1][:, mask[0]] for x in (h, pos)), frames=torch.tensor([0, 1, 3, 4, 5]))
    torch.testing.assert_close(after.h[:1][:, mask[0]], short.h, rtol=0, atol=1e-12)
    one_mask = layer(h[:1], pos[:1], frame_mask=mask[0])
    assert torch.equal(one_mask.h[:, mask[0]], after.h[:1][:, mask[0]])


def test_causal_frames_do_not_see_the_future():
    layer, (h, pos, _) = layer_of(is_causal=True), data()
    before = layer(h, pos)
    h[:, 4:], pos[:, 4:] = 7.0, -3.0
    after = layer(h, pos)
    assert torch.equal(before.h[:, :4], after.h[:, :4])
    torch.testing.assert_close(before.pos[:, :4], after.pos[:, :4], rtol=0, atol=1e-12)
    assert float((before.h[:, 4:] - after.h[:, 4:]).abs().max()) > 0.1


def test_order_of_frames_does_not_matter():
    """Only their numbers do, and of these only the differences."""
    layer, (h, pos, _) = layer_of(), data()
    order = torch.randperm(FRAMES, generator=torch.Generator().manual_seed(2))
    plain, shuffled = layer(h, pos), layer(h[:, order], pos[:, order], frames=order + 11)
    torch.testing.assert_close(shuffled.h, plain.h[:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(shuffled.pos, plain.pos[:, order], rtol=0, atol=1e-12)


def test_size_and_description():
    """119,937 parameters at 128 channels, as the published layer; small first steps of the positions."""
    layer = TemporalAttention(128)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 119_937
    assert float(layer.step[2].weight.abs().max()) < 1e-3
    assert config_of(build(config_of(layer))) == config_of(layer)


def test_gradients_with_nothing_to_see():
    layer, (h, pos, _) = layer_of(), data()
    h.requires_grad_()
    pos.requires_grad_()
    out = layer(h, pos, frame_mask=torch.zeros(NODES, FRAMES, dtype=torch.bool))
    assert torch.equal(out.h, h)
    assert torch.equal(out.pos, pos)
    (out.h.sum() + out.pos.square().sum()).backward()
    assert bool(h.grad.isfinite().all())
    assert bool(pos.grad.isfinite().all())


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="multiples of num_heads"):
        TemporalAttention(10, num_heads=3)
    with pytest.raises(ValueError, match="even and positive"):
        TemporalAttention(8, frame_channels=5)
    h, pos, v = data(vectors=2)
    with pytest.raises(ValueError, match="vector_channels > 0"):
        layer_of()(h, pos, v=v)
