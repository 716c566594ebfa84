# The ways in for people: `make` alone lists them. Everything lives in .venv; nothing needs root.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Where etcd is kept once fetched: the user's cache, or this folder where the user has no home to write to.
ifeq ($(NODECTL_CACHE_DIR),)
ifneq ($(shell [ -d "$$HOME" ] && [ -w "$$HOME" ] && echo yes),yes)
export NODECTL_CACHE_DIR := $(CURDIR)/.cache
endif
endif

.DEFAULT_GOAL := help
.PHONY: help venv etcd demo test check nightly mutants loads documents drills units drivers browser kits deep fuzz audit format schemas services \
  lostkeys interop interop-venv bench bench-peers faults clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

venv: $(STAMP)  ## the programs and all they need, in .venv (again only when the dependencies change)

$(STAMP): requirements.lock pyproject.toml hatch_build.py src/nodestore/etcd/pb/etcd.proto
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "needs Python 3.11 or newer as '$(PYTHON)': name another one, make venv PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "needs Python's venv module: on Debian, apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

etcd: $(STAMP)  ## find an etcd that is new enough, or get one; prints its folder
	@$(BIN)/python -m nodectl.etcd_binary.find

demo: $(STAMP)  ## a whole cluster on this machine; its master is killed before your eyes
	$(BIN)/nodectl demo

test: $(STAMP)  ## unit and integration tests, the latter on a real etcd
	$(BIN)/python -m pytest -n 3 --dist loadfile

check: $(STAMP)  ## style, types, who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Everything that takes too long for `make test`: tests/nightly/jobs.toml. With LIMIT, as many jobs in their short form as
# fit into so many seconds, drawn by SEED: the same ones for the same seed. CI draws by the commit.
nightly: $(STAMP)  ## all that takes long (LIMIT=360 SEED=...: a drawn part, JOBS="chaos demo": these, LIST=1: print them)
	$(BIN)/python -m tests.nightly $(if $(LIMIT),--seconds=$(LIMIT)) $(if $(SEED),--seed=$(SEED)) \
	  $(if $(JOBS),--only $(JOBS)) $(if $(LIST),--list)

loads: $(STAMP)  ## a part of nightly: hours of commands, overload, a full etcd
	$(BIN)/python -m tests.nightly --target=$@

documents: $(STAMP)  ## a part of nightly: an hour of large documents, and the memory that they take
	$(BIN)/python -m tests.nightly --target=$@

drills: $(STAMP)  ## a part of nightly: whole clusters of demo, dev and drill whose processes are killed
	$(BIN)/python -m tests.nightly --target=$@

units: $(STAMP)  ## a part of nightly: PCs that boot the shipped units by a real systemd (root)
	$(BIN)/python -m tests.nightly --target=$@

drivers: $(STAMP)  ## a part of nightly: the shipped drivers keep their whole contract
	$(BIN)/python -m tests.nightly --target=$@

browser: $(STAMP)  ## a part of nightly: logins in a real Chromium, and pages of strangers, which can send and read nothing
	$(BIN)/python -m tests.nightly --target=$@

kits: $(STAMP)  ## a part of nightly: a Linux kit, built twice and run in a root with nothing but libc (root, network)
	$(BIN)/python -m tests.nightly --target=$@

# Exit code 77: Wine is not installed (Debian's packages wine and wine64, without what they recommend).
.PHONY: windows-kit windows-test
windows-kit: $(STAMP)  # the kit for Windows, built on Linux, without etcd: .cache/windows/kit.zip
	@mkdir -p .cache/windows
	$(BIN)/nodectl kit build --platform windows-amd64 --file .cache/windows/kit.zip

windows-test: windows-kit  # the kit under Wine: its launchers, and the unit tests of tests/windows/listed.txt
	$(BIN)/python -m tests.windows .cache/windows/kit.zip

deep: $(STAMP)  ## a part of nightly: a wider search of the model, twenty times as many random cases
	$(BIN)/python -m tests.nightly --target=$@

# SEED and LIMIT: as many as fit into LIMIT seconds, in an order that SEED decides.
mutants: $(STAMP)  ## plant faults in the protocol; each must fail its test (PART=3/12: a part, SEED=... LIMIT=120: drawn)
	$(BIN)/python -m tests.mutants $(if $(PART),--part=$(PART)) $(if $(SEED),--seed=$(SEED)) $(if $(LIMIT),--seconds=$(LIMIT))

# A part of nightly in a shorter form. What it found is kept in .cache/fuzz, and the next run goes on from there.
fuzz: $(STAMP)  ## fuzz every parser that reads from outside, ten minutes each (LIMIT=60: seconds each, ONLY="hosts json": these)
	$(BIN)/python -m tests.fuzz $(if $(LIMIT),--seconds=$(LIMIT)) $(if $(SEED),--seed=$(SEED)) $(if $(ONLY),--only $(ONLY))

audit: $(STAMP)  ## a part of nightly: known weaknesses of the pinned libraries, by pip-audit
	$(BIN)/python -m tests.nightly --target=$@

format: $(STAMP)  ## bring the source into its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(STAMP)  ## docs/schemas: JSON Schemas of what is in etcd, and the OpenAPI document
	$(BIN)/python -m masterd.api.schema_files docs

services: $(STAMP)  ## the service files in etc/ and etcd/, from nodestore/services/definitions.py
	$(BIN)/python -m nodestore.services.shipped_units .

lostkeys: $(STAMP)  ## docs/lost-keys.md: what happens if keys in etcd are deleted, found by doing it
	$(BIN)/python -m tests.simulation.stores.lost_keys docs/lost-keys.md

# etcd3 works with protobuf before 4 only, so it has an environment of its own.
interop-venv: .cache/interop/.installed

.cache/interop/.installed: tests/interop/requirements.txt
	$(PYTHON) -m venv .cache/interop
	.cache/interop/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

interop: $(STAMP) interop-venv  ## what docs/automation.md shows, with etcdctl and the package etcd3
	$(BIN)/python -m pytest tests/integration/operations/test_automation.py

bench: $(STAMP)  ## measure and compare with bare etcd, for docs/benchmarks.md (QUICK=1: 5 minutes, ONLY=commands: a part; neither writes it)
	$(BIN)/python -m bench

# Not part of `bench`: needs etcdctl and, for ZooKeeper, a JVM. PySyncObj is installed in an environment of its own.
bench-peers: $(STAMP) .cache/peers/.installed  # etcdctl lock, kazoo on a ZooKeeper in BENCH_ZOOKEEPER (its folder of jars), PySyncObj
	BENCH_PYSYNCOBJ=$${BENCH_PYSYNCOBJ:-.cache/peers/bin/python} $(BIN)/python -m bench.peers

.cache/peers/.installed: bench/peers-requirements.txt
	$(PYTHON) -m venv .cache/peers
	.cache/peers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# 77: no root, or no namespaces here. Processes on loopback can still be killed and paused.
faults: DURATION ?= $(if $(QUICK),2m,10m)
faults: $(STAMP)  ## five hosts that fail in eleven ways while clients work (QUICK=1, DURATION=8h SEED=7; needs root)
	@$(BIN)/python -m tests.faults.hosts --duration=$(DURATION) $(if $(SEED),--seed=$(SEED)) $(if $(ONLY),--only=$(ONLY)) || \
	  { code=$$?; [ $$code = 77 ] && [ -z "$(ONLY)" ] || exit $$code; \
	    CHAOS_SECONDS=$(DURATION) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -q -m nightly \
	    tests/integration/faults/test_chaos.py; }

clean:  ## remove what these targets made (not the user's cache of etcd)
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
