# Two commands: `make lab` opens the workbook, `make test` runs every check. Both set the environment up first:
# minutes the first time, seconds after that. All the work is in scripts/setup_env.py and the `coursekit` command.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help lab test bench profile oracle notebooks doctor clean setup

# Another project's module path in the shell (ROS, Spark, …) would shadow what .venv holds.
unexport PYTHONHOME PYTHONPATH

VENV_PYTHON := .venv/bin/python

help: ## this list
	@echo "Chunked Prefill, Hands On"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  ARGS=…    passed on: make lab ARGS=--no-browser, make test ARGS='-k doctor'"
	@echo "  ONLY=…    some of the benchmarks: make bench ONLY='sarathi fidelity'"
	@echo "  CASES=…   how many: make oracle CASES=20000"
	@echo "  PYTHON=…  which Python 3.11 or 3.12 makes .venv (else the first on PATH that works)"
	@echo "  COURSEKIT_FLAVOUR=cpu|gpu|no-vllm  installs that flavour, whatever the machine looks like"

lab: setup ## set up, then open JupyterLab on notebook 01
	@exec $(VENV_PYTHON) -m coursekit lab $(ARGS)

test: setup ## set up, then run every check: tests and notebooks
	@exec $(VENV_PYTHON) -m pytest $(ARGS)

oracle: setup ## compare the schedulers with vLLM's on CASES random cases
	@exec $(VENV_PYTHON) -m tests.oracle --cases $(or $(CASES),20000) $(ARGS)

bench: setup ## run the benchmarks (half an hour, on a quiet machine) and write benchmarks/README.md
	@for each in $(or $(ONLY),simulator analyzers optimizer sarathi fidelity adaptive priority presets monitor production live_engine); do \
	  echo "== $$each"; $(VENV_PYTHON) benchmarks/$$each.py $(ARGS) || exit 1; \
	done

profile: setup ## measure this device, so that it can be simulated (ARGS='--engine vllm')
	@exec $(VENV_PYTHON) -m coursekit profile $(ARGS)

notebooks: setup ## execute all notebooks anew, in place
	@exec $(VENV_PYTHON) scripts/execute_notebooks.py $(ARGS)

doctor: ## say what works on this machine and how to mend the rest
	@if [ ! -x $(VENV_PYTHON) ]; then echo "There is no .venv yet. Make it: make lab" >&2; exit 1; fi
	@exec $(VENV_PYTHON) -m coursekit doctor $(ARGS)

clean: ## remove .venv and caches (the prepared model stays in your cache folder)
	rm -rf .venv build dist coursekit.egg-info .pytest_cache .hypothesis

# Each candidate is run, not only looked up: version managers put a `python3.12` on PATH that fails when called.
# One that has ensurepip is preferred; without it setup_env.py says which package is missing.
setup:
	@right='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'; \
	for complete in 'import ensurepip, venv; ' ''; do \
	  for python in $(if $(PYTHON),'$(PYTHON)',$(VENV_PYTHON) python3.11 python3.12 python3 python); do \
	    if "$$python" -c "$$complete$$right" >/dev/null 2>&1; then exec "$$python" scripts/setup_env.py; fi; \
	  done; \
	done; \
	if [ -n '$(PYTHON)' ]; then echo "PYTHON='$(PYTHON)' is not a working Python 3.11 or 3.12." >&2; \
	else echo "No working Python 3.11 or 3.12 on PATH. Install one (Debian, Ubuntu: apt install python3 python3-venv)," \
	  "or name yours: make lab PYTHON=/path/to/python3.11" >&2; fi; exit 1
