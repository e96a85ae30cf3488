"""The networks of `scidiff.nn` as denoisers: symmetry, padding, the null condition, fixed atoms."""

import pytest
import torch

from molecules.networks import MessagePassing
from scidiff.testing import random_rotation

BACKBONES = {
    "eqgat": {"hidden": 16, "num_layers": 2},
    "egnn": {"hidden": 16, "num_layers": 2, "attention": True},
    "painn": {"hidden": 16, "num_layers": 2},
    "ponita": {"hidden": 16, "num_layers": 2, "num_orientations": 0},  # exact without orientations
}


def network(backbone, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MessagePassing(3, 3, 4, backbone=backbone, options=BACKBONES[backbone], **options)
        for parameter in net.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net.double().eval()


def state(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    bond = torch.randint(4, (2, n, n), generator=g).triu(1)
    classes = {name: torch.randint(3, (2, n), generator=g) for name in ("atom", "charge")}
    return {"pos": torch.randn(2, n, 3, generator=g, dtype=torch.float64), **classes, "bond": bond + bond.mT}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("output", ["endpoint", "field"])
def test_symmetry(backbone, output):
    """Positions turn and are reflected with the input, logits do not change, bonds are symmetric, atoms permute."""
    net, x, t = network(backbone, output=output), state(), torch.tensor([0.3, 0.8], dtype=torch.float64)
    out = net(x, t, {})
    rotation = random_rotation(torch.Generator().manual_seed(1), reflect=True)
    turned = net({**x, "pos": x["pos"] @ rotation.T}, t, {})
    assert (turned["pos"] - out["pos"] @ rotation.T).abs().max() < 1e-9
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = net({k: v[:, order][:, :, order] if k == "bond" else v[:, order] for k, v in x.items()}, t, {})
    for name in ("atom", "charge", "bond"):
        assert (turned[name] - out[name]).abs().max() < 1e-9
    assert (out["bond"] - out["bond"].transpose(1, 2)).abs().max() < 1e-9
    assert (permuted["bond"] - out["bond"][:, order][:, :, order]).abs().max() < 1e-9
    assert (permuted["pos"] - out["pos"][:, order]).abs().max() < 1e-9
    assert out["pos"].abs().max() > 0.01


@pytest.mark.parametrize("backbone", BACKBONES)
def test_padding_changes_nothing(backbone):
    net, x, t = network(backbone), state(), torch.tensor([0.3, 0.8], dtype=torch.float64)
    mask = torch.arange(6).expand(2, 6) < 4
    short = {k: v[:, :4, :4] if k == "bond" else v[:, :4] for k, v in x.items()}
    wide, narrow = net(x, t, {"node_mask": mask}), net(short, t, {})
    assert (wide["pos"][:, :4] - narrow["pos"]).abs().max() < 1e-9
    assert (wide["atom"][:, :4] - narrow["atom"]).abs().max() < 1e-9
    pairs = ~torch.eye(4, dtype=torch.bool)
    assert (wide["bond"][:, :4, :4] - narrow["bond"])[:, pairs].abs().max() < 1e-9


@pytest.mark.parametrize("backbone", ["eqgat", "egnn"])
def test_conditions_are_seen_and_can_be_null(backbone):
    """NaN is the same as no property; values and fixed marks change the prediction."""
    net, x, t = network(backbone, num_properties=2, fixed=True), state(), torch.tensor([0.3, 0.8], dtype=torch.float64)
    null = net(x, t, {})
    values = torch.full((2, 2), torch.nan, dtype=torch.float64)
    assert torch.equal(net(x, t, {"property": values})["atom"], null["atom"])
    values[0, 1] = 0.0  # known and average is not the same as unknown
    changed = net(x, t, {"property": values})["atom"]
    assert (changed[0] - null["atom"][0]).abs().max() > 1e-4
    assert torch.equal(changed[1], null["atom"][1])
    fixed = torch.zeros(2, 6, dtype=torch.bool)
    marks = {"fixed": fixed, "fixed_pair": fixed[:, :, None] & fixed[:, None]}
    assert torch.equal(net(x, t, marks)["atom"], null["atom"])
    fixed = torch.arange(6).expand(2, 6) < 3
    marks = {"fixed": fixed, "fixed_pair": fixed[:, :, None] & fixed[:, None]}
    assert (net(x, t, marks)["atom"] - null["atom"]).abs().max() > 1e-4


def test_bad_networks_are_refused():
    with pytest.raises(ValueError, match="'endpoint' or 'field'"):
        MessagePassing(output="noise")
    with pytest.raises(ValueError, match="unknown network 'eqgta'"):
        MessagePassing(backbone="eqgta")
