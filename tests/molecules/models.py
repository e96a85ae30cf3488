"""Small untrained models for the tests of the molecules domain."""

from functools import cache

import torch

from molecules.data import MoleculeSpec, packaged_qm9
from molecules.generator import MoleculeGenerator
from molecules.networks import PairFormer
from molecules.recipes import Flow
from scidiff.denoiser import Denoiser

SMALL = {"width": 16, "pair_width": 8, "num_layers": 2, "num_heads": 2, "num_rbf": 6}


@cache
def small_spec():
    """Spec of the packaged training part without hydrogens."""
    return MoleculeSpec.from_dataset(packaged_qm9().subset("train").without_hydrogens())


def small_network(seed=0, **options):
    """A `PairFormer` of a few thousand weights, all of them random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PairFormer(3, 3, 4, **{**SMALL, **options})
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


def small_denoiser(dtype=torch.float32, **options):
    """Denoiser of `small_network` for the packaged data, as `MoleculeDiffusion` builds it."""
    process = Flow().process(small_spec())
    return Denoiser(small_network(**options), process, prediction={"pos": "edm"}, self_conditioning=True).to(dtype)


def small_generator(dtype=torch.float32, **options):
    """An untrained generator of molecules without hydrogens."""
    return MoleculeGenerator(small_denoiser(dtype), small_spec(), **options)
