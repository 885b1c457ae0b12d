# Every target makes what it needs; calling it again costs next to nothing.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11

SEED ?= 1
N ?= 100000
MINUTES ?= 10
JOBS ?= 2

# What `make mutants` plays with: dotted names, * for any.
MODULE ?= *

.PHONY: help run test sim soak check fmt test-tools lock pictures
.PHONY: bench bench-peers bench-overspend bench-growth bench-ledger bench-pages bench-litellm-env mutants clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run-stamp ## start the gateway (ARGS="..." are passed on to: spendgate serve)
	@exec $(BIN)/spendgate serve $(ARGS)

test: $(VENV)/.dev-stamp test-tools ## all tests, JOBS=2 files at once (ARGS="..." are passed on to pytest)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

pictures: $(VENV)/.dev-stamp ## take the docs' pictures of the pages anew, in the run that tests what they show
	@SPENDGATE_PICTURES=docs/images $(BIN)/python -m pytest tests/browser/test_story.py

sim: $(VENV)/.dev-stamp ## play N=100000 seeds of the simulation from SEED=1; N=1 tells the story of one
	@$(BIN)/python -m tests.simulation.run --seed $(SEED) --count $(N)

soak: $(VENV)/.dev-stamp ## mixed traffic for MINUTES=10 while something breaks every few seconds
	@$(BIN)/python -m tests.soak.run --minutes $(MINUTES)

check: $(VENV)/.dev-stamp ## format, lint, types and import contracts; changes nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fmt: $(VENV)/.dev-stamp ## format, and fix what can be fixed without thinking
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

test-tools: ## install the servers that the tests want and the machine lacks, if that needs no password
	@.ci/setup-test-tools

lock: $(VENV)/.dev-stamp ## choose the newest versions of all dependencies, with their hashes
	@test -x $(BIN)/uv || $(PIP) install uv
	@$(COMPILE) --upgrade --extra dev --extra build pyproject.toml -o requirements-dev.lock
	@$(COMPILE) --upgrade --extra build --extra clickhouse --constraint requirements-dev.lock pyproject.toml -o requirements.lock

bench: $(VENV)/.dev-stamp ## what a gateway adds to a call: Spendgate and its peers (ARGS="--quick", "--only nginx,spendgate")
	@$(BIN)/python -m bench.speed $(ARGS)

bench-peers: $(VENV)/.dev-stamp ## install the gateways to compare with, each into an environment of its own
	@$(BIN)/python -m bench.speed --install $(ARGS)

bench-overspend: $(VENV)/.dev-stamp ## how far a crowd gets beyond a cap (ARGS="--only plain", "--against litellm", ...)
	@$(BIN)/python -m bench.overspend $(ARGS)

bench-growth: $(VENV)/.dev-stamp ## does a call cost the same in a large deployment? (ARGS="--quick", "--only start,soak")
	@$(BIN)/python -m bench.growth $(ARGS)

bench-ledger: $(VENV)/.dev-stamp ## how fast the ledger takes events in and answers (ARGS="--millions 1,10")
	@$(BIN)/python -m bench.ledger $(ARGS)

bench-pages: $(VENV)/.dev-stamp ## how soon the pages are there before a ledger of a million records (ARGS="--records 10000000")
	@$(BIN)/python -m bench.pages $(ARGS)

bench-litellm-env: $(VENV)/.dev-stamp ## install LiteLLM's proxy into an environment of its own, to compare with
	@$(BIN)/python -m bench.overspend --install-litellm

mutants: $(VENV)/.dev-stamp ## break the money code in small ways and see whether a test notices (MODULE="budget.policy*")
	@test -x $(BIN)/mutmut || $(PIP) install 'mutmut>=3.8,<4'
	@set -f; $(BIN)/mutmut run --max-children 2 $(MODULE)
	@$(BIN)/mutmut results

clean: ## remove the environment and all caches; the data in .spendgate stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis mutants
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python that is new enough; PYTHON=... is tried before all others.
$(BIN)/python:
	@for name in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Creating $(VENV) with $$("$$name" --version)"; \
	    exec "$$name" -m venv $(VENV); \
	  fi; \
	done; \
	echo "Spendgate needs Python 3.11 or later; found: $$(python3 --version 2>&1 || true)." >&2; \
	echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
	exit 1

# The lock has hatchling too, so that the project itself is installed without asking an index for anything.
$(VENV)/.run-stamp: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the gateway needs into $(VENV)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev-stamp: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing what development needs into $(VENV)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.run-stamp
