# Every target makes .venv by itself, with Python 3.12 where there is one (the tested version).
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
PYENV   := $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python $(HOME)/.pyenv/versions/3.13.*/bin/python)
PYTHON  ?= $(shell for p in python3.12 python3.13 python3 $(PYENV); do \
             command -v $$p >/dev/null 2>&1 || continue; \
             $$p -c 'import sys; raise SystemExit(sys.version_info < (3, 12))' 2>/dev/null && { command -v $$p; break; }; done)
# How many processes test side by side; all tests of a file run in one of them. One that crashes is not replaced: by file,
# pytest-xdist would then wait for ever.
JOBS    ?= 2
export HF_HUB_DISABLE_TELEMETRY := 1
# Compiled modules are kept: else each of hundreds of processes, in tests above all, compiles all of ours anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint bench install clean

demo: $(STAMP)
	$(BIN)/roborl demo

test: $(STAMP)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
		--max-worker-restart 0

test-slow: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: $(STAMP)
	$(BIN)/roborl bench all

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "roborl needs Python 3.12 or newer: none on PATH nor in ~/.pyenv/versions. Install one, or call: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) outputs .pytest_cache .mypy_cache .ruff_cache
