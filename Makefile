# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPU_TORCH := torch==2.13.0
HOST := $(if $(COMFYUI_PATH),$(COMFYUI_PATH),$(wildcard $(HOME)/comfy/ComfyUI))
ARGS ?=

.PHONY: demo test setup setup-host lint test-core test-host quality clean

demo: setup
	$(BIN)/fluxguard demo $(ARGS)

# The two test environments side by side, with one thread each.
test: setup lint setup-host
	@OMP_NUM_THREADS=1 $(BIN)/python scripts/side_by_side.py "core=$(MAKE) test-core" "host=$(MAKE) test-host"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet $(CPU_TORCH) || $(BIN)/pip install --quiet "torch>=2.4"
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/check_types.py

test-core: setup
	$(BIN)/python -m pytest tests/core

# Needs a ComfyUI (COMFYUI_PATH, or ~/comfy/ComfyUI); without one these tests are skipped, and say so.
setup-host: setup
	@if [ -n "$(HOST)" ] && [ ! -f .venv-host/.installed ]; then \
	sh scripts/setup_host_env.sh "$(HOST)" && touch .venv-host/.installed; fi

test-host: setup-host
	@if [ -n "$(HOST)" ]; then export COMFYUI_PATH="$(HOST)"; \
	.venv-host/bin/python -m pytest tests/core/test_golden.py tests/core/test_flow.py tests/core/test_protect.py && \
	PLAYWRIGHT_HOME="$(CURDIR)/.venv-host/browser" .venv-host/bin/python -m pytest tests/host tests/browser; \
	else $(BIN)/python -m pytest tests/host tests/browser -rs || [ $$? -eq 5 ]; fi

# Hours; what is measured stands in the log, and a stopped run goes on from there. The shipped log is the one that
# the README's tables come from, so a run of other weights or settings needs another file.
quality: setup
	$(BIN)/python -m training.mini quality --log docs/measured/quality.jsonl --markdown $(ARGS)

clean:
	rm -rf $(VENV) .venv-host out build dist
