import pytest
import torch

from molecules.networks import PairFormer
from molecules.networks.pairformer import _Pairs
from scidiff.testing import assert_equivariant, assert_permutation_equivariant

CLASSES = {"atom": 4, "charge": 3, "bond": 4}
NAMES = ("pos", "atom", "charge", "bond")
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def network(dtype=torch.float64, **options):
    """Small network whose zero-initialised parts are shaken, so that every path carries signal."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = PairFormer(4, 3, 4, width=16, pair_width=8, num_layers=3, num_heads=2, num_rbf=6, **options)
        for parameter in net.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net.to(dtype).requires_grad_(False)


def clouds(sizes, dtype=torch.float64, seed=0, width=None):
    """Random states, times and conditions of molecules of the given sizes; padding holds random numbers too."""
    g = torch.Generator().manual_seed(seed)
    b, n = len(sizes), width or max(sizes)
    mask = torch.arange(n) < torch.tensor(sizes)[:, None]

    def classes(name, *shape):
        drawn = torch.randint(CLASSES[name], shape, generator=g)
        return drawn.triu(1) + drawn.triu(1).mT if name == "bond" else drawn

    def shares(name, *shape):
        drawn = torch.randn(*shape, CLASSES[name], generator=g, dtype=torch.float64)
        drawn = drawn + drawn.transpose(1, 2) if name == "bond" else drawn
        return drawn.softmax(-1).to(dtype)

    shapes = {"atom": (b, n), "charge": (b, n), "bond": (b, n, n)}
    pos = torch.randn(b, n, 3, generator=g, dtype=torch.float64).to(dtype)
    last = torch.randn(b, n, 3, generator=g, dtype=torch.float64).to(dtype)
    state = {"pos": pos, **{name: classes(name, *shape) for name, shape in shapes.items()}}
    previous = {"pos": last, **{name: shares(name, *shape) for name, shape in shapes.items()}}
    t = torch.rand(b, generator=g, dtype=torch.float64).to(dtype)
    return state, t, {"node_mask": mask, "self_cond": previous}


def rows(value, index):
    """The molecules ``index`` of a nested dictionary of tensors."""
    if isinstance(value, dict):
        return {name: rows(item, index) for name, item in value.items()}
    return value[index]


@PRECISIONS
@pytest.mark.parametrize("with_previous", [True, False], ids=["self_cond", "plain"])
def test_positions_turn_and_logits_stay(dtype, with_previous):
    """Rotations, a reflection and translations, of the input and of the earlier prediction."""
    net = network(dtype)
    state, t, cond = clouds([7, 4, 2], dtype)

    def call(pos, last):
        previous = {"self_cond": {**cond["self_cond"], "pos": last}} if with_previous else {}
        out = net({**state, "pos": pos}, t, {"node_mask": cond["node_mask"], **previous})
        return [out[name] for name in NAMES]

    inputs = (state["pos"], cond["self_cond"]["pos"])
    assert_equivariant(call, inputs, kinds=("point", "point"), out=("vector", "scalar", "scalar", "scalar"))


@PRECISIONS
def test_atoms_permute(dtype):
    """Any order of the atoms, real and padded ones mixed."""
    net = network(dtype)
    state, t, cond = clouds([7, 4, 2], dtype)

    def call(mask, *values):
        own, previous = dict(zip(NAMES, values[:4])), dict(zip(NAMES, values[4:]))
        out = net(own, t, {"node_mask": mask, "self_cond": previous})
        return [out[name] for name in NAMES]

    inputs = [cond["node_mask"], *(state[name] for name in NAMES), *(cond["self_cond"][name] for name in NAMES)]
    assert_permutation_equivariant(call, inputs, axes=(1, *2 * (1, 1, 1, (1, 2))), out=[1, 1, 1, (1, 2)])


def test_a_molecule_does_not_see_its_batch():
    """Alone, in a batch in another order, and padded with random numbers: the same result."""
    net = network()
    state, t, cond = clouds([6, 3, 5, 1], width=9)
    together = net(state, t, cond)
    order = torch.tensor([2, 0, 3, 1])
    permuted = net(rows(state, order), t[order], rows(cond, order))
    for k, n in enumerate([6, 3, 5, 1]):
        cut = {"pos": (n,), "atom": (n,), "charge": (n,), "bond": (n, n)}
        cuts = {name: (slice(k, k + 1), *(slice(m) for m in shape)) for name, shape in cut.items()}
        alone = net(
            {name: state[name][cuts[name]] for name in NAMES},
            t[k : k + 1],
            {
                "node_mask": torch.ones(1, n, dtype=torch.bool),
                "self_cond": {name: cond["self_cond"][name][cuts[name]] for name in NAMES},
            },
        )
        for name in NAMES:
            assert torch.allclose(together[name][cuts[name]], alone[name], rtol=0, atol=1e-10), (name, n)
    for name in NAMES:
        assert torch.allclose(permuted[name], together[name][order], rtol=0, atol=1e-12)


def test_field_is_centred_and_bonds_are_symmetric():
    state, t, cond = clouds([7, 4, 1])
    out = network()(state, t, cond)
    mask = cond["node_mask"][..., None]
    assert not torch.where(mask, 0, out["pos"]).any()
    assert out["pos"].sum(1).abs().max() < 1e-13
    assert out["pos"][0].abs().max() > 0.01
    assert out["pos"][2].abs().max() == 0  # one atom has nowhere to go
    assert torch.equal(out["bond"], out["bond"].transpose(1, 2))
    assert not out["bond"].diagonal(dim1=1, dim2=2).any()


def test_every_input_matters():
    """A condition that is wired to nothing would pass all the symmetries."""
    net = network(num_properties=1)
    state, t, cond = clouds([6])
    plain = net(state, t, cond)
    previous = cond["self_cond"]
    others = {
        "time": net(state, 0.5 * t, cond),
        "property": net(state, t, {**cond, "property": torch.full((1, 1), 0.7, dtype=torch.float64)}),
        "atom": net({**state, "atom": (state["atom"] + 1) % 4}, t, cond),
        "charge": net({**state, "charge": (state["charge"] + 1) % 3}, t, cond),
        "bond": net({**state, "bond": (state["bond"] + 1) % 4}, t, cond),
    }
    for name in NAMES:
        changed = {**previous, name: previous[name].flip(1)}  # those of other atoms
        others[f"earlier {name}"] = net(state, t, {**cond, "self_cond": changed})
    for name, other in others.items():
        assert all((other[key] - plain[key]).abs().max() > 1e-5 for key in NAMES), name


def test_no_earlier_prediction_is_one_of_zeros():
    """The sampler starts with zeros, training leaves the key out: the network must not tell them apart."""
    net = network()
    state, t, cond = clouds([5, 4])
    zeros = {name: torch.zeros_like(value) for name, value in cond["self_cond"].items()}
    absent = net(state, t, {"node_mask": cond["node_mask"]})
    given = net(state, t, {"node_mask": cond["node_mask"], "self_cond": zeros})
    assert all(torch.equal(absent[name], given[name]) for name in NAMES)


def test_null_property_is_an_absent_one():
    net = network(num_properties=2)
    state, t, cond = clouds([5, 4, 3])
    absent = net(state, t, cond)
    null = net(state, t, {**cond, "property": torch.full((3, 2), torch.nan, dtype=torch.float64)})
    assert all(torch.equal(absent[name], null[name]) for name in NAMES)
    mixed = torch.tensor([[torch.nan, torch.nan], [0.0, torch.nan], [0.0, 0.0]], dtype=torch.float64)
    partly = net(state, t, {**cond, "property": mixed})["atom"]
    assert torch.allclose(partly[0], absent["atom"][0], rtol=0, atol=1e-13)
    assert (partly[1] - absent["atom"][1]).abs().max() > 1e-4  # a known zero is not an unknown value
    assert (partly[2] - absent["atom"][2]).abs().max() > 1e-4


@pytest.mark.parametrize("sizes", [[1], [4], [5, 1]], ids=str)
def test_gradients_are_finite_for_coincident_atoms(sizes):
    """All atoms in one point, and a single atom without pairs."""
    net = network().requires_grad_()
    state, t, cond = clouds(sizes)
    pos = torch.zeros_like(state["pos"]).requires_grad_()
    cond["self_cond"]["pos"] = torch.zeros_like(pos)
    out = net({**state, "pos": pos}, t, cond)
    sum(value.square().sum() for value in out.values()).backward()
    gradients = {"pos": pos.grad, **{name: parameter.grad for name, parameter in net.named_parameters()}}
    assert all(value is None or value.isfinite().all() for value in gradients.values())
    assert gradients["node_head.3.weight"].abs().max() > 0


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="multiple of num_heads, got 10 and 4"):
        PairFormer(width=10, num_heads=4)


def test_basis_has_no_subnormal_numbers():
    """Each value is 0 or a normal float: subnormal ones halve the speed of the products that follow. Values agree with
    the Gaussian in float64 wherever that is above exp(-60)."""
    distances = PairFormer().distances
    pos = torch.zeros(1, 400, 3)
    pos[0, :, 0] = torch.linspace(0, 12, 400)
    pairs = _Pairs.build(torch.ones(1, 400, dtype=torch.bool))
    basis = distances(pos, pairs)
    d = (pos[0, pairs.j, :1] - pos[0, pairs.i, :1]).double()
    exact = torch.exp(-0.5 * ((d - distances.centers.double()) / distances.width) ** 2)
    assert ((basis == 0) | (basis >= torch.finfo(torch.float32).tiny)).all()
    assert ((exact > 0) & (exact < torch.finfo(torch.float32).tiny)).any()
    torch.testing.assert_close(basis[0].double(), exact, rtol=0, atol=1e-5)
