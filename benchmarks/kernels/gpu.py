"""Everything that needs a GPU in one call: ``python -m benchmarks.kernels.gpu [options of the benchmark]``.

First the suite of the Triton bodies on the device (``pytest -m gpu``), then, if it passes, the table of
`benchmarks.kernels` with ``--device cuda``: a wrong kernel gets no time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
SUITE = "tests/scidiff/kernels/triton_bodies"


def main(options: list[str]) -> int:
    """Run both parts in processes of their own; the exit status is that of the first that fails, 2 without a device."""
    if not torch.cuda.is_available():
        print("this needs a CUDA device, and torch finds none.", file=sys.stderr)
        return 2
    if not any(option.startswith("--json") for option in options):
        options = [*options, "--json", "kernels_cuda.json"]
    for command in (["pytest", "-q", "-m", "gpu", SUITE], ["benchmarks.kernels", "--device", "cuda", *options]):
        status = subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
