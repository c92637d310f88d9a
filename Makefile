# Everything runs in one virtual environment. Nothing is installed anywhere else.
#   make test PYTHON=/path/to/python3.13    chooses the interpreter (3.11 or later)
#   make test VENV=/tmp/env                 chooses another place than .venv
#   make test ARGS="-k ring"                hands arguments to the tool behind the target

PYTHON ?=
VENV   ?= .venv
ARGS   ?=

PYTEST := $(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal

# Tests start hundreds of processes: each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# The installation depends on these: make repeats it when one of them is newer than the stamp.
SETUP := pyproject.toml setup.cfg scripts/prepare

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types types-package wheel conformance simulate mutants explore simulate-hosts mutants-hosts chaos forks hosts interruptions soak servers rolling metered fuzz bench bench-quick bench-host docs clean

help:  ## show this list
	@echo "colocache: what make can do here"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed-demo  ## run four gunicorn workers with and without the cache, and check every answer (a minute)
	@$(VENV)/bin/python examples/demo/drive.py $(ARGS)

test: $(VENV)/.installed-test  ## run all tests, two on each core at a time (7 minutes on two cores)
	@$(PYTEST) $(ARGS)

check: lint types-package $(VENV)/.installed-test  ## check lint, the types of the package, and the fast tests, as before each commit (a minute)
	@$(PYTEST) -m "not slow" --quiet $(ARGS)

lint: $(VENV)/.installed-lint  ## check every file with ruff, and its formatting
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: types-package  ## check the package with mypy, and the examples of the documentation with mypy and pyright
	@$(VENV)/bin/python scripts/check_doc_types.py

types-package: $(VENV)/.installed-lint
	@$(VENV)/bin/mypy --strict colocache pytest_colocache.py

docs: $(VENV)/.installed-docs  ## build the documentation site into build/docs, without warnings
	@$(VENV)/bin/python scripts/write_reference.py
	@$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet -c docs -d build/doctrees $(ARGS) . build/docs
	@echo "open build/docs/index.html"

wheel: $(VENV)/.installed-test  ## build the wheel, install it alone in a fresh environment, use it there
	@$(VENV)/bin/python scripts/check_wheel.py $(ARGS)

conformance: $(VENV)/.installed-conformance  ## run the tests of Django, Flask-Caching, cachelib, cachetools and dogpile.cache against colocache (4 minutes)
	@$(VENV)/bin/python -m verification.conformance.run $(ARGS)

simulate: $(VENV)/.installed-test  ## run 20,000 random histories of one host on all cores (10 minutes)
	@$(VENV)/bin/python -m verification.host.simulate $(ARGS)

mutants: $(VENV)/.installed-test  ## take each rule of a host out, one at a time: something must notice (10 minutes)
	@$(VENV)/bin/python -m verification.host.mutants $(ARGS)

explore: $(VENV)/.installed-test  ## take every interleaving of small scenarios of one host, within a budget (10 minutes)
	@$(VENV)/bin/python -m verification.host.explore $(ARGS)

simulate-hosts: $(VENV)/.installed-test  ## run 2,000 random histories of several hosts on all cores (a quarter of an hour on two)
	@$(VENV)/bin/python -m verification.hosts.simulate $(ARGS)

mutants-hosts: $(VENV)/.installed-test  ## take each rule between hosts out, one at a time: something must notice (half an hour)
	@$(VENV)/bin/python -m verification.hosts.mutants $(ARGS)

chaos: $(VENV)/.installed-test  ## kill, stop and restart real processes at random, and check every read (a minute)
	@$(VENV)/bin/python -m verification.chaos.chaos $(ARGS)

forks: $(VENV)/.installed-test  ## fork at every line of every operation, by Python and past it (two hours; ARGS="--step 61": 15 minutes)
	@$(VENV)/bin/python -m verification.forks.forks $(ARGS)

hosts: $(VENV)/.installed-test  ## cut, kill, stop, replace and update several hosts, as network namespaces, and check every read (45 minutes)
	@$(VENV)/bin/python -m verification.network.proof $(ARGS)

soak: $(VENV)/.installed-test  ## work and restart for half an hour, and use everything many times: what the processes hold must not grow (45 minutes)
	@$(VENV)/bin/python -m verification.chaos.wear
	@$(VENV)/bin/python -m verification.chaos.wear --hosts
	@$(VENV)/bin/python -m verification.chaos.soak $(ARGS)

interruptions: $(VENV)/.installed-test  ## interrupt each call at each line, and let a handler use the cache there (a day; ARGS="--seconds 900": half an hour)
	@$(VENV)/bin/python -m verification.interruptions.campaign $(ARGS)

servers: $(VENV)/.installed-servers  ## check what must hold under each server and mode, and write docs/howto/servers.md (2 minutes)
	@$(VENV)/bin/python -m verification.servers.matrix $(ARGS)

rolling: $(VENV)/.installed-servers  ## replace eight gunicorn workers under load: no request fails, and no answer is stale
	@$(VENV)/bin/python -m verification.servers.rolling $(ARGS)

metered: $(VENV)/.installed-servers  ## replace and kill eight gunicorn workers under load: what metrics show is what was done (2 minutes)
	@$(VENV)/bin/python -m verification.servers.metered $(ARGS)

fuzz: $(VENV)/.installed-fuzz  ## fuzz all that a peer can send, guided by coverage, for ten minutes
	@$(VENV)/bin/python -m verification.fuzz.fuzz $(ARGS)

bench: $(VENV)/.installed-bench  ## run every benchmark beside other caches, and write benchmarks/results (15 minutes; needs redis-server and memcached)
	@$(VENV)/bin/python -m benchmarks.bench $(ARGS)

bench-quick: $(VENV)/.installed-bench  ## measure the ratios again, and compare them with the committed ones (a minute; needs the same)
	@$(VENV)/bin/python -m benchmarks.bench --quick $(ARGS)

bench-host: $(VENV)/.installed-bench  ## measure what one host has to reach, in one run, and say what it does reach (10 minutes; needs the same)
	@$(VENV)/bin/python -m benchmarks.host $(ARGS)

clean:  ## remove everything that the other targets made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis examples/demo/.data
	find colocache tests verification examples benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-%: $(SETUP)
	@scripts/prepare "$(VENV)" "$*" "$(PYTHON)"
	@touch $@
