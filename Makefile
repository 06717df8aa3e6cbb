# Two commands set a new user up: `make demo` and `make test`. Everything runs in its own environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo test check format test-versions clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/lm_eval --model dynamax-mamba --model_args pretrained=tiny,trace_dir=demo/mamba/traces --tasks dynamax_coqa_sample --batch_size 8 --output_path demo/mamba --log_samples
	$(BIN)/lm_eval --model dynamax-mistral --model_args pretrained=tiny,trace_dir=demo/mistral/traces --tasks dynamax_coqa_sample --batch_size 8 --output_path demo/mistral --log_samples
	$(BIN)/python -m dynamax_lm.report demo --output_path demo/report

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-versions:
	bash scripts/test_versions.sh

clean:
	rm -rf $(VENV) build dist demo
