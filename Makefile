# Two commands matter: `make demo` and `make test`. Both set up what is missing first.
SHELL := /bin/bash
PY := .venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup build abi demo test test-unit check format bench nightly soak lock wheel clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.done ## put everything into .venv, from requirements.lock (hashes checked)

.venv/.done: requirements.lock pyproject.toml scripts/setup.sh
	@scripts/setup.sh
	@touch $@

build: setup ## compile the datapath (bpf/ to build/bpf/)
	@$(PY) scripts/build_bpf.py

abi: setup ## regenerate src/fimbria/datapath/abi.py from bpf/abi.h
	@$(PY) scripts/gen_abi.py

demo: build ## a two-node cluster, a policy, and why a packet was denied; KEEP=1 leaves it up
	@scripts/packages.sh run
	@$(PY) scripts/demo.py $(if $(KEEP),--keep)

test: build ## the whole test suite (root)
	@scripts/packages.sh run test
	@$(PY) -m pytest -p no:cacheprovider $(PYTEST_ARGS)

test-unit: setup ## tests that need no root, without fuzz and properties, in half a minute
	@$(PY) -m pytest -q -m "not root and not slow" -n auto --ignore=tests/property --ignore=tests/fuzz \
	  $(PYTEST_ARGS)

check: setup ## format, lint, types, import layers, generated code
	@$(PY) scripts/check.py

format: setup ## rewrite the sources in the house format
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix -q .

bench: build ## measure; prints tables, writes build/bench.json
	@scripts/packages.sh run
	@$(PY) -m bench $(BENCH_ARGS)

nightly: build ## the slow proofs at full size (1,000,000 cases of three judges, 1,000,000 packets)
	@FIMBRIA_CASES=1000000 $(PY) -m pytest -q tests/property --timeout 3600 $(PYTEST_ARGS)
	@FIMBRIA_TRUTH=full $(PY) -m pytest -q -s tests/lab/test_truth_table.py $(PYTEST_ARGS)
	@FIMBRIA_DEATHS=all $(PY) -m pytest -q tests/unit/agent/test_faults_crash.py $(PYTEST_ARGS)

soak: build ## kill the agent 20 times under load; 100,000 connections beside a flood
	@FIMBRIA_KILLS=20 FIMBRIA_LOAD=full $(PY) -m pytest -q tests/lab/test_nothing_lost.py \
	  tests/lab/test_load.py --timeout 1800 $(PYTEST_ARGS)

lock: ## renew requirements.lock (needs uv)
	@uv pip compile -q pyproject.toml --extra lab --group build --group dev --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements.lock $(LOCK_ARGS)

wheel: build ## dist/*.whl, with the compiled datapath in it
	@$(PY) -m hatchling build -t wheel

clean: ## remove what was built
	@rm -rf build dist .venv
