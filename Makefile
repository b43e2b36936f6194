# `make run` shows a portfolio at work, `make test` proves that the house is in order. Both need Python, git and make only.
VENV ?= .venv
ARGS ?=
NB ?=
BIN := $(VENV)/bin
NEEDED := $(shell sed -n 's/^min_python *= *//p' settings.ini)
PACKAGE := $(shell sed -n 's/^lib_path *= *//p' settings.ini)
RECENT = import sys; sys.exit(sys.version_info < tuple(map(int, "$(NEEDED)".split("."))))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(RECENT)' 2>/dev/null && echo $$p && break; done)
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location

.PHONY: help run test lint sync fresh bench edit apply venv
help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##/make \1\t/p' Makefile | expand -t 14

run: $(VENV)/.runtime  ## the portfolio of the bundled sample and its dashboard (ARGS="--speed 5")
	@$(BIN)/portfolio-research run $(ARGS) || [ $$? = 130 ]

test: lint  ## everything that must hold (ARGS="-k hrp")
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest tests --numprocesses 2 --dist loadfile --cov --cov-report term:skip-covered $(ARGS)

lint: $(VENV)/.dev  ## style and types
	@echo "ruff and mypy --strict"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff check --quiet --isolated --select I,E501 --line-length 120 $(PACKAGE)/*/
	@$(BIN)/mypy --strict --no-error-summary $(PACKAGE)

sync: $(VENV)/.dev  ## modules, clean notebooks and README from the notebooks
	@$(BIN)/python tests/house.py sync

fresh: $(VENV)/.dev  ## run all notebooks and store their outputs (ARGS=--check only compares)
	@$(BIN)/python tests/house.py execute $(ARGS)

bench: $(VENV)/.dev  ## how fast the hot paths are
	@for script in tests/benchmarks/*.py; do $(BIN)/python $$script $(ARGS) || exit 1; done

edit: $(VENV)/.dev  ## a notebook as text: make edit NB=12_metrics, then edit .edit/12_metrics.py
	@$(BIN)/python tests/house.py edit $(NB)

apply: $(VENV)/.dev  ## the text back into the notebook, its module and its outputs: make apply NB=12_metrics
	@$(BIN)/python tests/house.py apply $(NB)

venv: $(VENV)/.dev  ## the environment, with everything for development

$(VENV)/.runtime: settings.ini setup.py
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(RECENT)' || { \
		echo "Python $(NEEDED) or newer is needed. Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "environment in $(VENV), with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) >/dev/null || { \
		echo "This Python cannot make an environment; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "installing the package and what it needs (a minute or two)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing what development needs"
	@$(PIP) --editable '.[dev]'
	@git config diff.ipynb.textconv '$(BIN)/jupytext -q --to py:percent -o -' 2>/dev/null || true
	@touch $@
