# make test sets up all it needs in .venv: Python 3.11 or newer with venv, and PyPI.
PYTHON ?= python3
STAMP := .venv/installed

.PHONY: install test lint clean
install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet '.[dev]'
	touch $@

test: $(STAMP)
	.venv/bin/pytest

lint: $(STAMP)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

clean:
	rm -rf .venv build *.egg-info
