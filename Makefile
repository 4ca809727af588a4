# Everything a user or a developer of Tidemill runs. Needs Python 3.11 (or 3.12), pip, make and gcc, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
DEMO_STAMP := .venv/.demo-installed
DEV_STAMP := .venv/.dev-installed
KSERVE_STAMP := .venv-kserve/.installed
ARGS ?=

.PHONY: demo test test-unit check bench soak clean

demo: $(DEMO_STAMP)  ## replay a year of flights and watch the platform learn: make demo ARGS="--until 2013-12-31"
	@$(BIN)/tidemill demo $(ARGS)

test: $(DEV_STAMP) $(KSERVE_STAMP)  ## all tests, the fast ones first
	$(BIN)/pytest -n 2 tests/unit tests/contracts $(ARGS)
	$(BIN)/pytest -n 2 --dist loadfile tests/integration tests/chaos $(ARGS)

test-unit: $(DEV_STAMP)  ## under a minute
	$(BIN)/pytest -n 2 -m "not simulation" tests/unit tests/contracts $(ARGS)

check: $(DEV_STAMP)  ## style, types, directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(DEV_STAMP)  ## figures: throughput, tail, overload, routing, freshness, hot swap, start, compression, statistics, quality over the year
	@$(BIN)/python -m tests.bench $(ARGS)

soak: $(DEV_STAMP)  ## 20 minutes of everything at once: what grows, what fails, what is left: make soak ARGS="--minutes 5"
	@$(BIN)/python -m tests.bench --soak $(ARGS)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "Tidemill needs Python 3.11 or 3.12, found $$($(PYTHON) --version): make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "making .venv"
	@$(PYTHON) -m venv .venv

$(DEMO_STAMP): pyproject.toml | .venv/bin/python
	@echo "installing Tidemill and the demo's data into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(DEV_STAMP): pyproject.toml | .venv/bin/python
	@echo "installing Tidemill and the tools of its tests into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(DEMO_STAMP)

# KServe's SDK wants an older pandas than Tidemill's users have: it gets a place of its own.
$(KSERVE_STAMP): Makefile | .venv/bin/python
	@echo "installing KServe's SDK, a client to test with, into .venv-kserve"
	@$(PYTHON) -m venv .venv-kserve
	@.venv-kserve/bin/python -m pip install --quiet --disable-pip-version-check 'kserve>=0.21,<0.22'
	@touch $@

clean:  ## remove what make and the demo made
	rm -rf .venv .venv-kserve .demo .bench report build *.egg-info
