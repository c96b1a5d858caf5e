# Every target creates .venv by itself when it is absent or older than pyproject.toml.
# uv is used when it can be installed (seconds); otherwise pip (minutes). Both read the same pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs

.PHONY: demo test test-slow test-faults docs docs-output check clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"mor-sweep needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	if $(BIN)/python -m pip install --quiet uv; then \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-}}" VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --compile-bytecode --group dev -e . ; \
	else \
	  $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' && $(BIN)/python -m pip install --quiet --group dev -e . ; \
	fi
	touch $@

## The whole tool on a small budget: plan, train on Ray, mirror to MLflow, fit, draw. `make demo BUDGETS=2e10` takes a
## tenth of the time, and fits nothing: an exponent needs three budgets.
demo: $(READY)
	$(BIN)/mor-sweep isoflop --preset cpu --yes $(if $(BUDGETS),--budgets $(BUDGETS))
	$(BIN)/mor-sweep fit || [ $$? -eq 5 ]  # 5: the fit refuses, in words; the figures say so too
	$(BIN)/mor-sweep plot isoflop || [ $$? -eq 5 ]
	$(BIN)/mor-sweep plot frontier || [ $$? -eq 5 ]

## The default tests in a random order, whose seed is printed; `make test SEED=1` takes that order again.
test: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(if $(SEED),--randomly-seed=$(SEED))

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m slow

## Every fault that a sweep must survive, made on purpose; one line a case, with its figures. They go to
## tests/faults/last.json and the table of docs/reliability.md too. `make test-faults CASES=tests/faults/test_disk.py`
## makes some, and leaves what is on file of the others.
test-faults: $(READY)
	$(BIN)/python -m pytest -q -m faults $(CASES); code=$$?; $(BIN)/python -m docs.make_reliability && exit $$code

$(DOCS_READY): $(READY)
	if [ -x $(BIN)/uv ]; then \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-}}" VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --group docs ; \
	else \
	  $(BIN)/python -m pip install --quiet --group docs ; \
	fi
	touch $@

## The pages of docs/ and the reference made from the code, as a site in site/; a dead link ends it.
docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

## Run what pages show and write the output into them. By default what is marked `demo`, on a copy of the results of
## `make demo`, or of RESULTS; FENCES=table and FENCES=sweep do it for the others, PAGES="docs/quickstart.md" for some.
docs-output: $(READY)
	$(BIN)/python -m docs.shown_commands $(or $(FENCES),demo) $(PAGES) $(if $(RESULTS),--results $(RESULTS))

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python .ci/rooms

clean:
	rm -rf $(VENV) site
