# The commands of this repository; `make` alone lists them. Needs GNU make and Python 3.11 or newer.

PYTHON ?= python3
PROFILE ?= quick

BIN := .venv/bin
INSTALLED := .venv/.installed
TESTABLE := .venv/.testable
PROFILES := $(patsubst params/%/,%,$(wildcard params/*/))
NOTEBOOKS := $(wildcard book/*.ipynb book/*/*.ipynb)

# Threads that wait shall sleep: on a machine that does other work, spinning ones made training three times slower.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help book test lint reference release clean profile

help: ## list the commands
	@echo "make COMMAND [PROFILE=$(PROFILE)] [PYTHON=$(PYTHON)]"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14
	@echo "profiles: $(PROFILES)"
	@echo "released reads the study's own networks, once they are converted: book/reference/released.md"

book: profile $(INSTALLED) ## execute the chapters that have changed, and build the pages
	@$(BIN)/python -m nwslib.book make --profile $(PROFILE)

test: lint ## lint, and run every test: the examples in the library and the whole smoke book too
	@# A process on each core, of one thread; the smoke book takes longest and comes first; one file's tests share.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --doctest-modules tests/test_smoke_book.py nwslib tests

lint: $(TESTABLE) ## check code, notebooks and parameter files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify --keep-id $(NOTEBOOKS))
	$(BIN)/python -m nwslib.book check

reference: ## make the reference book and archive its results in results/reference
	@$(MAKE) --no-print-directory book PROFILE=reference
	mkdir -p results/reference
	cp _run/reference/results/*.nc results/reference/

# Population and length of the design are those of the profile's parameters.
release: profile $(INSTALLED) ## pack the population that `make book` trained for a data repository
	@folder=$$(sed -n 's/^population_folder: *//p' params/$(PROFILE)/population.yaml); \
	if test -d "$$folder"; then \
	  $(BIN)/python -m nwslib.snapshots release "$$folder" "_run/$(PROFILE)/release/$${folder##*/}" \
	    --rows $$(sed -n 's/^networks: *//p' params/$(PROFILE)/population.yaml) $(RELEASE); \
	else \
	  echo "error: there is no population in $$folder yet; make it: make book PROFILE=$(PROFILE)"; exit 1; \
	fi

clean: ## remove what was built and executed; trained populations stay in _run
	rm -rf $(foreach part,book failed html html.old kernel site stage working build.log,_run/*/$(part))
	rm -rf .pytest_cache .ruff_cache

# Before the installation, which takes a minute: a mistyped profile is told at once.
profile:
	$(if $(filter $(PROFILE),$(PROFILES)),,$(error unknown profile '$(PROFILE)'. Known: $(PROFILES)))

# The constraints keep the versions that are known to work together. pip takes a CPU build of torch where an index that
# it knows has one; without a GPU that saves most of the download.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "error: there is no $(PYTHON); choose one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, not $$($(PYTHON) --version); choose one: make PYTHON=python3.12"; exit 1; }
	@echo "installing into .venv: some 0.5 GB to download with a CPU build of torch, 3 GB with a CUDA build"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book]'
	@touch $@

$(TESTABLE): $(INSTALLED)
	@echo "installing what the tests need: some 0.3 GB to download"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@
