# Everything a reader or CI runs. `make test` and `make demo` need nothing but Python 3.11 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test slow-test gpu-test check notebooks bench clean
.DELETE_ON_ERROR:

# --- the environment: made once, and again when a pinned version or a package's dependencies change ---------------

$(INSTALLED): constraints.txt requirements-dev.txt $(wildcard packages/*/pyproject.toml)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, '$(PYTHON)' is not; say which: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements-dev.txt
	touch $@

# --- tests and checks -------------------------------------------------------------------------------------------------

test: $(INSTALLED)
	$(BIN)/pytest

slow-test: $(INSTALLED)
	$(BIN)/pytest -m "slow and not gpu"

gpu-test: $(INSTALLED)
	$(BIN)/pytest -m gpu

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

notebooks: $(INSTALLED)
	$(BIN)/pytest --nbmake --nbmake-timeout=600 --override-ini=addopts= notebooks

bench: $(INSTALLED)
	for script in benchmarks/[a-z]*.py; do echo "== $$script" && $(BIN)/python "$$script" || exit 1; done

# --- the demo: data, then the arms side by side, then one report -------------------------------------------------------

DEMO ?= outputs/demo
MINUTES ?= 8
PROMPTS ?= 312
ARMS := single_pass text_plan process

demo: $(INSTALLED)
	@echo "the demo recipe is not written yet"; exit 1

clean:
	rm -rf outputs multirun .pytest_cache .ruff_cache .import_linter_cache .hypothesis
