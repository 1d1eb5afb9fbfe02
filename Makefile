# `make run` and `make test` need make and Python 3.11 or newer with venv, nothing else: the first call installs what
# requirements.lock names into .venv. No root, nothing outside of this directory.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
UV := uv==0.13.9

# The first interpreter that is new enough; `make PYTHON=/path/to/python3` takes another one
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON = $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
	$(shell command -v $(name) >/dev/null 2>&1 && $(name) -c '$(NEW_ENOUGH)' 2>/dev/null && echo $(name))))

# Further arguments for pytest or the search: make test ARGS='-k config', or ARGS='-n 0 --pdb' for one process
ARGS :=

# The tests are shared out: half of their time is spent waiting for services, logs and files. More than four processes
# would be in each other's way, as tests start processes of their own.
SHARED := -n auto --maxprocesses 4 --dist worksteal

.DELETE_ON_ERROR:
.PHONY: help run test check check-deploy fuzz lint format config lock image clean

help:
	@echo 'make run      start the demo: two simulated logs, ws://127.0.0.1:8080/, no network needed'
	@echo 'make test     run the tests'
	@echo 'make check    lint, then test'
	@echo 'make check-deploy'
	@echo '              units, image, alerts, packages: needs root or the Debian packages that it names'
	@echo 'make fuzz     look for inputs that a parser does not bear: make fuzz ARGS="--runs 1000000 --target certificate"'
	@echo 'make lint     ruff and mypy --strict'
	@echo 'make format   let ruff format the code'
	@echo 'make config   write config.yaml from the model'
	@echo 'make lock     resolve the dependencies anew into requirements.lock'
	@echo 'make image    build the container image certstream-server, with Docker'
	@echo 'make clean    remove .venv and caches'

run: $(VENV)/installed
	@exec $(BIN)/python -m certstream --demo

test: $(VENV)/installed
	$(BIN)/python -m pytest $(SHARED) $(ARGS)

check: lint test

# What needs root, system packages or a package index: all that is in deploy, as it is there
check-deploy: $(VENV)/installed
	@set -e; for check in deploy/check-*.sh; do echo "$$check"; $$check || { echo "$$check failed" >&2; exit 1; }; done

fuzz: $(VENV)/installed
	$(BIN)/python -m fuzz $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

config: $(VENV)/installed
	$(BIN)/python -c 'from certstream.config import shipped_yaml; print(shipped_yaml(), end="")' > config.yaml.new
	mv config.yaml.new config.yaml

# Two stamps: what the lock names, which takes a minute, and the package itself, which takes a second
$(VENV)/dependencies: requirements.lock
	@test -n '$(strip $(PYTHON))' || { \
		echo "certstream needs Python 3.11 or newer; python3 here is `python3 --version 2>&1`." >&2; \
		echo "Debian 12, Ubuntu 24.04 and newer have it as python3; else: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "$(PYTHON) is not Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo 'Installing the dependencies into $(VENV), once'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/installed: $(VENV)/dependencies pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# One lock for Python 3.11 and newer, with hashes and without the address of any index: installing asks the one that is
# configured. hatchling and editables build the package itself.
lock:
	@set -e; work=`mktemp -d`; trap 'rm -rf "$$work"' EXIT; \
	$(PYTHON) -m venv "$$work/venv"; \
	"$$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check '$(UV)'; \
	{ echo '# Written by `make lock` from pyproject.toml, with the dev extra and what builds the package.'; \
	  printf 'hatchling\neditables\n' | "$$work/venv/bin/uv" pip compile - pyproject.toml --quiet --extra dev --universal \
	    --python-version 3.11 --fork-strategy fewest --generate-hashes --no-header --no-annotate --no-emit-index-url \
	    --no-emit-find-links; } > "$$work/requirements.lock"; \
	if grep -n '://' "$$work/requirements.lock"; then echo 'an address in the lock' >&2; exit 1; fi; \
	cp "$$work/requirements.lock" requirements.lock

# make image BASE=registry.example.org/python:3.13 builds on another base
BASE := python:3.13-slim-bookworm
image:
	docker build --build-arg BASE='$(BASE)' \
	    --build-arg VERSION="`sed -n 's/^__version__ = "\(.*\)"$$/\1/p' certstream/__init__.py`" \
	    --build-arg REVISION="`git rev-parse --short HEAD 2>/dev/null || echo unknown`" \
	    --tag certstream-server .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find certstream tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
