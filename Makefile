# Each target sets up all it needs in .venv: Python 3.11 or newer with venv, and PyPI.
PYTHON ?= python3
STAMP := .venv/installed
BIN := $(CURDIR)/.venv/bin
EXAMPLE := resources/example

.PHONY: install run test test-reruns test-benchmarks test-readers test-browser test-oldest \
    test-slurm fuzz faults bench gpu wheels lint clean
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet '.[dev,slurm]' -c constraints.txt
	touch $@

# The bundled example with the bundled model, offline.
run: $(STAMP)
	PATH="$(BIN):$$PATH" snakemake --cores 2 --quiet rules \
	    --directory $(EXAMPLE) --configfile $(EXAMPLE)/config.yaml

PYTEST := PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 pytest
# Three files of tests at a time, the longest first: most of a test is one thread, or waits.
THREE := -n 3 --dist loadfile --no-loadscope-reorder
RERUNS := tests/workflow/reruns
test: $(STAMP)
	$(PYTEST) $(THREE) --ignore $(RERUNS)

# Whole runs, one after the other: killed, resumed, changed, exported.
test-reruns: $(STAMP)
	$(PYTEST) $(THREE) $(RERUNS)

# The oldest versions that pyproject.toml allows, in an environment of their own.
OLDEST := .venv-oldest/installed
$(OLDEST): pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet '.[dev,slurm]' -c constraints-oldest.txt
	touch $@

test-oldest: $(OLDEST)
	PATH="$(CURDIR)/.venv-oldest/bin:$$PATH" OMP_NUM_THREADS=1 \
	    pytest $(THREE) tests/unit tests/workflow/test_example.py

# Exports read back by other programs, and the page on reading results. Of ProtSpace only the module
# that reads is used, and the many packages that the rest of it needs are left out.
READERS := .venv/installed-readers
$(READERS): $(STAMP)
	.venv/bin/pip install --quiet '.[readers]' -c constraints.txt
	.venv/bin/pip install --quiet --no-deps protspace==4.8.2
	touch $@

test-readers: $(READERS)
	$(PYTEST) tests/readers

# Reports opened in Chromium, which is installed here where it is missing: needs root and Debian.
BROWSER := .venv/installed-browser
$(BROWSER): $(STAMP)
	.venv/bin/pip install --quiet '.[browser,umap]' -c constraints.txt
	touch $@

test-browser: $(BROWSER)
	$(PYTEST) tests/browser
	$(PYTEST) tests/unit/test_report_page.py -k umap

# Runs on a Slurm of one node, which is installed and started here: needs root and Debian. Twenty
# minutes, most of which are spent waiting.
test-slurm: $(STAMP)
	$(PYTEST) tests/slurm --timeout 900 --durations 0

# Mutated files against the index, N of them; a failure names the case that repeats it.
SEED ?= 1
fuzz: N ?= 100000
fuzz: $(STAMP)
	.venv/bin/python tests/faults/fuzz_index.py --count $(N) --seed $(SEED)

# N disturbed stages and W disturbed workflows, J at a time, drawn by SEED: all must end well. A
# quarter of the stages reuse rows, or change the number of shards.
W ?= 40
J ?= 2
faults: N ?= 500
faults: $(STAMP)
	PATH="$(BIN):$$PATH" PYTHONPATH=tests/workflow:workflow/scripts OMP_NUM_THREADS=1 \
	    python tests/faults/harness.py --count $(N) --workflow $(W) --jobs $(J) --seed $(SEED)

# Our worker against its peers: a quarter of an hour on two cores. Its files go to BENCH.
BENCH ?= results/benchmarks
BENCHED := .venv/installed-bench
$(BENCHED): $(STAMP)
	.venv/bin/pip install --quiet '.[bench]' -c constraints.txt
	touch $@

test-benchmarks: $(BENCHED)
	$(PYTEST) tests/benchmarks

bench: $(BENCHED)
	.venv/bin/python benchmarks/speed.py --shape t6_8M --every 10 --json $(BENCH)/t6_8M.json
	.venv/bin/python benchmarks/speed.py --shape t12_35M --every 20 --json $(BENCH)/t12_35M.json
	.venv/bin/python benchmarks/plot.py $(BENCH)/t6_8M.json $(BENCH)/t12_35M.json \
	    -o $(BENCH)/speed.png

# One PART of what a GPU shows, in three minutes: tests, speed, attention, peers, bits or large. Needs
# no network and no .venv: it runs with the packages of PYTHON, and those in .wheels if there are any.
PART ?= speed
GPU_OPTIONS = $(if $(SHAPES),--shapes $(SHAPES)) $(if $(FASTA),--fasta $(FASTA)) \
    $(if $(ONLY),--only $(ONLY)) $(if $(RESULTS),--results $(RESULTS)) $(if $(DEVICE),--device $(DEVICE))
gpu:
	$(PYTHON) benchmarks/gpu.py --part $(PART) $(GPU_OPTIONS)

# What a Python with PyTorch and transformers may lack, for Linux on x86-64 and WHEELS_PYTHON.
WHEELS := backports.zstd fair-esm
WHEELS_PYTHON ?= 3.12
wheels:
	rm -rf .wheels
	$(PYTHON) -m pip download --quiet --dest .wheels --no-deps --only-binary=:all: \
	    --implementation cp --python-version $(WHEELS_PYTHON) --platform manylinux_2_28_x86_64 \
	    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	    --constraint constraints.txt $(WHEELS)

lint: $(STAMP)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	PATH="$(BIN):$$PATH" snakefmt --check Snakefile workflow
	PATH="$(BIN):$$PATH" snakemake --lint

clean:
	rm -rf .venv .venv-oldest build *.egg-info
