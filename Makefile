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

# Each arm reads the same shards in its own way, trains for the same time on a core of its own, and draws the same held-out
# prompts. Two jobs run at any time, so that no arm has the machine to itself. What is done is not done again: an
# interrupted demo goes on, a changed one wants another folder (make demo DEMO=outputs/other ...).

DEMO ?= outputs/demo
MINUTES ?= 8
PROMPTS ?= 312
PLAN ?= relational
ARMS := process single_pass text_plan no_critique
SHOWN := single_pass text_plan no_critique process
comma := ,
READS_process := strategy=process
READS_single_pass := strategy=single_pass
READS_text_plan := strategy=text_plan
READS_no_critique := strategy=process ablation=no_critique
LIGHTNING := OMP_NUM_THREADS=1 $(BIN)/lightning

demo: $(INSTALLED)
	@$(MAKE) --no-print-directory --jobs=2 $(DEMO)/report/report.html
	@echo "report:        $(DEMO)/report/report.html"
	@echo "contact sheet: $(DEMO)/report/contact_sheet.png"

$(DEMO)/data/manifest.json:
	$(LIGHTNING) build out=$(DEMO)/data subset.drawing.plan=$(PLAN)

$(DEMO)/%/model/ema.safetensors: $(DEMO)/data/manifest.json
	$(LIGHTNING) fit out=$(DEMO)/$* $(READS_$*) data.folder=$(DEMO)/data trainer.max_steps=-1 'trainer.max_time={minutes: $(MINUTES)}'

$(DEMO)/%/verdicts.jsonl: $(DEMO)/%/model/ema.safetensors
	$(LIGHTNING) predict out=$(DEMO)/$* sampler.folder=$(DEMO)/$*/model benchmark.prompts_per_kind=$$(( $(PROMPTS) / 6 ))
	$(LIGHTNING) test out=$(DEMO)/$*

$(DEMO)/report/report.html: $(ARMS:%=$(DEMO)/%/verdicts.jsonl)
	$(LIGHTNING) report 'runs={$(subst $() ,$(comma),$(foreach arm,$(SHOWN),$(arm):$(DEMO)/$(arm)))}' out=$(DEMO)/report

.PRECIOUS: $(DEMO)/%/model/ema.safetensors $(DEMO)/%/verdicts.jsonl

clean:
	rm -rf outputs multirun .pytest_cache .ruff_cache .import_linter_cache .hypothesis
