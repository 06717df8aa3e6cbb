# Two commands set a new user up: `make demo` and `make test`. Everything runs in its own environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS := $(VENV)/.docs-installed
BROWSER := $(VENV)/.browser-installed
JOBS ?= 2
EXTRAS ?= dev
# Only what is imported is compiled, when it is: most modules of torch and its like never are.
PIP = $(BIN)/python -m pip install --quiet --no-compile
PINNED = $(PIP) --constraint constraints.txt

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo test test-browser check docs format test-versions clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PINNED) torch
	$(PINNED) --editable '.[$(EXTRAS)]'
	touch $(STAMP)

# Each embedded model with exits at two thresholds, at full depth and at two fixed depths; each setting
# runs by itself, so that the report has the speed of all.
SWEEP = $(BIN)/python -m dynamax_lm.sweep --tasks dynamax_coqa_sample --batch_size 8 --tokens_at_once 0
demo: $(STAMP)
	@echo "demo: three models with five settings each, then a report; about three minutes on two cores"
	$(SWEEP) --model dynamax-mistral --model_args pretrained=tiny,trace_dir=demo/mistral/traces \
	    --thresholds 0.6,0.8 --point mode=full --point exit_rule=fixed_depth,exit_layers=8 \
	    --point exit_rule=fixed_depth,exit_layers=10 \
	    --output_path demo/mistral
	$(SWEEP) --model dynamax-mamba --model_args pretrained=tiny,trace_dir=demo/mamba/traces \
	    --thresholds 0.6,0.8 --point mode=full --point exit_rule=fixed_depth,exit_layers=12 \
	    --point exit_rule=fixed_depth,exit_layers=18 \
	    --output_path demo/mamba
	$(SWEEP) --model dynamax --model_args pretrained=tiny-hybrid,trace_dir=demo/hybrid/traces \
	    --thresholds 0.6,0.8 --point mode=full --point exit_rule=fixed_depth,exit_layers=8 \
	    --point exit_rule=fixed_depth,exit_layers=12 \
	    --output_path demo/hybrid
	$(BIN)/python -m dynamax_lm.report demo --output_path demo/report

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS)

$(BROWSER): $(STAMP)
	$(PINNED) --editable '.[dev,browser]'
	touch $(BROWSER)

# The pages in Chromium, which must be installed, or named in the variable CHROMIUM.
test-browser: $(BROWSER)
	$(BIN)/python -m pytest -n 0 -m browser tests/browser

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(DOCS): $(STAMP)
	$(if $(findstring docs,$(EXTRAS)),,$(PINNED) --editable '.[dev,docs]')
	touch $(DOCS)

# The site in build/site; a link that leads nowhere, or a page without a place, fails it.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "docs: open build/site/index.html"

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-versions:
	bash scripts/test_versions.sh

clean:
	rm -rf $(VENV) build dist demo
