"""Triton bodies against the torch definitions: on the CPU through the interpreter, in a process of its own (see
test_triton_interpreted.py), or on a GPU with ``-m gpu``."""

import os
from importlib.util import find_spec

import pytest
import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if find_spec("triton") is None or not (IS_INTERPRETED or torch.cuda.is_available()):
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items):
    for item in items:
        if not IS_INTERPRETED and "triton_bodies" in item.nodeid:
            item.add_marker(pytest.mark.gpu)
