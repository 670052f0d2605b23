# The two commands that work on a fresh machine: `make train` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train test test-all install lint types tests slow clean

train: install
	$(BIN)/mtrl train configs/quickstart.yaml

test: install lint types tests

# Everything: minutes of default tests, then learning runs of hours; TEST_ALL_LIMIT ends it.
TEST_ALL_LIMIT ?= 6h
test-all: install lint types
	timeout --foreground $(TEST_ALL_LIMIT) \
	  $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or not slow" --timeout 7200

install: $(STAMP)

$(STAMP): pyproject.toml
	command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed; or: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

tests:
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow:
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .jax_cache
