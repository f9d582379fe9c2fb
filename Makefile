# `make run` starts a broker; `make test` checks everything.  Both make what they
# need in .venv, once: they work on a fresh clone with Python 3.11 or later.

PYTHON ?= python3
# Tests wait, too: one more worker than there are processors.
JOBS ?= $(shell expr $$(nproc) + 1)
BIN := .venv/bin
NPM := $(shell command -v npm || echo ../../$(BIN)/npm)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Without bytecode every worker and every daemon of the tests compiles all of the code anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint types tests quick soak sanitize bench bench-scale docs links changes release release-check clean

run: .venv/.run
	@$(BIN)/twistd -n --pidfile= broker

test: lint types tests

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.test
	$(BIN)/mypy

# What needs neither processes nor Redis nor Node.
quick: .venv/.test
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not processes"

# The tests that kill brokers and Redis at random, look for leaks, or try examples, with all their rounds;
# and the others with garbage collected all the time, which finds what works only until it is collected,
# and all without the accelerator, which has a run of its own with sanitizers.
soak: .venv/.test sanitize
	$(BIN)/python -m pytest -q -n $(JOBS) --soak -m soak
	$(BIN)/python -m pytest -q -n $(JOBS) --collect-often -m "not processes"
	TXBROKER_SPEEDUPS=off $(BIN)/python -m pytest -q -n $(JOBS)

# The accelerator, built with AddressSanitizer and UndefinedBehaviorSanitizer, under its tests and those of frames.
sanitize: .venv/.test
	$(BIN)/python -m tests.speedups.sanitize

# The report comes from all workers; see [tool.coverage] in pyproject.toml.
tests: .venv/.test tests/interop/node_modules/.done
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n $(JOBS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

bench: .venv/.test
	$(BIN)/python -m benchmarks

# How the cost of an operation grows with what there is of connections, topics, events, keys and cursors.
bench-scale: .venv/.test
	$(BIN)/python -m benchmarks.scale $(SCALE)

docs: .venv/.docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# The links between the pages, and from them to other files of this repository.
links: .venv/.docs
	$(BIN)/sphinx-build -q -W --keep-going -b linkcheck docs docs/_build/links

# What the next release will say, from the fragments in changes/.
changes: .venv/.test
	@$(BIN)/towncrier build --draft

# Makes this the version VERSION, with its entry in the changelog; CONTRIBUTING.rst has what comes then.
release: .venv/.test
	@$(BIN)/python -m release.prepare "$(VERSION)"

# Builds the archives of the last commit into dist/, twice, and tries the wheel on each Python that is found.
release-check: .venv/.release
	@$(BIN)/python -m release.check

clean:
	rm -rf .venv tests/interop/node_modules docs/_build build dist *.egg-info .coverage* .hypothesis
	rm -rf examples/pair/node_modules examples/plugin/build
	rm -rf .pytest_cache .mypy_cache .ruff_cache twisted/plugins/dropin.cache

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.run: setup.cfg setup.py pyproject.toml broker/_speedups.c broker/_arenas.c | .venv/bin/pip
	$(BIN)/pip install -q -e .
	@touch $@

.venv/.test: setup.cfg setup.py pyproject.toml broker/_speedups.c broker/_arenas.c | .venv/bin/pip
	$(BIN)/pip install -q -e ".[test,lint]"
	@touch $@ .venv/.run

.venv/.docs: setup.cfg pyproject.toml | .venv/bin/pip
	$(BIN)/pip install -q -e ".[docs]"
	@touch $@

.venv/.release: setup.cfg | .venv/bin/pip
	$(BIN)/pip install -q "build >= 1.2"
	@touch $@

# --ignore-scripts: they would build native helpers that no test uses.
tests/interop/node_modules/.done: tests/interop/package.json tests/interop/package-lock.json | .venv/.test
	cd tests/interop && $(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
