# Everything runs in .venv, which is made on first use and brought up to date when pyproject.toml or constraints.txt change.
#
#   make demo    render scenes, train, measure, draw: under three minutes after installation
#   make test    every test, the examples and the doctests among them
#   make lint    ruff and mypy
#   make bench   the benchmarks that need no data; their results go to benchmarks/results/
#   make mutants small changes of the mathematics, one at a time, and whether its tests notice: hours
#
# Another Python than python3:  make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test lint bench mutants clean

demo: $(VENV)/demo.stamp
	$(BIN)/lego-fusion demo

test: $(VENV)/all.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(VENV)/all.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/all.stamp
	$(BIN)/lego-fusion bench --all

mutants: $(VENV)/all.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'mutmut>=3.8,<4'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py

clean:
	rm -rf $(VENV) demo-output

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lego-fusion needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) '.[video,text,onnx,report]'
	touch $@

$(VENV)/all.stamp: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) '.[all,dev,oracles]'
	touch $(VENV)/demo.stamp $@
