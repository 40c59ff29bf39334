# One command each, on a machine with nothing but Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
FLWR_1_41 := .venv-flwr-1.41

.PHONY: demo test test-flwr-1.41 lint clean

demo: $(READY)
	$(VENV)/bin/fl-market compare --engine simulation --arms siloed,fedavg,market,market-priced --out runs/demo --overwrite

# three processes for two cores, since real federations wait much; each computes on one thread
test test-flwr-1.41: export OMP_NUM_THREADS := 1

test: $(READY)
	$(VENV)/bin/pytest -n 3 --dist worksteal

test-flwr-1.41: $(FLWR_1_41)/.ready
	$(FLWR_1_41)/bin/pytest -n 3 --dist worksteal -m flower

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# torch comes first: whatever depends on it must find the pinned one
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fl-market needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,bench,datasets,postgresql]'
	touch $@

# the same pins, but for Flower and for what it pins itself
$(FLWR_1_41)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(FLWR_1_41)
	grep -E '^(torch|torchvision|numpy|scipy|ray|sqlalchemy|hypothesis|pytest)==' constraints.txt > $(FLWR_1_41)/constraints.txt
	$(FLWR_1_41)/bin/pip install --quiet --constraint $(FLWR_1_41)/constraints.txt torch
	$(FLWR_1_41)/bin/pip install --quiet --constraint $(FLWR_1_41)/constraints.txt 'flwr[simulation]==1.41.0' --editable '.[dev,postgresql]'
	touch $@

clean:
	rm -rf $(VENV) $(FLWR_1_41) runs
