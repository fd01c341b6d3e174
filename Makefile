# `make demo` and `make test` are all that a fresh clone needs: each makes .venv and builds the engine into edge_gemma/.
PYTHON ?= python3
VENV ?= .venv
# Such as --no-build-isolation, to build without a package index once .venv is complete.
PIP_FLAGS ?=
# Processes that test side by side; 0 for none besides the first.
JOBS ?= auto
BIN := $(VENV)/bin
C_FILES = $(shell find csrc bindings tests examples tools -name '*.[ch]' -o -name '*.inc')
LINT = { $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/clang-format --dry-run --Werror $(C_FILES); }
CHECK_PYTHON = { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	{ echo "$(PYTHON) is not Python 3.10 or later: name one that is, as in \`make demo PYTHON=python3.12\`."; exit 1; }; }
# Half an environment would count as a whole one the next time.
MAKE_VENV = { $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; }
SOURCES := $(shell find csrc -name '*.[ch]' -o -name '*.inc' -o -name '*.txt') edge_gemma/_build.py edge_gemma/_version.py setup.py pyproject.toml

.PHONY: test check demo lint format docs build wheels fuzz clean

# The tests come last, and run also when the linter has found something: both must pass.
test: build
	@lint=0; $(LINT) || lint=1; \
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup && exit $$lint

# What a developer needs while working, in under two minutes: lint, and all tests but those marked slow, side by side.
check: build
	@$(LINT) && PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -q -m "not slow" -n $(JOBS) --dist loadgroup

# Spoken commands to a simulated home, with the model that comes with the package; ARGS="--microphone" to speak yourself.
demo: $(VENV)/.ready
	@$(BIN)/edge-gemma demo $(ARGS)

lint: build
	@$(LINT)

format: build
	@$(BIN)/ruff format --quiet .
	@$(BIN)/clang-format -i $(C_FILES)

# The pages that are made of the sources.
docs: build
	@$(BIN)/python tools/c_api_doc.py
	@$(BIN)/python tools/cli_doc.py

build: $(VENV)/.built

$(VENV)/.built: $(SOURCES) tools/bootstrap.sh
	@echo "Building the engine and installing what the tests need into $(VENV): one to three minutes."
	@PYTHON="$(PYTHON)" sh tools/bootstrap.sh
	@test -x $(BIN)/python || { $(CHECK_PYTHON) && $(MAKE_VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -e '.[dev]'
	@touch $@ $(VENV)/.ready

# Enough to run, and to download models; `build` has this and all that tests want.
$(VENV)/.ready: $(SOURCES) tools/bootstrap.sh
	@echo "Building the engine and installing what it needs into $(VENV): one to two minutes, once."
	@PYTHON="$(PYTHON)" sh tools/bootstrap.sh build
	@test -x $(BIN)/python || { $(CHECK_PYTHON) && $(MAKE_VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -e '.[cli,voice,hub]'
	@touch $@

# Wheels and C libraries for all systems, in dist/.
wheels: build
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[release]' $(PIP_FLAGS)
	@$(BIN)/python tools/wheels.py --check $(ARGS)

fuzz: build
	$(MAKE) -C tests/fuzz

clean:
	rm -rf $(VENV) build dist *.egg-info edge_gemma/_engine*.so edge_gemma/_engine*.pyd
