# What a developer runs; README and .ci/run call these targets. Another environment: make test VENV=/path/to/it
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: setup check test test-all facts notebooks

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

test: setup
	$(BIN)/python -m pytest

# what `test` leaves out: the full grid of families and pipelines, many more examples, and what takes minutes; with every
# annotated shape and type checked, which costs a third of the time
test-all: setup
	$(BIN)/python -m pytest --jaxtyping-packages=tokenlab,beartype.beartype --hypothesis-profile=matrix \
		-m 'matrix or hypothesis or slow'

# what `tokenlab compressors` and `tokenlab models` list, and the page of docs; tests keep them fresh
facts: setup
	$(BIN)/python -m tests.compressors.facts
	$(BIN)/python -m tests.models.facts

# runs every notebook and keeps its outputs
notebooks: setup
	$(BIN)/python -m tests.notebooks
