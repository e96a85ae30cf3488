import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import chisquare

from molecules import MoleculeGenerator
from molecules.data import MoleculeSpec, packaged_qm9
from scidiff.denoiser import Denoiser
from scidiff.process import Process
from scidiff.random import seed_table
from scidiff.samplers import sample, solver_names
from scidiff.schedules import VPSDE
from scidiff.testing import random_rotation, record_noise, transform_noise
from tests.molecules.models import small_denoiser, small_generator, small_spec

NUM = 20
NO_START = {"s4", "euler_maruyama"}  # the reverse SDE of the straight path is singular at t = 1


def same(first, second, tolerance):
    """Equal classes, positions within ``tolerance`` angstrom."""
    assert len(first) == len(second)
    for a, b in zip(first, second):
        assert np.array_equal(a.numbers, b.numbers)
        assert np.array_equal(a.formal_charge, b.formal_charge)
        assert np.array_equal(a.bonds, b.bonds)
        assert np.abs(a.pos - b.pos).max() <= tolerance
    return True


@pytest.fixture(scope="module")
def many():
    return small_generator(torch.float64).sample(NUM, steps=3, seed=3)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_do_not_change_molecules(many, batch_size):
    """In double precision: batch size changes padding and order of work, nothing else."""
    assert same(many, small_generator(torch.float64).sample(NUM, steps=3, seed=3, batch_size=batch_size), 1e-9)


def test_a_molecule_belongs_to_its_seed(many):
    """Any single one can be drawn again from what the list says, another seed gives others."""
    pairs = [tuple(int(part) for part in name.split("/")) for name in many.seeds]
    assert pairs == [(3, k) for k in range(NUM)]
    generator = small_generator(torch.float64)
    assert same([many[17], many[9]], generator.sample(2, steps=3, seed=[pairs[17], pairs[9]]), 1e-9)
    other = generator.sample(NUM, steps=3, seed=4)
    assert not any(len(a) == len(b) and np.allclose(a.pos, b.pos, atol=0.1) for a, b in zip(many, other))


