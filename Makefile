# SPDX-License-Identifier: Apache-2.0
# Every target sets itself up: Python 3.11 to 3.13, make and a package index are all it needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

export PIP_DISABLE_PIP_VERSION_CHECK := 1

NEWEST := 3.3
OLDER := 2.11 3.0 3.1 3.2
# Not released yet, or too new for everything else to be tried on it.
COMING := 3.4
VENV := .venv
BIN := $(VENV)/bin
# What the older versions are asked; the rest of the suite needs the newest Airflow or has nothing to do with Airflow.
COMPAT_TESTS := connection dags hooks operators packaging plugins sensors task triggers
# What needs the newest Airflow is asked what is coming, too: demo and examples in real processes, what kills a task.
NEWEST_TESTS := demo plugins/test_listener.py task
# Quiet in tests: an Airflow home of our own, so that nobody's real configuration or database is touched.
TEST_ENV = AIRFLOW_HOME=$(CURDIR)/.cache/airflow-$(1) AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__CORE__UNIT_TEST_MODE=False \
	SCARF_ANALYTICS=false

.PHONY: help demo ui stop env test lint types unit test-ui format test-all test-released bench chaos crash cluster test-cluster lock docs build clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 18

# One environment for each locked Airflow. The stamp is written last: a broken install is started anew.
define environment
$(1)/.ready: requirements/$(2).txt pyproject.toml
	@python=$$$$(.ci/find-python) && echo "Setting up $(1): $(2) with $$$$python (one to three minutes, once)" \
	    && rm -rf $(1) && "$$$$python" -m venv $(1)
	@$(1)/bin/python -m pip install -qq --no-deps --require-hashes --requirement requirements/$(2).txt
	@$(3)
	@touch $$@
endef
INSTALL_OURSELVES = $(1)/bin/python -m pip install -qq --no-deps --no-build-isolation --editable .

$(eval $(call environment,$(VENV),airflow-$(NEWEST),$(call INSTALL_OURSELVES,$(VENV))))
$(foreach v,$(OLDER) $(COMING),$(eval $(call environment,.venv-$(v),airflow-$(v),$(call INSTALL_OURSELVES,.venv-$(v)))))
$(eval $(call environment,.venv-google,google-provider,true))
$(eval $(call environment,.venv-cluster,cluster,$(call INSTALL_OURSELVES,.venv-cluster)))

demo: $(VENV)/.ready ## Classify a CSV in a real Airflow against the emulator, kill a worker on the way, show the table, stop
	@exec $(BIN)/python -m demo run

ui: $(VENV)/.ready ## The classify example, and Airflow's UI until Ctrl-C; address, runs and connections are kept
	@exec $(BIN)/python -m demo ui

stop: $(VENV)/.ready ## Stop what a killed `make demo` or `make ui` left behind
	@exec $(BIN)/python -m demo stop

env: ## Write .env with fresh secrets for docker-compose.yaml (an existing one is kept)
	@python=$$(.ci/find-python) && "$$python" -m demo.secrets

test: lint types unit ## Lint, types and the whole test suite on the newest Airflow

lint: $(VENV)/.ready ## Ruff: rules and format; import-linter: which room may import which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(VENV)/.ready ## Mypy, strict
	@$(BIN)/mypy

unit: $(VENV)/.ready ## The test suite alone; PYTEST="-k name" narrows it
	@mkdir -p .cache
	@$(call TEST_ENV,$(NEWEST)) $(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST)

test-ui: $(VENV)/.ready ## The page and a whole journey in a browser (part of `make unit`; needs chromium). PICTURES=docs/pictures keeps pictures
	@mkdir -p .cache
	@$(call TEST_ENV,$(NEWEST)) $(BIN)/python -m pytest -rs tests/plugins/page/test_browser.py \
	    tests/plugins/page/test_journey.py $(PYTEST)

# The journey alone, with the Airflow of another environment; the browser is driven from ours. `make test-ui-3.4`
test-ui-%: $(VENV)/.ready .venv-%/.ready
	@mkdir -p .cache
	@$(call TEST_ENV,$(NEWEST)) JOURNEY_PYTHON=$(CURDIR)/.venv-$*/bin/python \
	    $(BIN)/python -m pytest -rs tests/plugins/page/test_journey.py $(PYTEST)

