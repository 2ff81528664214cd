# `make up` and `make test` need Python 3.11 or newer and the package registries, nothing else.
.DEFAULT_GOAL := help
.PHONY: help up test faults check quality bench fmt cov clean-venv

# The first interpreter on PATH that is new enough. Looked for only by the targets that need it.
python = $(or $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; \
	done),$(error Python 3.11 or newer is needed, but none is on PATH))
bin := .venv/bin
# Two processes, each with servers of its own. Servers that were given are one for all: their tests go in turn.
at_once := $(if $(KEYLEDGER_TEST_POSTGRES)$(KEYLEDGER_TEST_NATS),,-n 2 --dist loadfile)
whole := tests/browser tests/e2e tests/faults
parts := tests $(whole:%=--ignore=%)

# A recipe's long-running lines are their own process (exec), so that a SIGTERM sent to make arrives. A SIGINT make
# never passes on: it takes it that the terminal has sent it to all of them.
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

up: ## run everything on this machine, until Ctrl-C
	@exec $(python) infra/local/environment.py run
	@exec $(bin)/keyledger up

test: quality ## check the code, then run every test; SERVERS=containers takes Postgres and NATS from Docker
	exec env KEYLEDGER_TEST_SERVERS=$(SERVERS) $(bin)/python -m pytest $(at_once) $(parts) -m "not long" $(ARGS)
	exec env KEYLEDGER_TEST_SERVERS=$(SERVERS) $(bin)/python -m pytest $(whole) -m "not long" $(ARGS)

faults: .dev ## every fault against real processes, under 15 minutes; KEYLEDGER_FAULT_SEED=… repeats a run
	exec $(bin)/python -m pytest $(at_once) tests/faults -m "long or not long" $(ARGS)

check: quality ## what can be checked without servers, in under two minutes on two cores
	exec $(bin)/python -m pytest -q $(at_once) tests/architecture tests/unit

quality: .dev
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/basedpyright
	$(bin)/lint-imports

bench: .dev ## measure the figures of the README
	$(bin)/python -m bench.backbone
	$(bin)/python -m bench.timing
	$(bin)/python -m bench.log
	$(bin)/python -m bench.verify
	$(bin)/python -m bench.dashboard
	exec $(bin)/python -m bench.usage

fmt: .dev ## format the code and mend what can be mended
	$(bin)/ruff check --fix
	$(bin)/ruff format

cov: .dev ## run every test and show the coverage, line by line
	exec $(bin)/python -m pytest -m "not long" --cov --cov-report=term-missing $(ARGS)

clean-venv: ## remove the environment; the next target makes it anew
	rm -rf .venv

.PHONY: .dev
.dev:
	@exec $(python) infra/local/environment.py dev
