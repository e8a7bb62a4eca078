# Two commands on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export UV_PYTHON_DOWNLOADS := never
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-ui test test-slow check lint types test-airflow test-nightly chaos chaos-small chaos-events bench bench-small browser pictures \
	test-sdk border matrix mutants docs docs-release audit build release-check lock clean help

LIST = awk -F ':.*\#\# ' '{printf "  make %-14s %s\n", $$1, $$2}'
FIRST = demo|demo-ui|test|docs|build

help: ## Show this list
	@echo 'To start with:'
	@grep -hE '^($(FIRST)):.*## ' $(MAKEFILE_LIST) | $(LIST)
	@echo 'For development:'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | grep -vE '^($(FIRST)|help):' | $(LIST)

$(STAMP): requirements-dev.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements-dev.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

demo: $(STAMP) ## Run the example DAGs on a real Airflow, against an emulator of Sim; V=1 shows each task
	@$(BIN)/python -m scripts.demo $(if $(V),--verbose)

demo-ui: $(STAMP) ## Open Airflow's UI with DAGs that have run, against the emulator
	@$(BIN)/python -m scripts.demo --ui

FAST = -n auto --dist worksteal -m "not slow and not airflow and not sdk" --ignore=tests/airflow --ignore=tests/border --ignore=tests/sdk
ifdef COVERAGE
test: $(STAMP)
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest $(FAST)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --fail-under=94
else
test: $(STAMP) ## The fast tests; COVERAGE=1 measures the package's coverage
	@$(BIN)/python -m pytest $(FAST)
endif

test-slow: $(STAMP) ## Tests with thousands of runs, crashes at random points, or a process with an Airflow
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "slow and not airflow and not sdk"

test-airflow: $(STAMP) ## Border tests and example DAGs on a real Airflow
	@$(BIN)/python -m pytest -n 3 --dist loadfile -m "airflow and not nightly"

test-nightly: $(STAMP) ## Kills, and all deployments, on a real Airflow
	@$(BIN)/python -m pytest -m nightly

chaos: $(STAMP) ## Kill workers and triggerers of a real Airflow, 200 times; report the outcome of the runs
	@$(BIN)/python -m scripts.chaos

chaos-small: $(STAMP) ## The same, each point once
	@$(BIN)/python -m scripts.chaos --small

chaos-events: $(STAMP) ## Kill the triggerer of a real Airflow 20 times; count the runs that DAG runs received
	@$(BIN)/python -m scripts.event_trials

bench: $(STAMP) ## Benchmarks, also of alternatives, as tables; Q=imports for one of them
	@$(BIN)/python -m benchmarks $(Q)

bench-small: $(STAMP) ## The same with small sizes and without a real Airflow
	@$(BIN)/python -m benchmarks --smoke

browser: $(STAMP) ## Airflow's pages in a browser, with screenshots in .browser/pictures
	@$(BIN)/python -m scripts.browser

pictures: $(STAMP) ## The same, and update the screenshots of the documentation
	@$(BIN)/python -m scripts.browser --pictures docs/images

test-sdk: $(STAMP) ## The official SDKs against the emulator
	@$(BIN)/python -m pytest -m sdk

border: $(STAMP) ## The border tests on Airflow 2.11, 3.0, 3.1 and 3.2; CELLS=3.1/3.11 for one
	@$(BIN)/python -m scripts.matrix --border $(or $(CELLS),2.11/3.11 3.0/3.11 3.1/3.11 3.2/3.11)

matrix: $(STAMP) ## The package on every version of Airflow and Python, in a table; CELLS=3.1 or 2.11/3.11 for some
	@$(BIN)/python -m scripts.matrix $(CELLS)

mutants: $(STAMP) ## Mutation tests of a sample of client and polling; takes half an hour
	@$(BIN)/python -m scripts.mutants

lint: $(STAMP) ## ruff, format included
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict on the package
	@$(BIN)/mypy

audit: $(STAMP) ## Known vulnerabilities of the locked packages
	@$(BIN)/uv tool run --quiet pip-audit@2.10.1 --strict --disable-pip --require-hashes -r requirements-dev.lock

check: lint types test ## Checks that a commit must pass

docs: $(STAMP) ## The documentation as a site, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-release: $(STAMP) ## Add this version's documentation to the branch gh-pages, as latest; PUSH=1 pushes it
	@NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/mike deploy --update-aliases $(if $(PUSH),--push) \
		"$$($(BIN)/python -c 'import airflow_provider_sim as p; print(p.__version__.rpartition(".")[0])')" latest
	@NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/mike set-default $(if $(PUSH),--push) latest

build: $(STAMP) ## Wheel and sdist into dist/
	@rm -rf dist
	@$(BIN)/uv build --quiet --python $(BIN)/python
	@$(BIN)/twine check --strict dist/*
	@$(BIN)/python -m scripts.check_dist

release-check: build ## Check that a version can be published: addresses, changelog, and with TAG=v0.1.0 the tag
	@$(BIN)/python -m scripts.check_dist --release $(TAG)

lock: ## Update the lock files, with hashes
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--group dev --extra emulator pyproject.toml -o requirements-dev.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--group peers pyproject.toml -o benchmarks/requirements-peers.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--group pyproject.toml:browser -o scripts/requirements-browser.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--group pyproject.toml:mutants --constraints requirements-dev.lock -o scripts/requirements-mutants.txt
	@for version in 2.11 3.0 3.1 3.2 3.3; do \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
			--group "airflow-$$version" --extra emulator pyproject.toml -o "scripts/matrix_locks/airflow-$$version.txt"; \
	done

clean: ## Remove files that targets create
	@rm -rf $(VENV) .demo .chaos .bench .browser .matrix .mutants dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* *.egg-info
