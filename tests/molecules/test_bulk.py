"""Generation in chunks gives the molecules of `MoleculeGenerator.sample`, also on two processes and after a failure."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from molecules.bulk import sample_in_chunks
from molecules.io import read_sdf
from scidiff.cli import main
from tests.molecules.models import small_generator

ROOT = Path(__file__).parents[2]
NUM, STEPS, SEED = 12, 3, 5
CPU = {"accelerator": "cpu", "devices": 1}


def assert_same(records, expected, tolerance):
    assert len(records) == len(expected)
    for one, other in zip(records, expected):
        assert np.array_equal(one.numbers, other.numbers)
        assert np.array_equal(one.formal_charge, other.formal_charge)
        assert np.array_equal(one.bonds, other.bonds)
        np.testing.assert_allclose(one.pos, other.pos, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def expected():
    return small_generator().sample(NUM, steps=STEPS, seed=SEED)


@pytest.mark.parametrize("batch_size", [500, 5])
def test_chunks_hold_the_molecules_of_one_call(tmp_path, expected, batch_size):
    """To the bit with the same batches; to rounding of float32, 1e-6 angstrom, with others."""
    options = {"origin": "test", "steps": STEPS, "seed": SEED, "batch_size": batch_size, **CPU}
    mols, chunks = sample_in_chunks(small_generator(), NUM, tmp_path / "work", **options)
    assert_same(mols, expected, 0 if batch_size == 500 else 1e-6)
    assert mols.seeds == expected.seeds
    assert (mols.nfe, mols.names) == (expected.nfe, expected.names)
    assert len(list(chunks)) == (1 if batch_size == 500 else 3)


def test_sizes_can_be_given_one_by_one(tmp_path):
    sizes = [4, 2, 7]
    mols, _ = sample_in_chunks(small_generator(), 3, tmp_path / "work", origin="test", n_atoms=sizes, steps=2, **CPU)
    assert_same(mols, small_generator().sample(3, n_atoms=sizes, steps=2), 0)


def test_a_failure_after_sampling_keeps_the_molecules(tmp_path, monkeypatch, capfd):
    """The first command finds nothing valid to write; the second only writes, then removes the folder."""
    monkeypatch.chdir(tmp_path)
    small_generator(steps=2).save(tmp_path / "small.safetensors")
    words = ["molecules", "generate", "--checkpoint", "small.safetensors", "--device", "cpu", "-n", "3"]
    words += ["--n-atoms", "12", "--out", "a.sdf"]
    assert main([*words, "--valid-only"]) == 2
    assert Path("a.sdf.partial").is_dir()
    capfd.readouterr()
    assert main(words) == 0
    assert "going on from 3 samples" in capfd.readouterr().err
    assert_same([entry.record for entry in read_sdf("a.sdf")], small_generator(steps=2).sample(3, n_atoms=12), 1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.sdf", "small.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "num_nodes"), [(2, 1), (1, 2)], ids=["one node", "two nodes"])
def test_two_processes_write_what_one_draws(tmp_path, expected, devices, num_nodes):
    """The command on two devices, or started on two machines: one file, which one process writes with 4 decimals."""
    small_generator().save(tmp_path / "small.safetensors")
    words = ["molecules", "generate", "--checkpoint", "small.safetensors", "--device", "cpu", "--devices", devices]
    words += ["--num-nodes", num_nodes, "-n", NUM, "--steps", STEPS, "--seed", SEED, "--batch-size", 4]
    command = [sys.executable, "-m", "scidiff.cli", *map(str, words), "--out", "a.sdf"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if num_nodes > 1:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    runs = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**environment, "NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_nodes)
    ]
    outputs = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0] * num_nodes, outputs
    entries = read_sdf(tmp_path / "a.sdf")
    assert_same([entry.record for entry in entries], expected, 1e-4)
    assert [entry.properties["seed"] for entry in entries] == expected.seeds
    assert [out.count("wrote") for out, _ in outputs] == [1, 0][:num_nodes]  # the first process reports
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.sdf", "small.safetensors"]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
