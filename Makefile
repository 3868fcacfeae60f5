SHELL := /bin/bash
PY := .venv/bin/python
# The first interpreter that is 3.11 or 3.12; PYTHON=… chooses another.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 $$HOME/.pyenv/versions/3.1[12]*/bin/python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
DEMO_HOME := .tally/demo

.PHONY: help setup demo dev test test-kafka kafka soak bench lint lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: .venv/.ready ## the virtual environment, from the hashed lock

.venv/.ready: requirements/all.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed (PYTHON=/path/to/python make setup)"; exit 1; }
	@echo "setting up with $(PYTHON): about a minute"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/all.txt
	$(PY) -m pip check
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Where Python may not write bytecode it would compile our modules at each start of a process.
	$(PY) -m compileall -q tallystream dataflows pipelines
	@touch $@

demo: setup ## the whole flow on 300 000 synthetic events, with an embedded broker
	@TALLY_HOME=$(DEMO_HOME) $(PY) -m tallystream.cli.demo

dev: setup ## broker, synthetic shop, stream and Dagster's web UI, until Ctrl-C
	.venv/bin/tally up

test: setup ## all tests on the embedded broker
	$(PY) -m pytest -n 2 --dist loadscope

test-kafka: setup ## the broker's tests on Apache Kafka 4.3.1 (Java 17 and Maven; without them skipped, with the reason)
	$(PY) -m pytest --broker kafka -m broker -n 2 --dist loadscope || test $$? = 5  # 5: there was no test to run

kafka: setup ## Apache Kafka 4.3.1 on a free port, until Ctrl-C
	@exec $(PY) -m tests.servers .tally/kafka

soak: setup ## every failpoint, kill -9 at random for SOAK_MINUTES (10), 5 000 rounds of hostile bytes, a backlog of 6 M (Kafka)
	SOAK_MINUTES=$${SOAK_MINUTES:-10} $(PY) -m pytest tests/recovery --timeout=0 -s
	SOAK_MINUTES=1 $(PY) -m pytest tests/recovery/test_backlog.py --broker kafka --timeout=0 -s

bench: setup ## events/s beside the ceiling, latency at half load; embedded broker and Apache Kafka
	$(PY) -m benchmarks.throughput

lint: setup ## style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

lock: ## renew the lock (needs uv)
	uv pip compile pyproject.toml --extra embedded --extra control --extra test --extra lint --extra build --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header -q -o requirements/all.txt
