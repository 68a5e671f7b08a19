# make run: set up and train the tutorial.   make test: set up and pass the tests.
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
READY = $(VENV)/.ready

.PHONY: run test setup
run: setup
	@echo "gdexp: running the main job, python -m gdexp.run"
	@$(VENV)/bin/python -m gdexp.run

test: setup
	@echo "gdexp: running the tests, python -m pytest $(PYTEST_ARGS)"
	@$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gdexp needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "gdexp: installing into $(VENV), once; this takes some minutes"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "gdexp: python3 -m venv failed (Debian: apt-get install python3-venv)"; rm -rf $(VENV); exit 1; }
	@$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[dev]'
	@$(VENV)/bin/python -m gdexp.store prepare
	@touch $(READY)
