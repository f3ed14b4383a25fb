PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SETUP := $(VENV)/.volattn-setup
DEV := $(VENV)/.volattn-dev
DOCS := $(VENV)/.volattn-docs

.PHONY: setup demo test test-all check wheel costs docs format clean

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

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-out site
