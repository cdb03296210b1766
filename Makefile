# make demo   the sum reduction against a server, on a fresh machine with Python 3.11+, g++ and make
# make test   the whole test suite
# make check  style, types, import boundaries, deployment files
# make docs   tables in the documentation, renewed from the declarations
# make fuzz   2,000 random formulas through every check; FUZZ_ARGS="--formulas 10 --seed 7" draws those of one seed
# make soak   the tests for faults in their long forms: 100,000 broken requests, 100 killed workers, ten minutes of load
#             and more, for about an hour
# make bench  figures, written to benchmarks/results/: against every peer on the CPU, and through a server;
#             BENCH_ARGS="--sections drawn --seed 7" says which, benchmarks/cpu.py --help lists them
# make bench-peers   pykeops, torch and JAX, which the benchmarks compare with, in a virtual environment of their own
# make bench-faults   how the server fares under faults: memory, recovery, and healthy clients beside slow ones
# make bench-gpu   on a machine with a GPU: the CUDA engine against the peers, in a virtual environment of its own
# make bench-agreement   some 490 formulas by Farfield and by pykeops: every difference with its reason
# make clean  forget the virtual environment

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INPUTS = pyproject.toml constraints.txt
PYTEST_ARGS ?=
FUZZ_ARGS ?=
BENCH_ARGS ?=

.PHONY: demo test soak check docs fuzz bench bench-agreement bench-faults bench-gpu bench-peers clean

demo: $(VENV)/.demo
	$(BIN)/farfield demo examples/sum_reduction.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(PYTEST_ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m pytest tests/faults --soak --timeout 3600 $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/check_deployment.sh
	$(BIN)/python -m pytest tests/docs

docs: $(VENV)/.dev
	$(BIN)/python -m pytest tests/docs --update-golden

fuzz: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m kernels.fuzz $(FUZZ_ARGS)

bench: $(VENV)/.dev bench-peers
	$(BIN)/python benchmarks/cpu.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/limits.py
	$(BIN)/python benchmarks/service.py

bench-agreement: $(VENV)/.dev bench-peers
	$(BIN)/python benchmarks/agreement.py

bench-faults: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python benchmarks/fault_figures.py $(BENCH_ARGS)

bench-gpu: $(VENV)-gpu/.peers
	$(VENV)-gpu/bin/python benchmarks/gpu.py --check --peers ""
	$(VENV)-gpu/bin/python benchmarks/gpu.py $(BENCH_ARGS)

bench-peers: $(VENV)-peers/.peers

clean:
	rm -rf $(VENV) $(VENV)-peers $(VENV)-gpu

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(INPUTS) | $(BIN)/python
	@echo "installing into $(VENV); the first time takes a few minutes"
	$(PIP) --editable ".[torch,server,demo]"
	@touch $@

$(VENV)/.dev: $(INPUTS) | $(BIN)/python
	@echo "installing into $(VENV); the first time takes a few minutes"
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.demo

$(VENV)-peers/.peers: benchmarks/peers/requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/peers/requirements.txt
	@touch $@

$(VENV)-gpu/.peers: pyproject.toml benchmarks/peers/gpu-requirements.txt
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[server,cuda13]" -r benchmarks/peers/gpu-requirements.txt
	@touch $@
