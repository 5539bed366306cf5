# Each target works on a fresh clone: it makes .venv on the first run and again when its inputs change.
# Options go through ARGS:  make search ARGS="--seed 1"   make test ARGS="-m slow"
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: search test bench lint venv clean help

search: $(READY)  ## evolve optimizers (options in ARGS)
	$(BIN)/stepsmith search $(ARGS)

# One thread per worker: the workers fill the cores, and the numbers do not depend on how many there are. A file stays
# with one worker, which makes its fixtures (a search, a cluster, a clone) once; tests/conftest.py orders the files.
test: lint  ## lint, types and tests (pytest options in ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=30 $(ARGS)

bench: $(READY)  ## measure (options in ARGS)
	$(BIN)/python benchmarks/run.py $(ARGS)

lint: $(READY) .typing/stepsmith  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

venv: $(READY)  ## only make .venv

clean:  ## remove .venv, caches and build leftovers; runs stay
	rm -rf $(VENV) .typing .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Stepsmith needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# mypy names modules by their path, and the root folder may be called anything.
.typing/stepsmith:
	@mkdir -p .typing
	@ln -s .. $@
