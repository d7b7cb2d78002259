# make demo: a synthetic cohort through the six verbs.   make test: lint and the whole test suite.
# make docs: references.   make site: the site.   make pictures: those of the README, drawn from the demo.
# make notebooks: runs those of examples/, and keeps what they show.
# make fast: what is tested in a minute and a half, for the hand.
# All set up .venv themselves, on a machine that has Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
unexport PYTHONDONTWRITEBYTECODE  # tests start many processes, and each would compile what it imports

.PHONY: demo fast test lint format docs notebooks site pictures clean

demo: $(VENV)/.installed
	$(BIN)/giga demo demo

test: $(VENV)/.installed-test lint
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

fast: $(VENV)/.installed-test
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not (faults or scripts or browser or dask or s3 or slow)"

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

notebooks: $(VENV)/.installed-test
	$(BIN)/python docs/notebooks.py

pictures: demo
	$(BIN)/python docs/pictures.py demo

# Its notebooks are run, which takes minutes; the tests build it without.
site: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 GIGA_SITE_EXECUTE=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

# torch comes first and pinned: a CPU build of that version is taken where the package index offers one.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) demo dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
