# Everything a newcomer needs: `make demo`, `make test`, `make ui`. Each installs what it needs on its first call.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SOURCE ?=
PROFILE ?= $(if $(SOURCE),own,tiny)

export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export BENTOML_DO_NOT_TRACK := True
export HF_HUB_OFFLINE := 1

.PHONY: demo test lint ui platform learn bench-serving install clean help

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ -/'

demo: $(READY)   ## raw video to a served clip on two CPU cores; SOURCE=DIR (or s3://...) uses your own files
	@$(BIN)/ovi demo --profile $(PROFILE) $(if $(SOURCE),--set 'corpus.source=$(if $(findstring ://,$(SOURCE)),$(SOURCE),$(abspath $(SOURCE)))')

test: lint       ## formatting, types, import rules, then every test
	@$(BIN)/pytest -n 2 --dist loadfile

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

ui: $(READY)     ## the MLflow and Prefect pages of this clone, until Ctrl-C
	@$(BIN)/ovi ui

platform: $(READY)  ## those pages and a worker that runs what prefect.yaml deploys, until Ctrl-C
	@$(BIN)/ovi platform

bench-serving: $(READY)  ## does the service keep its promises (half an hour; ARGS=--long for the long soak)
	@$(BIN)/python -m benchmarks.serving $(ARGS)

learn: $(READY)  ## does fusion learn synchronisation, and what of the recipe matters (forty minutes on two cores; ARGS=--minutes=5)
	@$(BIN)/python benchmarks/learn.py $(ARGS)

install: $(READY)

clean:           ## forget every result (not the environment)
	rm -rf data models checkpoints out dvc.lock .dvc/cache .dvc/tmp

# Two steps: torch first, from wherever pip finds it (a CPU build stays a CPU build), then uv for the other pins.
# Bytecode is compiled here, once: every stage of the pipeline is a process that imports a good part of it.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "make: this Python has no venv module; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into .venv (about two minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv torch
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode -c constraints.txt -e '.[train,flows,serve,dev]'
	@touch $@
