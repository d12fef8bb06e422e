# The ritual: `make` alone lists it. `make setup` has to run once; every other target does it when it is needed.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types format docs pins clean

VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first Python that fits; name another one with `make setup PYTHON=/path/to/python3.12`.
FITS := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python $(FITS) 2>/dev/null && echo $$python && break; done)

# Processes that share the tests among them.
WORKERS ?= 2

# A thread that waits must not burn the core that another program works on: on a busy machine that
# is the difference between seconds and minutes.
demo test: export OMP_WAIT_POLICY ?= passive
demo test: export GOMP_SPINCOUNT ?= 0

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

setup: $(INSTALLED) ## make .venv with everything that is needed here
	@echo "$(VENV) is ready; source $(BIN)/activate makes tanren a command of this shell"

# Nothing is installed again while pyproject.toml and constraints.txt stay as they are. On a
# terminal pip shows what it loads; elsewhere it speaks of errors alone.
$(INSTALLED): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) $(FITS) 2>/dev/null || { \
		echo "tanren needs Python 3.11, 3.12 or 3.13; found: $$($(or $(PYTHON),python3) --version 2>&1 | head -n 1)." >&2; \
		echo "Install one of them, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(BIN)/python $(FITS) 2>/dev/null || \
		$(PYTHON) -m venv $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) $(VENV)
	@echo "installing into $(VENV); the first time takes minutes, most of them for PyTorch"
	@if [ -t 1 ]; then quiet=; else quiet=-qq; fi; \
		$(BIN)/python -m pip install $$quiet --no-input --disable-pip-version-check -c constraints.txt -e '.[dev,eval,compare,data,serve]'
	@touch $@

demo: $(INSTALLED) ## tune the embedded tiny model and compare its answers before and after
	@$(BIN)/tanren train configs/demo.yaml
	@echo
	@echo "Next:"
	@echo "  source $(BIN)/activate         makes tanren a command of this shell"
	@echo "  tanren chat RUN --base             the line 'talk to it' above has the run's name"
	@echo "  tanren check YOUR-CHATS.jsonl      what your own data would be"
	@echo "README.md goes on from here to your own model on a GPU."

test: $(INSTALLED) ## run all tests that need neither a GPU nor minutes (ARGS=--slow: those too)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -rs $(ARGS)

lint: $(INSTALLED) ## check style and format
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { $(BIN)/ruff format --check; exit 1; }
	@echo "lint: clean"

types: $(INSTALLED) ## check types
	@$(BIN)/mypy

format: $(INSTALLED) ## mend style and format where that can be done by itself
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: $(INSTALLED) ## write anew what is made from the code: pages of settings and rules in docs/, memory figures in configs/
	@$(BIN)/python scripts/make_settings_page.py
	@$(BIN)/python scripts/plan_configs.py

# Left out is what differs between machines: the suffix of a CPU build and what PyTorch pins itself.
pins: $(INSTALLED) ## write constraints.txt anew from .venv
	@{ echo "# What \`make setup\` installs; written by \`make pins\`. pyproject.toml has the ranges for users."; \
		$(BIN)/python -m pip freeze --quiet --exclude-editable \
		| grep -v -i -E '^(triton|nvidia-|cuda-|pip|setuptools|wheel)\b' | sed -E 's/\+[a-z0-9]+$$//'; \
	} > constraints.txt.new && mv constraints.txt.new constraints.txt

clean: ## remove caches and build leftovers; .venv and runs stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info train/*.egg-info
	@find scripts tests train -name __pycache__ -type d -prune -exec rm -rf {} +
