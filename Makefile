PYTHON ?= python3
VENV ?= .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
# More at a time would starve the jobs that tests start, which have to answer in time.
TESTS_AT_ONCE ?= 2
STAMP := $(VENV)/.napari-mlbseg-installed

.PHONY: help install demo test lint docs bench

help:  ## Show what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## Install into .venv, with napari, Qt and the tools for development

$(STAMP): setup.cfg pyproject.toml constraints.txt scripts/install_system_libraries.sh
	bash scripts/install_system_libraries.sh
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[all,samples,dev]"
	touch $@

demo: install  ## Train on a generated phantom in napari; without a display, leave screenshots in demo-output
	$(BIN)/napari-mlbseg demo

test: install  ## Check the import rules, then run the tests, fast ones first
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile -m "not slow and not gui and not real_data"
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile -m "slow or gui or real_data"

lint: install  ## Check style, spelling, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install  ## Build the documentation; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: install  ## Measure speed and accuracy (reads the folder in MLBSEG_LA_DIR)
	$(BIN)/python -m benchmarks
