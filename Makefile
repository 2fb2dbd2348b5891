# Every recipe sets up what it needs first (scripts/setup.sh): quick when it is all there.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

bin := .venv/bin
# Tests outside of tests/faults of which `make test` takes a part only.
lost := $(addprefix tests/integration/test_transport_,cluster.py cut.py link.py)
# An environment that happens to be active is none of ours.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

##@ Use
.PHONY: demo
demo: setup ## three airports learn together over a private RabbitMQ
	@$(bin)/python -m examples.airports.demo

.PHONY: sheets
sheets: setup ## three hospitals compute a mean over spreadsheets, with a stand-in for Google's
	@$(bin)/python -m examples.sheets.demo

.PHONY: broker
broker: setup ## a private RabbitMQ in the foreground, until Ctrl-C
	@$(bin)/fedbroker broker run

##@ Develop
.PHONY: setup
setup: ## the private .venv and RabbitMQ's server, if they are not there
	@scripts/setup.sh $(also)

# What the tests and checks of config/ need beside.
test check: also := tests

.PHONY: test
test: setup ## the whole test suite, three files at a time, then what measures time; ARGS="-k name" chooses
	@scripts/test.sh $(ARGS)

.PHONY: unit
unit: setup ## the tests that need neither broker nor processes
	@$(bin)/python -m pytest tests/unit $(ARGS)

.PHONY: check
check: setup ## lint, format, types, layers, words, commits, deployment, security of code and packages, the documentation
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/mypy
	@$(bin)/lint-imports
	@$(bin)/codespell
	@$(bin)/python scripts/commits.py
	@promtool check config config/prometheus/prometheus.yml >/dev/null
	@scripts/check-deploy.sh
	@scripts/audit.sh
	@# The site, in .cache/site; --quiet would not only say nothing of warnings, but not count them either.
	@NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict 2>&1 | sed '/^INFO/d'

.PHONY: format
format: setup ## put the code into shape
	@$(bin)/ruff check --fix --quiet || true
	@$(bin)/ruff format

.PHONY: faults
faults: setup ## the whole fault matrix and a long soak; writes docs/faults.md
	@$(bin)/python -m pytest tests/faults $(lost) --faults --soak 500 $(ARGS)

.PHONY: fuzz
fuzz: setup ## a million inputs that nobody can mean, at whatever reads other people's bytes; ARGS="--seed 2 header" chooses
	@$(bin)/python -m tests.fuzz $(ARGS)

.PHONY: guided
guided: setup ## the same by Atheris, led by what inputs reach; ARGS="header -max_total_time=600" chooses
	@scripts/guided.sh $(ARGS)

.PHONY: compatibility
compatibility: setup ## write docs/compatibility.md from what the conformance tests find
	@$(bin)/python -m pytest tests/conformance --write-page $(ARGS)

.PHONY: upstream
upstream: setup ## TFF's own end-to-end tests on a cohort; TFF=a checkout of its v0.87.0
	@$(bin)/python -m tests.upstream "$(TFF)" $(ARGS)

.PHONY: bench
bench: setup ## the benchmarks, a table each; ARGS="model --json FILE" chooses
	@$(bin)/python -m benchmarks $(ARGS)

.PHONY: bench-quick
bench-quick: setup ## a smaller set of them, in under three minutes
	@$(bin)/python -m benchmarks --quick $(ARGS)

##@ Maintain
.PHONY: lock
lock: ## write requirements/*.txt anew; UPGRADE=1 for newer versions
	@UPGRADE=$(UPGRADE) scripts/lock.sh

.PHONY: build
build: setup ## wheels of both distributions, in dist/
	@$(bin)/hatchling build -t wheel -d "$(CURDIR)/dist"
	@cd workers && ../$(bin)/hatchling build -t wheel -d "$(CURDIR)/dist"

.PHONY: sbom
sbom: setup ## what a coordinator and a silo are made of, as CycloneDX, in dist/
	@$(bin)/python scripts/sbom.py "$(CURDIR)/dist"

.PHONY: clean
clean: ## remove all that the recipes made here
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
