# make install, make demo, make test: everything a fresh machine needs, in a .venv beside this file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet
# PyTorch for CUDA where an NVIDIA GPU answers. Elsewhere its CPU build, which has a version of its own:
# from wherever pip is told to look, else from PyTorch's index (the usual one has gigabytes of CUDA).
CPU_TORCH := $(PIP) "torch==2.13.0+cpu" 2>/dev/null \
	|| $(PIP) --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0"
GPU_TORCH := $(PIP) "torch>=2.6,<2.14"
# Each of the tests' processes has its own database and peers; a module's tests share theirs. One more
# than two cores: many tests wait, for a limit of time or a node that starts.
# In the order of their folders: the long ones (faults) would come last otherwise, and alone.
TEST_PROCESSES ?= 3

.PHONY: install demo test faults soak check format lint types layers coverage clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	if nvidia-smi >/dev/null 2>&1; then $(GPU_TORCH); else $(CPU_TORCH); fi
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/vald-node demo --out demo-out

test: install
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder

# the node killed at every step and at 200 random moments, on every kind of database: hours.
# Less of it: VALD_MOMENTS=50, VALD_ARRIVALS=1, VALD_LONGEST_PAUSE_S=20 (docs/durability.md)
faults: install
	VALD_TESTS_MUST_RUN=1 VALD_FAULTS=long $(BIN)/python -m pytest tests/faults -v -s

# half an hour of steady load: memory, file handles and threads stay flat
soak: install
	VALD_TESTS_MUST_RUN=1 VALD_SOAK_MINUTES=30 $(BIN)/python -m pytest tests/faults/test_soak.py -v -s

# format, lint, types, layers, tests with branch coverage
check: format lint types layers coverage

format: install
	$(BIN)/ruff format --check .

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

layers: install
	$(BIN)/lint-imports

coverage: install
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

clean:
	rm -rf $(VENV) demo-out build dist .coverage* .mypy_cache .ruff_cache .pytest_cache