format: $(VENV)/.ready ## Let ruff repair what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test-all: test $(OLDER:%=test-airflow-%) $(COMING:%=test-airflow-%) ## `make test`, then what concerns Airflow on the older versions

test-airflow-%: .venv-%/.ready
	@echo "Airflow $*"
	@mkdir -p .cache && $(call TEST_ENV,$*) .venv-$*/bin/python -m airflow db migrate >.cache/migrate-$*.log 2>&1
	@$(call TEST_ENV,$*) .venv-$*/bin/python -m pytest -n 2 --dist loadgroup -m "not newest_airflow" \
	    $(wildcard $(COMPAT_TESTS:%=tests/%)) $(PYTEST)
	@$(if $(filter $*,$(COMING)),$(call TEST_ENV,$*) .venv-$*/bin/python -m pytest -n 2 --dist loadgroup -m newest_airflow \
	    $(NEWEST_TESTS:%=tests/%) $(PYTEST))

test-released: $(VENV)/.ready ## README's first steps on each Airflow, under the pins it came out with. RELEASED="--only 3.0.6" narrows
	@exec $(BIN)/python -m tests.system.released $(RELEASED)

bench: $(VENV)/.ready .venv-google/.ready ## Measure beside the official provider; writes benchmarks/RESULTS.md. BENCH="--only watching" narrows it
	@exec $(BIN)/python -m benchmarks --google-python .venv-google/bin/python $(BENCH)

chaos: $(VENV)/.ready .venv-google/.ready ## Fault injection, ours and the official provider's; writes tests/system/chaos/RESULTS.md
	@mkdir -p .cache
	@$(call TEST_ENV,$(NEWEST)) exec $(BIN)/python -m tests.system.chaos --google-python .venv-google/bin/python \
	    --results tests/system/chaos/RESULTS.md $(CHAOS)

crash: $(VENV)/.ready ## A real Airflow on PostgreSQL, killed and stalled; needs PostgreSQL's programs. CRASH="--only NAME" narrows
	@exec $(BIN)/python -m tests.system.crash $(CRASH)

# On another Airflow; 3.4 has cases of its own: task loops, clears that keep a task's state. `make crash-3.4`
crash-%: .venv-%/.ready
	@exec .venv-$*/bin/python -m tests.system.crash --state .cache/crash-$* $(CRASH)

# Airflow as people run it, on one machine. Celery's own commands and settings are looked up here, too.
cluster: .venv-cluster/.ready ## Airflow with Celery: two workers, two triggerers, PostgreSQL, Redis; until Ctrl-C
	@exec .venv-cluster/bin/python -m tests.system.cluster run

test-cluster: .venv-cluster/.ready ## Twenty mapped runs there, workers and triggerers killed. CLUSTER="--only waiting" narrows
	@mkdir -p .cache && $(call TEST_ENV,cluster) .venv-cluster/bin/python -m pytest -q tests/system/cluster tests/packaging/test_compose.py
	@exec .venv-cluster/bin/python -m tests.system.cluster test $(CLUSTER)

# Resolved for Python 3.11 to 3.13 on every platform, with hashes and without a word of where it was downloaded from.
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock: $(VENV)/.ready ## Resolve requirements/*.txt anew from pyproject.toml and requirements/*.in
	@$(BIN)/python -m pip install -qq uv
	@$(COMPILE) pyproject.toml --extra tests --extra lint --extra integration \
	    --extra docs requirements/airflow-$(NEWEST).in -o requirements/airflow-$(NEWEST).txt
	@for version in $(OLDER) $(COMING); do \
	    $(COMPILE) pyproject.toml --extra tests requirements/airflow-$$version.in -o requirements/airflow-$$version.txt; done
	@$(COMPILE) requirements/google-provider.in -o requirements/google-provider.txt
	@$(COMPILE) pyproject.toml --extra tests requirements/airflow-$(NEWEST).in requirements/cluster.in \
	    --constraint requirements/airflow-$(NEWEST).txt -o requirements/cluster.txt

docs: $(VENV)/.ready ## The documentation as a site, into build/docs
	@rm -rf build/docs && $(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "Open build/docs/index.html"

build: $(VENV)/.ready ## Wheel and sdist into dist/, checked
	@rm -rf dist && $(BIN)/python -m build --no-isolation && $(BIN)/twine check --strict dist/*

clean: ## Remove environments, caches and what demos left
	@rm -rf .venv .venv-* .demo .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
