# Every target sets up what it needs first: .venv, with the versions of constraints.txt.
PYTHON ?= python3
RUN ?=
AGAINST ?=
SPLIT ?=
SPACE ?=
DEPTHS ?= $(if $(value OVER),,8 10 11 12)
OVER ?=
SEEDS ?=
TRIALS ?= 20
FOLDS ?= 5
sweep: CONFIG ?= configs/sweep.yaml
tune: CONFIG ?= configs/tune.yaml
audit: CONFIG ?= configs/audit.yaml
check-data: CONFIG ?= configs/demo.yaml
KILLS ?= 200
VENV := .venv
BIN := $(VENV)/bin

# A variable's value as it was typed, in quotes: one word of the shell, whatever is in it.
quoted = '$(subst ','\'',$(value $(1)))'
# Numbers, each of them so.
listed = $(foreach each,$(1),'$(subst ','\'',$(each))')

.DEFAULT_GOAL := help
.PHONY: help setup demo train eval predict sweep tune audit check-data export app cache clean-cache bench bench-scale test torture lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.ready ## install the recipe and its tools into .venv

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready ## train on the embedded data and model (under two minutes on two cores)
	$(BIN)/python run_freeze.py configs/demo.yaml

train: $(VENV)/.ready ## train bert-base-chinese on AFQMC, both from the Hub
	$(BIN)/python run_freeze.py configs/afqmc.yaml

eval: $(VENV)/.ready ## score a saved model on its validation split (RUN=outputs/..., else the newest; AGAINST=outputs/...)
	$(BIN)/python run_freeze.py --do_eval $(if $(value RUN),--model_name_or_path $(call quoted,RUN)) $(if $(value AGAINST),--against $(call quoted,AGAINST))

predict: $(VENV)/.ready ## answer the test split: predictions.jsonl, and CLUE's submission file (RUN=outputs/...)
	$(BIN)/python run_freeze.py --do_predict $(if $(value RUN),--model_name_or_path $(call quoted,RUN))

sweep: $(VENV)/.ready ## settings compared by paired seeds, on the demo (CONFIG=..., DEPTHS="8 10 12", OVER="flag=a,b ...", SEEDS="42 43")
	$(BIN)/python -m recipe.studies.sweep $(call quoted,CONFIG) $(if $(value OVER),--over=$(call quoted,OVER)) $(if $(DEPTHS),--depths $(call listed,$(DEPTHS))) $(if $(SEEDS),--seeds $(call listed,$(SEEDS)))

tune: $(VENV)/.ready ## search for rate, epochs, weight decay and warm-up, on the demo (or CONFIG=..., TRIALS=20)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[tune]'
	$(BIN)/python -m recipe.tuning.tune $(call quoted,CONFIG) --trials $(call listed,$(TRIALS))

audit: $(VENV)/.ready ## training labels that one should not trust, on the demo (or CONFIG=..., FOLDS=5)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[audit]'
	$(BIN)/python -m recipe.studies.audit $(call quoted,CONFIG) --folds $(call listed,$(FOLDS))

check-data: $(VENV)/.ready ## labels, lengths and repeats of a run's data, its cache (CONFIG=...; SPLIT=0.1 makes a validation split)
	$(BIN)/python -m recipe.commands.check_data $(call quoted,CONFIG) $(if $(SPLIT),--split $(call listed,$(SPLIT)))

export: $(VENV)/.ready ## a saved model as ONNX, checked on real pairs (RUN=outputs/..., the newest when not named)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[onnx]'
	$(BIN)/python -m recipe.serving.export $(if $(value RUN),--model_name_or_path $(call quoted,RUN))

app: $(VENV)/.ready ## a saved model in the browser, on http://127.0.0.1:7860 (RUN=outputs/..., else the newest); SPACE=FOLDER writes it as a Space
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[app]'
	$(BIN)/python -m recipe.serving.app $(if $(value RUN),--model_name_or_path $(call quoted,RUN)) $(if $(value SPACE),--space $(call quoted,SPACE))

cache: $(VENV)/.ready ## list the prefix caches and their sizes
	$(BIN)/python -m recipe.commands.prefix_cache list

clean-cache: $(VENV)/.ready ## remove them
	$(BIN)/python -m recipe.commands.prefix_cache prune

bench: $(VENV)/.ready ## the recipe beside its peers: table, chart, benchmarks/results.json (ten minutes on two quiet cores)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.bench

bench-scale: $(VENV)/.ready ## rows against seconds and memory, two ranks against one (half an hour on two cores)
	$(BIN)/python -m benchmarks.scale

test: $(VENV)/.ready ## run the tests
	$(BIN)/python -m pytest

torture: $(VENV)/.ready ## kill the demo's run at random times (KILLS=200) and at every file operation of a tiny one
	$(BIN)/python -m tests.kill_points
	$(BIN)/python -m tests.torture $(call listed,$(KILLS))

lint: $(VENV)/.ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove .venv and everything that runs have written to outputs/
	rm -rf $(VENV) outputs
