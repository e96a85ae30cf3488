"""Commands of the command line in tests: run in an empty folder, tables read, refusals checked."""

import re
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

from scidiff.cli import main

ROOT = Path(__file__).parents[1]
_HEAVY = {"torch", "rdkit", "networkx", "pandas", "gluonts", "matplotlib", "pytorch_lightning"}


def runner(domain, capfd, folder, monkeypatch):
    """Function that runs ``scidiff DOMAIN WORDS`` in ``folder`` and returns status, out and err."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SCIDIFF_DEBUG", raising=False)

    def call(*words):
        status = main([domain, *(str(word) for word in words)])
        out, err = capfd.readouterr()
        return Namespace(status=status, out=out, err=err)

    return call


def check_refusal(run, words, sentence, folder):
    """One sentence on stderr, status 2, nothing on stdout, soon, and every file below ``folder`` as it was."""
    before = contents(folder)
    start = time.process_time()
    result = run(*words.split())
    assert time.process_time() - start < 15
    assert result.status == 2
    lines = [line for line in result.err.splitlines() if line and "Warning" not in line]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("scidiff: error: ")
    assert sentence in lines[0]
    assert result.out == ""
    assert contents(folder) == before


def contents(folder):
    """Bytes of all files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(text):
    """Name and value of each line of a two-column table."""
    rows = (re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in text.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


def check_help(domain, verbs, options):
    """Help of the verbs names the options, and imports nothing heavy."""
    code = (
        "import sys; from scidiff.cli import main\n"
        f"for verb in {list(verbs)!r}:\n"
        f"    assert main([{domain!r}, verb, '--help']) == 0\n"
        f"assert not {_HEAVY!r} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for option in options:
        assert option in result.stdout
