# Everything a person or CI runs. Needs: python3 (3.11 or newer) with venv, and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := src tests real_models benchmarks examples

.PHONY: demo test check-style test-fast test-slow real-models real-models-all faults repairs bench clean

demo: $(VENV)/.installed
	@sh examples/demo.sh $(BIN)/symbreak

test: check-style test-fast test-slow

check-style: $(VENV)/.test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --doctest-modules tests src/symbreak

test-slow: $(VENV)/.real
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto tests

real-models: $(VENV)/.real
	$(BIN)/python -m real_models.run --markdown docs/real-models.md

real-models-all: $(VENV)/.real-full
	$(BIN)/python -m real_models.run --all --markdown docs/real-models.md

faults: $(VENV)/.real
	$(BIN)/python -m real_models.faults

repairs: $(VENV)/.real
	$(BIN)/python -m real_models.repairs --markdown docs/repairs.md

bench: $(VENV)/.test
	for name in probe exact nets schemes starts provenance symmetry; do OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/race.py

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.real: $(VENV)/.test real_models/requirements.txt
	$(PIP) --no-deps -r real_models/requirements.txt
	@touch $@

$(VENV)/.real-full: $(VENV)/.real real_models/requirements-full.txt
	$(PIP) --no-deps -r real_models/requirements-full.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
