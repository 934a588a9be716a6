# Two commands on a fresh machine: `make quickstart`, `make test`. Everything lives in $(VENV), where modules are compiled
# when they are first imported (--no-compile): most never are.
unexport PYTHONDONTWRITEBYTECODE  # hundreds of processes import the same libraries
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
STORE   ?= ./store
WORKERS ?= 2
RUN     := $(BIN)/python cli.py
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: help quickstart test-fast test test-drawn test-all test-lowest extras lint types contract check docs bench clean

help:
	@echo "make quickstart   environment, bundled episodes, offline labels, rewards, a query"
	@echo "make test         environment with the test tools, then the suite (WORKERS=2, PYTEST_ARGS=…)"
	@echo "make test-fast    what answers within a minute, to run after each change"
	@echo "make test-drawn   three of the tests that take minutes each, others for each commit, as CI runs them"
	@echo "make test-all     the suite and what takes minutes each; every command that the program prints there is run"
	@echo "make test-lowest  the tests with every dependency at its stated minimum, in .venv-lowest"
	@echo "make extras       whether each extra can be installed with the package, by what the registry has today"
	@echo "make check        lint, types, the import contract"
	@echo "make docs         docs/cli.md and docs/api.md from the code, and the site in build/site/html"
	@echo "make bench        the benchmarks behind docs/benchmarks.md"
	@echo "make clean        remove the environment and caches (never the store)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(BIN)/python pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --constraint constraints.txt --editable '.[train,test,dev,docs]'
	@touch $@ $(VENV)/.core

quickstart: $(VENV)/.core
	@PYTHON="$(BIN)/python" STORE="$(STORE)" sh examples/quickstart.sh

# files of the trainers' tests are not even read: to import what trains is half of all that collecting takes
TRAINING = $$(grep -rl --include='*.py' '^pytestmark.*mark\.train' tests | sed 's/^/--ignore=/')

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) -m "not (slow or alone or train or long)" $(TRAINING) $(PYTEST_ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

# what takes minutes each: a few of it, others for each commit, without what installs programs; then all of it
test-drawn: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) -m long -k "not real_servers" --draw 3 --seed "$$(git rev-parse HEAD)" \
		--timeout=1800 $(PYTEST_ARGS)

test-all: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) -m "" --timeout=3600 --run-printed $(PYTEST_ARGS)

# Every dependency at its lowest, in an environment of its own. What kills processes, measures, builds or draws many
# examples does not depend on a library's version.
LOWEST       := .venv-lowest
LOWEST_TESTS ?= -m "not (alone or long)" -k "not kill and not fuzz and not packaging and not learning and not mission"

$(LOWEST)/.test: pyproject.toml constraints.txt tests/fixtures/lowest.py
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python tests/fixtures/lowest.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt \
		--constraint $(LOWEST)/lowest.txt --editable '.[train,qlora,test]'
	@touch $@

test-lowest: $(LOWEST)/.test
	$(LOWEST)/bin/python -m pytest -n $(WORKERS) $(LOWEST_TESTS) $(PYTEST_ARGS)

# an extra may require what the package cannot have: pip says so, or this ends well
extras: $(BIN)/python
	@for extra in $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"])'); do \
		echo "$$extra"; $(PIP) --dry-run --ignore-installed --constraint constraints.txt ".[$$extra]" || exit 1; done

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

contract: $(VENV)/.test
	$(BIN)/lint-imports

check: lint types contract

docs: $(VENV)/.test
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/build_site.py

bench: $(VENV)/.test
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) $(LOWEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
