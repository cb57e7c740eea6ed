# The commands of the project. Every target creates the environment it needs; `make help` lists them.
#
#   make PYTHON=python3.13 VENV=.venv-313 test    another interpreter, beside the first environment
#   make PYTEST_ARGS="-k cli" test                some of the tests

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

# The first interpreter on the PATH that is recent enough.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
PROTOCOL ?= multipaxos
SEEDS ?= 0:1000
JOBS ?= 2
ZOO_ARGS ?=
MUTANTS_ARGS ?=
FUZZ_ARGS ?=

# The generator has no wheels for Python 3.13 and later, and wants an older protobuf: it lives by itself.
PROTOS_VENV ?= .venv-protos
PROTOS_PYTHON ?= $(shell for python in "$(PYTHON)" python3.12 python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null \
	&& echo "$$python" && break; done)

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(VENV)/.stamp-demo ## the suite `quick`: clusters, loads, a leader killed, the verdict and a report
	@$(BIN)/synod bench suite quick

.PHONY: test
test: $(VENV)/.stamp-dev ## the quick and the integration tests
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow and not emulator and not docker" $(PYTEST_ARGS)

.PHONY: test-all
test-all: $(VENV)/.stamp-dev ## every test, the slow ones and those for Docker or an emulator included
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: check
check: $(VENV)/.stamp-dev ## format, lint, types, import rules, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p replica -p bench -p deploy
	$(BIN)/mypy -p tests
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_protos.py

.PHONY: format
format: $(VENV)/.stamp-dev ## format the code and repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: protos
protos: ## generate replica/wire from protos/
	@if [ -n "$(PROTOS_PYTHON)" ]; then \
		$(MAKE) --no-print-directory $(PROTOS_VENV)/.stamp && \
		PATH="$(abspath $(PROTOS_VENV)/bin):$$PATH" $(PROTOS_VENV)/bin/python scripts/generate_protos.py && \
		$(PROTOS_VENV)/bin/python scripts/check_protos.py --write; \
	elif [ -n "$(PYTHON)" ]; then \
		echo "The generator needs Python 3.11 or 3.12, and there is none here: comparing hashes instead."; \
		"$(PYTHON)" scripts/check_protos.py; \
	else \
		echo "Synod needs Python 3.11 or later; none was found." >&2; exit 1; \
	fi

.PHONY: seeds
seeds: $(VENV)/.stamp-dev ## a thousand simulated runs with 3 replicas and with 5, every fault (SEEDS=0:1000 JOBS=2)
	@for replicas in 3 5; do \
		$(BIN)/synod simulate --protocol $(PROTOCOL) --replicas $$replicas --seeds $(SEEDS) --jobs $(JOBS) || exit 1; \
	done

.PHONY: zoo
zoo: $(VENV)/.stamp-dev ## plant every published bug and count the seeds until it is found (ZOO_ARGS="--jobs 2 raft")
	@$(BIN)/python -m tests.simulation.zoo $(ZOO_ARGS)

.PHONY: mutants
mutants: $(VENV)/.stamp-mutants ## make the protocol wrong in 240 places and see who notices (MUTANTS_ARGS="--jobs 2")
	@$(BIN)/python -m tests.mutation $(MUTANTS_ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.stamp-dev ## malformed and random input on every port of running replicas (FUZZ_ARGS="--inputs 100000")
	@GRPC_VERBOSITY=NONE $(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

.PHONY: clean
clean: ## remove environments, caches and builds
	rm -rf .venv .venv-* "$(VENV)" "$(PROTOS_VENV)" build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call environment,DIR,PYTHON): a virtual environment, or a clear message why there cannot be one.
define environment
	@"$(2)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Synod needs Python 3.11 or later; none was found. Name one with: make PYTHON=/path/to/python3 ..." >&2; \
		exit 1; }
	@"$(2)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(2) cannot create virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; }
	@[ -x "$(1)/bin/python" ] || { echo "Creating $(1)"; "$(2)" -m venv "$(1)"; }
endef

$(VENV)/.stamp-%: pyproject.toml
	$(call environment,$(VENV),$(PYTHON))
	@echo "Installing Synod into $(VENV) (the first time this takes a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS_$*)]"
	@touch $@

EXTRAS_demo := bench
EXTRAS_dev := bench,certs,examples,optuna,test,dev
EXTRAS_mutants := bench,certs,examples,optuna,test,dev,mutation

$(PROTOS_VENV)/.stamp: Makefile
	$(call environment,$(PROTOS_VENV),$(PROTOS_PYTHON))
	@$(PROTOS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		"grpcio-tools==1.62.*" "mypy-protobuf==3.6.*" "setuptools<81"
	@touch $@
