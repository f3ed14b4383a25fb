PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SETUP := $(VENV)/.volattn-setup
DEV := $(VENV)/.volattn-dev
DOCS := $(VENV)/.volattn-docs

.PHONY: setup demo test test-all check wheel costs docs format gpu-check gpu-wheels clean

# The package alone; what tests and pictures in 3D need comes with the targets that need it.
setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"volattn needs Python 3.11 to 3.13, found {v[0]}.{v[1]}; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(DEV): $(SETUP)
	$(PIP) -e '.[dev]'
	touch $@

demo: $(SETUP)
	$(BIN)/volattn demo -o demo-out --resume

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The wheel, installed away from the source, with the libraries that are there already.
wheel: $(DEV)
	.ci/wheel $(BIN)/python

# One thread for each of the two processes: on two cores more only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: check wheel
	$(PYTEST) -m "not slow"

# The slow tests too: killed runs, trainings of every model, long simulations.
test-all: check wheel
	$(PYTEST)

# What `volattn info` says of models and recipes; minutes.
costs: $(DEV)
	$(BIN)/python tests/studies/model_costs.py

# The pages, in site/; a broken link or an unknown name is an error. Needs the tools alone, not the package.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(DOCS): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "mkdocs-material>=9.6" "mkdocstrings[python]>=0.29" "ruff>=0.11"
	touch $@

# Tests marked cuda, and what is measured on a GPU: 8 minutes at most, into docs/results/gpu.
gpu-check: $(DEV)
	$(BIN)/python benchmarks/gpu.py -o docs/results/gpu

# For `gpu-check` on a machine with PyTorch and no network (Python 3.12, x86-64); benchmarks/gpu.py says how.
PLATFORMS := manylinux2014_x86_64 manylinux_2_17_x86_64 manylinux_2_24_x86_64 manylinux_2_27_x86_64 manylinux_2_28_x86_64
WHEELS := pydantic pydantic-core annotated-types typing-inspection typing-extensions nibabel blosc2 ndindex numexpr h2 hpack hyperframe connected-components-3d
gpu-wheels:
	$(PYTHON) -m pip download --quiet --disable-pip-version-check -c constraints.txt --no-deps --only-binary=:all: \
		--python-version 3.12 --implementation cp $(PLATFORMS:%=--platform %) -d wheels $(WHEELS)

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-out site wheels
