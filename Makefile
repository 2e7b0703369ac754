# Each target sets up all it needs in .venv: Python 3.11 or newer with venv, and PyPI.
PYTHON ?= python3
STAMP := .venv/installed
BIN := $(CURDIR)/.venv/bin
EXAMPLE := resources/example

.PHONY: install run test fuzz lint clean
install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet '.[dev]'
	touch $@

# The bundled example with the bundled model, offline.
run: $(STAMP)
	PATH="$(BIN):$$PATH" snakemake --cores 2 --quiet rules \
	    --directory $(EXAMPLE) --configfile $(EXAMPLE)/config.yaml

test: $(STAMP)
	PATH="$(BIN):$$PATH" pytest

# Mutated files against the index, N of them; a failure names the case that repeats it.
N ?= 100000
SEED ?= 1
fuzz: $(STAMP)
	.venv/bin/python tests/faults/fuzz_index.py --count $(N) --seed $(SEED)

lint: $(STAMP)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	PATH="$(BIN):$$PATH" snakefmt --check Snakefile workflow
	PATH="$(BIN):$$PATH" snakemake --lint

clean:
	rm -rf .venv build *.egg-info
