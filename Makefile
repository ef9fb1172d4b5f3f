# Every target installs what it needs first, so each one works as the first command in a fresh clone.
.DEFAULT_GOAL := help
.PHONY: help setup demo up test check bench nightly format docs lock images image-service image-ray image-spark compose-up compose-down clean
export PYTHON

help:    ## List the targets.
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

setup:   ## Install the locked packages and this checkout into .venv.
	@scripts/setup.sh

demo: setup   ## Run an end-to-end demo locally and exit; ENGINE=ray, spark or both.
	@.venv/bin/ingest demo $(if $(ENGINE),--engine $(ENGINE))

up: setup   ## Run the embedded stack and the service until Ctrl-C.
	@.venv/bin/ingest up

test: setup   ## Run the tests in two processes and print the ten slowest.
	@scripts/java.sh --required
	@scripts/postgres.sh --required
	@scripts/chromium.sh --required
	@.venv/bin/pytest -m "not nightly" -n 2 --durations=10

check: setup   ## Check format, lint, types and imports.
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: setup   ## Run the benchmarks and write benchmarks/reports/; BENCH_QUICK=1 only checks that they work.
	@found=; for script in benchmarks/bench_*.py; do [ -e "$$script" ] || continue; found=1; \
	    .venv/bin/python "$$script" || exit 1; done; [ -n "$$found" ] || echo "no benchmarks yet"

nightly: setup   ## Run the long drills.
	@.venv/bin/pytest -m nightly

format: setup   ## Format the code and apply the linter's fixes.
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

docs: setup   ## Generate the tables of settings and of scopes in docs/, and the schema of the chart's values.
	@.venv/bin/python scripts/settings_table.py
	@.venv/bin/python scripts/access_table.py
	@.venv/bin/python scripts/values_schema.py

lock: setup   ## Write requirements.lock and the locks of the images from pyproject.toml.
	@scripts/lock.sh

images: image-service image-ray image-spark   ## Build the three images; REGISTRY=registry.example.com/team.

image-service:   ## Build the image of service and gateway with docker or podman.
	@scripts/image.sh service ingestion-engine

image-ray:   ## Build the image of the nodes of a Ray cluster.
	@scripts/image.sh ray-worker ingestion-engine-ray

image-spark:   ## Build the image of driver and executors on Spark.
	@scripts/image.sh spark ingestion-engine-spark

compose-up:   ## Run service and real systems with docker compose; see docs/deploy/compose.md.
	@scripts/compose.sh up

compose-down:   ## Stop them; keeps all data.
	@scripts/compose.sh down

clean:   ## Remove everything built and installed; keeps the data in .ingest.
	@rm -rf .venv .venv.log .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
