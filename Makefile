# The words of the project. Each makes .venv itself when it is missing or older than the pins.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BENCH  := $(VENV)/.installed-bench
# LiteLLM's proxy pins what ours does not: the bench starts it from an environment of its own.
LITELLM := $(VENV)-litellm
# Twice the cores that the suite is made for: tests wait for other processes as long as they compute.
PROCESSES ?= 4

.PHONY: demo test cover check bench soak clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)  ## warm a cache with a real worker on embedded servers and ask it questions
	$(BIN)/cache-cli demo

test: $(STAMP)  ## every test
	tools/browser
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal $(ARGS)

cover: $(STAMP)  ## every test, with branch coverage of the package
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal --cov --cov-report=term $(ARGS)

check: $(STAMP)  ## format, lint, types, layers, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	tools/audit

$(BENCH): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	touch $@

$(LITELLM)/.installed: constraints.txt
	$(PYTHON) -m venv $(LITELLM)
	$(LITELLM)/bin/python -m pip install --quiet --disable-pip-version-check "litellm[proxy]==$$(sed -n 's/^litellm==//p' constraints.txt)"
	touch $@

bench: $(BENCH) $(LITELLM)/.installed  ## speed beside other caches in one run; writes the chart and the tables of README and docs
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench --chart --readme

soak: $(STAMP)  ## ten minutes of jobs of every kind while workers, broker and database are hurt; ends with an account; OF=cluster: a replicated cache under composed faults
	$(BIN)/python -m tests.soak$(addprefix .,$(OF)) --minutes 10 $(ARGS)

clean:
	rm -rf $(VENV) $(LITELLM) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
