# Needs python3 (3.11 or newer), make and a Python package index; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest -q
SPREAD := --numprocesses 2 --dist worksteal

.PHONY: help install demo test test-slow check format bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## make .venv with the package, its extras and the development tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("zowarmup needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group dev --editable '.[data,flower,simulation,tensorboard]'
	touch $@

demo: $(STAMP)  ## three seeds of ZOWarmUp and its baselines on the digits data, with a report (under 90 s)
	$(BIN)/zowarmup compare digits digits-high-res-only digits-zo-scratch digits-fedavg --seeds 10,11,12 --out runs/demo --force --device cpu

test: check $(STAMP)  ## every test but the slow ones
	$(PYTEST) $(SPREAD) -m 'not slow'

test-slow: $(STAMP)  ## what takes longer: whole CIFAR-10 runs, many processes
	$(PYTEST) $(SPREAD) -m slow

check: $(STAMP)  ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## the benchmarks; results go to benchmarks/results
	$(PYTEST) benchmarks --benchmark-only
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/fedavg.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/crash.py --kills 100
	$(BIN)/python benchmarks/low_memory.py
	$(BIN)/python benchmarks/federation.py

clean:  ## remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
