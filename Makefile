# Every target does its own set-up in .venv, and may be called again and again.
#
#   make demo          distil a small graph on this machine: prepare, run, report   (DATA=folder takes your own graph, PREPARE='...' options of prepare)
#   make test          all tests: the next two side by side
#   make test-ray      the tests that start Ray clusters
#   make test-rest     all others: the next one, and those that import Ray
#   make test-core     the tests of everything below Ray, with Ray made unimportable
#   make test-methods  every method in every schedule on both back ends: most of an hour, and not part of `make test`
#   make lint          style, types, and which room may import which
#   make format        rewrite the sources as `make lint` wants them
#   make docs          write docs/configuration.md anew
#   make clean         remove .venv and caches; datasets and runs stay

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

DATA ?= pykeen:umls
PREPARE ?=
ifneq ($(and $(filter demo,$(MAKECMDGOALS)),$(word 2,$(DATA))),)
$(error DATA is '$(DATA)', and make takes no path with spaces: give a link to the folder whose path has none)
endif
# Two folders of one name are two graphs: the name carries a checksum of the whole path.
DEMO_NAME := $(if $(findstring :,$(DATA)),$(subst :,-,$(DATA)),$(notdir $(patsubst %/,%,$(DATA)))-$(firstword $(shell echo '$(DATA)' | cksum)))
DEMO_CONFIG := jobs/configs/demo.yaml
DEMO_DATA := datasets/demo-$(DEMO_NAME)
# A run belongs to one configuration, so a changed demo.yaml gets a run of its own and an unchanged one is gone on with.
DEMO_RUN := runs/demo-$(DEMO_NAME)-$(firstword $(shell cksum < $(DEMO_CONFIG)))

# Tests work on tiny tensors, where more threads only wait for each other.
test test-ray test-rest test-core test-methods: export OMP_NUM_THREADS = 1
test test-ray test-rest test-core test-methods demo: export TOKENIZERS_PARALLELISM = false

.PHONY: demo test test-ray test-rest test-core test-methods lint format docs clean
.DEFAULT_GOAL := test

# torch comes first and at its exact version: a range makes some indexes fetch gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("raydistill needs Python 3.11 or newer; name one with PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	@touch $@

# Preparing again is harmless while the source is the same, and refused when it changed.
demo: $(READY)
	$(BIN)/raydistill prepare '$(DATA)' --out $(DEMO_DATA) $(PREPARE)
	$(BIN)/raydistill run $(DEMO_CONFIG) --set data.path=$(DEMO_DATA) --run-dir $(DEMO_RUN) \
		$$(if ls $(DEMO_RUN)/ledger/*.json >/dev/null 2>&1; then echo --resume; fi)

test: $(READY)
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-ray test-rest

# What starts Ray clusters runs one after another, because they share the machine; it mostly waits, so the rest runs beside it.
test-ray: $(READY)
	$(BIN)/python -m pytest -q -m ray

test-rest: test-core
	$(BIN)/python -m pytest -q -m "needs_ray and not ray"

test-core: $(READY)
	PYTHONPATH=tests $(BIN)/python -m pytest -q -p without_ray

test-methods: $(READY)
	RAYDISTILL_METHODS=1 $(BIN)/python -m pytest -q tests/orchestration/test_every_method.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy raydistill
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python docs/write_configuration.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
