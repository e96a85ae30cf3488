# From a fresh clone: `make demo` or `make test`. Both create .venv first.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin
STAMP := .venv/.installed
PACKAGES := scidiff molecules trajectories timeseries graphs
WORKERS ?= 2
# one thread a test worker: more threads than cores make small tensors slow
TEST := OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | \
		while IFS='|' read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done

setup: $(STAMP)  ## create .venv with all dependencies

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 was found; install one, or run: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@test -x $(BIN)/python || { echo "creating .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	@touch $@

demo: setup  ## example results of every domain in out/
	@$(BIN)/scidiff demo --out out

test: setup  ## fast tests
	@$(TEST) -n $(WORKERS)

test-all: setup  ## all tests, the slow ones included
	@$(TEST) -n $(WORKERS) -m "not gpu"

check: setup  ## format, lint and types
	@$(BIN)/ruff format --check --output-format concise . || { echo "run: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright --level error $(PACKAGES)

format: setup  ## rewrite the code in the project's format
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

bench: setup  ## list the benchmarks; run one by: .venv/bin/python -m benchmarks.NAME
	@ls benchmarks/*.py 2>/dev/null | sed -E 's|benchmarks/(.*)\.py|  python -m benchmarks.\1|' | grep -v __init__ || echo "no benchmarks"

clean:  ## remove caches, builds and out/; .venv and runs/ stay
	rm -rf out build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -exec rm -rf {} +
