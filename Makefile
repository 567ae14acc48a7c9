# `make demo` and `make test` are all a fresh machine needs: each makes .venv and installs into it first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PEERS_PIP := .venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
	-c tests/benchmarks/constraints-peers.txt
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test lint imports bench clean

demo: .venv/.installed  ## the whole flow on the bundled model, then the dashboard; ARGS=--no-dashboard to stop before it
	$(BIN)/interp demo $(ARGS)

# Three files of tests at a time, each on one thread: a second thread helps most tests little, and those in a browser wait.
test: .venv/.installed-tests  ## every test; ARGS="-m 'not slow'" for the quick ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/.installed-tests  ## style, types, and whether the declared dependencies are the imported ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry interp app
	$(BIN)/deptry --ignore DEP002,DEP004 tests examples

imports: .venv/.installed-tests  ## which room imports which, in Graphviz's language; ARGS=interp.decomposers for one room
	@$(BIN)/import-linter drawgraph $(or $(ARGS),interp)

# What compares with other tools runs in their environment: SAELens wants another TransformerLens than we do.
bench: .venv/.installed-tests .venv-peers/.installed  ## ratios against the alternatives, measured side by side
	for script in tests/benchmarks/bench_*.py tests/benchmarks/check_*.py; do \
		if grep -q "^from peers import" $$script; then python=.venv-peers/bin/python; else python=$(BIN)/python; fi; \
		PYTHONPATH=. $$python $$script $(ARGS) || exit 1; \
	done

clean:
	rm -rf .venv .venv-peers build dist .pytest_cache .ruff_cache .mypy_cache

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --editable .
	touch $@

.venv/.installed-tests: .venv/.installed
	$(PIP) --editable ".[test,lint]"
	touch $@

# Without their dependencies: dictionary-learning and nnsight ask for plots and diffusion models, overcomplete for vision models,
# sae-dashboard for older versions of most of what is here.
.venv-peers/.installed: tests/benchmarks/constraints-peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	$(PEERS_PIP) torch==2.13.0
	$(PEERS_PIP) sae-lens h5py hdf5plugin msgspec scikit-learn scipy tyro filelock zstandard pillow "python-socketio[client]"
	$(PEERS_PIP) --no-deps dictionary-learning nnsight overcomplete
	$(PEERS_PIP) --no-deps sae-dashboard eindex-callum dataclasses-json marshmallow typing-inspect mypy-extensions
	touch $@
