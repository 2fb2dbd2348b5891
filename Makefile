# Every recipe first installs its requirements (scripts/setup.sh), which is quick if they are present.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

bin := .venv/bin
# `make test` runs only a part of these tests outside of tests/faults.
lost := $(addprefix tests/integration/test_transport_,cluster.py cut.py reconnecting.py)
# An active environment of the user must not interfere.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

##@ Use
.PHONY: demo
demo: setup ## run the demo: three airports learn together over a private RabbitMQ
	@$(bin)/python -m examples.airports.demo

.PHONY: sheets
sheets: setup ## compute a mean over three hospitals' spreadsheets, with a stand-in for Google's
	@$(bin)/python -m examples.sheets.demo

.PHONY: digits
digits: setup ## train on handwritten digits at four silos, and with all rows in one place
	@$(bin)/python -m examples.digits

.PHONY: broker
broker: setup ## run a private RabbitMQ in the foreground, until Ctrl-C
	@$(bin)/fedbroker broker run

##@ Develop
.PHONY: setup
setup: ## install the private .venv and RabbitMQ's server, if they are missing
	@scripts/setup.sh $(also)

# The tests and checks of config/ need more packages.
test check coverage compose screenshots: also := tests

.PHONY: test
test: setup ## run all tests, three files at a time, then the timing tests; ARGS="-k name" chooses
	@scripts/test.sh $(ARGS)

.PHONY: coverage
coverage: setup ## run the tests that need no quiet machine; require the branch coverage that pyproject.toml names
	@COVERAGE_FILE="$(CURDIR)/.cache/coverage" $(bin)/python -m pytest -n 3 --dist loadfile --alone no --cov \
	  --cov-report=term $(ARGS)

.PHONY: unit
unit: setup ## run the tests that need neither broker nor processes
	@$(bin)/python -m pytest tests/unit $(ARGS)

.PHONY: check
check: setup ## check lint, format, types, layers, spelling, commits, deployment, packages, documentation
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/mypy
	@scripts/pyright.sh
	@$(bin)/lint-imports
	@$(bin)/codespell
	@$(bin)/python scripts/commits.py
	@promtool check config config/prometheus/prometheus.yml >/dev/null
	@scripts/check-deploy.sh
	@scripts/audit.sh
	@# The site, in .cache/site. --quiet would hide warnings and not count them either.
	@NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict 2>&1 | sed '/^INFO/d'

.PHONY: types
types: setup ## check types by pyright, strict; ARGS="fedbroker/wire" chooses
	@scripts/pyright.sh $(ARGS)

.PHONY: format
format: setup ## format the code
	@$(bin)/ruff check --fix --quiet || true
	@$(bin)/ruff format

.PHONY: faults
faults: setup ## run the whole fault matrix and a long soak; write docs/faults.md
	@$(bin)/python -m pytest tests/faults $(lost) --faults --soak 500 $(ARGS)

.PHONY: fuzz
fuzz: setup ## fuzz every parser with a million random inputs; ARGS="--seed 2 header" chooses
	@$(bin)/python -m tests.fuzz $(ARGS)

.PHONY: guided
guided: setup ## fuzz every parser with Atheris, guided by coverage; ARGS="header -max_total_time=600" chooses
	@scripts/guided.sh $(ARGS)

.PHONY: programs
programs: setup ## compare N=5000 random programs with TFF and NumPy; SEED=2 makes others, FIRST=3000 continues
	@$(bin)/python -m tests.programs --count $(or $(N),5000) --seed $(or $(SEED),1) --first $(or $(FIRST),0)

.PHONY: compatibility
compatibility: setup ## write docs/compatibility.md from the results of the conformance tests
	@$(bin)/python -m pytest tests/conformance --write-page $(ARGS)

.PHONY: secure
secure: setup ## run all secure sums of the conformance tests, masked and in plaintext, on SILOS=8 silos
	@$(bin)/python -m pytest tests/conformance --secure-silos $(or $(SILOS),8) -k "secure or iblt or histogram or ddp \
	  or map_reduce or forms or hyperloglog" --deselect tests/conformance/test_page.py $(ARGS)

.PHONY: upstream
upstream: setup ## run TFF's own end-to-end tests on a cohort; TFF=a checkout of its v0.87.0
	@$(bin)/python -m tests.upstream "$(TFF)" $(ARGS)

.PHONY: silo-tests
silo-tests: setup ## run the silo's tests without TensorFlow; PYTHON=python3.13 chooses the interpreter
	@PYTHON=$(PYTHON) scripts/silo-tests.sh $(ARGS)

.PHONY: pythons
pythons: setup ## install silos on Python 3.11, 3.12 and 3.13; compare cohorts of them bit by bit
	@$(bin)/python -m tests.mixed pythons

.PHONY: versions
versions: setup ## run silos of an older commit with today's program, and the reverse; OLD=a commit
	@$(bin)/python -m tests.mixed versions "$(OLD)"

.PHONY: screenshots
screenshots: setup ## write screenshots of the board's page, in .cache/screenshots
	@$(bin)/python -m tests.screenshots

.PHONY: compose
compose: setup ## run the stack of compose/ with Docker, without and with TLS; ARGS=--no-build takes images made before
	@$(bin)/python -m tests.compose $(ARGS)

.PHONY: bench
bench: setup ## run the benchmarks, a table each; ARGS="model --json FILE" chooses
	@$(bin)/python -m benchmarks $(ARGS)

.PHONY: bench-quick
bench-quick: setup ## run a smaller set of them, in under three minutes
	@$(bin)/python -m benchmarks --quick $(ARGS)

##@ Maintain
.PHONY: lock
lock: ## update requirements/*.txt; UPGRADE=1 for newer versions
	@UPGRADE=$(UPGRADE) scripts/lock.sh

.PHONY: build
build: setup ## make the directory that installs silos and coordinators, in dist/
	@scripts/build.sh

.PHONY: sbom
sbom: setup ## write the packages of a coordinator and a silo as CycloneDX, in dist/
	@$(bin)/python scripts/sbom.py "$(CURDIR)/dist"

.PHONY: clean
clean: ## remove all files that the recipes made
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## list the recipes
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