@pytest.mark.parametrize("solver", ["ddim", "ancestral", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("reflect", [False, True], ids=["rotation", "reflection"])
def test_sampler_turns_with_its_noise(solver, reflect):
    den, shapes, cond = task()
    options = {"solver": solver, "steps": 6, "grid": "log", "cond": cond, "solver_options": {"final_denoise": True}}
    x, noise = record_noise(den, shapes, seed=1, **options)
    rotation = random_rotation(torch.Generator().manual_seed(2), reflect=reflect)
    turned = sample(den, shapes, noise=transform_noise(noise, {"pos": lambda z: z @ rotation.T}), **options)
    assert (turned["pos"] - x["pos"] @ rotation.T).abs().max() < 1e-9
    for name in ("atom", "charge", "bond"):
        assert torch.equal(turned[name], x[name])


@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_sampler_permutes_with_its_noise(solver):
    """Atoms of the first, full molecule in another order; the draws of the classes are permuted as well."""
    den, shapes, cond = task()
    options = {"solver": solver, "steps": 6, "grid": "log", "cond": cond, "solver_options": {"final_denoise": True}}
    x, noise = record_noise(den, shapes, seed=1, **options)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    sites, pairs = (lambda z: z[:, order]), (lambda z: z[:, order][:, :, order])
    change = {"pos": sites, "atom": sites, "charge": sites, "bond": pairs}
    cond = {"node_mask": cond["node_mask"][:, order]}
    permuted = sample(den, shapes, noise=transform_noise(noise, change), **{**options, "cond": cond})
    assert (permuted["pos"] - sites(x["pos"])).abs().max() < 1e-9
    for name in ("atom", "charge", "bond"):
        assert torch.equal(permuted[name], change[name](x[name]))
    assert len(x["bond"].unique()) > 1
    assert len(x["atom"].unique()) > 1


def task():
    """Denoiser in double precision, shapes and masks of a full and a padded molecule."""
    mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
    shapes = {"pos": (2, 6, 3), "atom": (2, 6), "charge": (2, 6), "bond": (2, 6, 6)}
    return small_denoiser(torch.float64), shapes, {"node_mask": mask}


@pytest.mark.parametrize("solver", sorted(set(solver_names()) - NO_START))
def test_every_solver_gives_centred_molecules(solver):
    """Finite, centred, symmetric bonds; and the same in smaller batches."""
    generator = small_generator(torch.float64)
    mols = generator.sample(3, steps=4, solver=solver, seed=1)
    for record in mols:
        assert np.isfinite(record.pos).all()
        assert np.abs(record.pos.mean(0)).max() < 1e-12
        assert np.abs(record.pos).max() > 0.1
        assert np.array_equal(record.bonds, record.bonds.T)
    assert same(mols, generator.sample(3, steps=4, solver=solver, seed=1, batch_size=2), 1e-9)


@pytest.mark.parametrize("solver", sorted(NO_START))
def test_solvers_that_cannot_start_at_noise_say_so(solver):
    with pytest.raises(ValueError, match="singular for Linear"):
        small_generator().sample(1, steps=4, solver=solver)


@pytest.mark.parametrize(("solver", "per_step"), [("ddim", 1), ("heun", 2), ("dpm_solver_3", 3)])
def test_evaluations_are_counted(solver, per_step):
    """Network calls themselves: steps of one, two or three evaluations, and the final one."""
    generator, calls = small_generator(), []
    generator.denoiser.network.register_forward_hook(lambda *args: calls.append(1))
    mols = generator.sample(2, steps=5, solver=solver)
    assert mols.nfe == mols[:1].nfe == len(calls)
    assert (
        3 * per_step + 3 <= mols.nfe <= 5 * per_step + 1
    )  # the first step, from noise, and the last may cost one only


def test_sizes_follow_the_data():
    """Chi-square of 3,000 sizes against the training molecules; each from the molecule's own seed."""
    generator, spec = small_generator(), small_spec()
    keys = seed_table(0, 3_000)
    sizes = generator._sizes(3_000, None, keys)
    known = sorted(spec.sizes)
    assert set(sizes) <= set(known)
    total = sum(spec.sizes.values())
    found = np.array([(sizes == n).sum() for n in known], dtype=float)
    wanted = np.array([3_000 * spec.sizes[n] / total for n in known])
    rare = wanted < 5  # pooled, as the test demands
    found, wanted = (np.append(values[~rare], values[rare].sum()) for values in (found, wanted))
    assert chisquare(found[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3
    assert np.array_equal(generator._sizes(2, None, keys[[7, 100]]), sizes[[7, 100]])


@pytest.mark.parametrize("given", [5, np.int64(5), [5, 5, 5], np.array([5, 5, 5])], ids=repr)
def test_sizes_can_be_chosen(given):
    assert [len(record) for record in small_generator().sample(3, steps=1, n_atoms=given)] == [5, 5, 5]


def test_sizes_stay_in_order_and_may_leave_the_data():
    """Work is sorted by size, results are not; 1 and 12 atoms do not occur in the data."""
    sizes = [7, 1, 12, 4]
    assert [len(record) for record in small_generator().sample(4, steps=2, n_atoms=sizes, batch_size=3)] == sizes


def test_positions_are_angstrom():
    """The state has unit scale: a denoiser that returns its prior at once gives the spread of the data's scale."""
    generator = small_generator(torch.float64)
    shapes = {"pos": (1, 6, 3), "atom": (1, 6), "charge": (1, 6), "bond": (1, 6, 6)}
    cond = {"node_mask": torch.ones(1, 6, dtype=torch.bool)}
    grid = generator.recipe.grid(3)
    assert grid.tolist() == pytest.approx([1.0, (2 / 3) ** 1.5, (1 / 3) ** 1.5, 0.0])
    options = {"solver": "ddim", "steps": 3, "grid": grid, "solver_options": {"final_denoise": True}}
    x = sample(generator.denoiser, shapes, seed=[(0, 0)], cond=cond, **options)
    (record,) = generator.sample(1, n_atoms=6, steps=3, seed=0)
    assert np.abs(record.pos - small_spec().pos_std * x["pos"][0].numpy()).max() < 1e-12
    assert record.numbers.tolist() == [small_spec().numbers[k] for k in x["atom"][0].tolist()]
    assert record.formal_charge.tolist() == [small_spec().charges[k] for k in x["charge"][0].tolist()]


def test_only_valid_molecules_on_request():
    generator = small_generator()
    kept = generator.sample(40, n_atoms=2, steps=2, keep="valid")
    everything = generator.sample(40, n_atoms=2, steps=2)
    assert 0 < len(kept) < 40
    assert same(kept, everything.valid(), 0)
    assert kept.discarded == everything.failures()


def test_saved_generators_draw_the_same(tmp_path):
    generator = small_generator(steps=3, solver="euler")
    path = generator.save(tmp_path / "g.safetensors", metadata={"metrics": {"valid": 0.5}})
    again = MoleculeGenerator.from_pretrained(path)
    assert (again.steps, again.solver, again.spec) == (3, "euler", small_spec())
    assert again.metadata["metrics"] == {"valid": 0.5}
    assert again.to_config() == generator.to_config()
    assert same(generator.sample(6, seed=2), again.sample(6, seed=2), 0)


@pytest.mark.parametrize(
    "class_path", ["os.system", "subprocess.Popen", "torch.nn.Linear", "scidiff.files.atomic_path"]
)
def test_foreign_class_paths_are_refused(tmp_path, class_path):
    """A header that names another callable is one sentence, and nothing of it runs."""
    path = small_generator().save(tmp_path / "g.safetensors")
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = json.loads(header["config"])
    config["init_args"]["denoiser"]["init_args"]["network"] = {"class_path": class_path, "init_args": {}}
    save_file(tensors, path, metadata={**header, "config": json.dumps(config)})
    with pytest.raises(ValueError, match="is refused") as error:
        MoleculeGenerator.from_pretrained(path)
    assert class_path in str(error.value)


@pytest.mark.parametrize(
    ("options", "telling"),
    [
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"n": 2.0}, "n must be an integer"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"steps": 0}, "steps must be"),
        ({"n_atoms": 0}, "n_atoms must be"),
        ({"n_atoms": 2.5}, "n_atoms must be"),
        ({"n_atoms": [3, 4]}, "each of the 3 molecules"),
        ({"n_atoms": [3, 4, 5.5]}, "n_atoms must be"),
        ({"seed": [1, 2]}, "one per sample"),
        ({"solver": "eulr"}, "Did you mean 'euler'"),
        ({"solver_options": {"et": 1}}, "does not take these options"),
        ({"keep": "good"}, "keep must be 'all' or 'valid'"),
    ],
    ids=str,
)
def test_bad_requests_cost_no_evaluation(options, telling):
    generator = small_generator()
    generator.denoiser.network.register_forward_hook(lambda *args: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match=telling):
        generator.sample(**{"n": 3, **options})


def test_bad_generators_are_refused():
    den = small_denoiser()
    with pytest.raises(ValueError, match="needs the MoleculeSpec"):
        MoleculeGenerator(den)
    with pytest.raises(ValueError, match=r"'atom': 4.*'atom': 3"):
        MoleculeGenerator(den, MoleculeSpec.from_dataset(packaged_qm9().subset("train")))
    with pytest.raises(ValueError, match="components pos, atom, charge, bond"):
        MoleculeGenerator(Denoiser(torch.nn.Identity(), Process(VPSDE())), small_spec())
    with pytest.raises(ValueError, match="steps must be"):
        MoleculeGenerator(den, small_spec(), steps=0)
    with pytest.raises(ValueError, match="unknown solver"):
        MoleculeGenerator(den, small_spec(), solver="fast")
