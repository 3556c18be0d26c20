# Two commands matter: `make demo` (the main job) and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all verify-trial check setup clean

# Torch comes first and alone: the pinned version is the CPU build where one is offered.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[report,test,dev]'
	touch $@

setup: $(VENV)/.installed

demo: setup
	$(BIN)/python sweeps/run.py tsec_ratio --demo

test: setup
	$(BIN)/pytest -m "not slow" -q -n 2 --dist loadfile

test-all: setup
	$(BIN)/pytest -q -n 2 --dist loadfile

# T is a run directory: make verify-trial T=results/tsec_ratio/0123456789ab-s0
verify-trial: setup
	$(BIN)/python -m saei.verify $(or $(T),$(error T=results/SWEEP/TRIAL is missing))

check: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

clean:
	rm -rf $(VENV) build *.egg-info
