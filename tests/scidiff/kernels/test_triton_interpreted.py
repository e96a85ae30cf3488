"""Numbers of the Triton bodies on a machine without a GPU: the suite of triton_bodies/ in Triton's interpreter.

The interpreter is chosen when kernels are imported, so the suite runs in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed (it is published for Linux only)")
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("module", ["test_sums", "test_filters", "test_networks", "test_operations", "test_lists"])
def test_bodies_agree_with_the_definitions_in_the_interpreter(module):
    suite = f"tests/scidiff/kernels/triton_bodies/{module}.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", suite],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
