# The first two targets do all the set-up they need, on a fresh Debian 12 or Ubuntu 24.04.
SHELL := /bin/bash
# The order of the tests is random, but the same each time; SEED=$$RANDOM tries another one.
SEED ?= 271828
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help demo test test-full lint bench coverage clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

demo: ## build, push, pull and run the example, command by command
	@scripts/setup demo
	@$(SUDO) scripts/demo

test: ## the tests that CI runs (as root: they make namespaces, mounts and bridges of their own)
	@scripts/setup test
	@echo "random seed $(SEED)"
	@$(SUDO) .venv/bin/python -m pytest --randomly-seed=$(SEED) -m "not peer and not slow" $(ARGS)

test-full: ## all tests: beside installed peers, soaks, kill loops, outside suites
	@scripts/setup full
	@echo "random seed $(SEED)"
	@$(SUDO) .venv/bin/python -m pytest --randomly-seed=$(SEED) $(ARGS)

lint: ## ruff, mypy strict, the layers
	@scripts/setup test
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

coverage: ## line and branch coverage, subprocesses included
	@scripts/setup test
	@$(SUDO) rm -f .coverage .coverage.*
	@$(SUDO) .venv/bin/coverage run -m pytest -m "not peer and not slow" $(ARGS)
	@$(SUDO) .venv/bin/coverage combine -q
	@$(SUDO) .venv/bin/coverage report

bench: ## ratios against the peers installed on this machine, in one run
	@scripts/setup full
	@$(SUDO) .venv/bin/python benchmarks/run.py $(ARGS)

clean: ## remove what the targets made in this folder
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
