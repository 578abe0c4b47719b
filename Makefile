# `make demo` and `make test` do everything from a fresh clone; they need Python 3.11 or later,
# git and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUNS   ?= runs

.PHONY: setup demo test portable check compat lint bench bench-gpu figures docs dist lock clean
.DELETE_ON_ERROR:

setup: $(STAMP)

# torch goes first: on its own its pin chooses the build, and nothing after it may change that.
$(STAMP): pyproject.toml requirements-dev.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements-dev.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/normball fetch shakespeare
	$(BIN)/normball arena --demo --out $(RUNS)/demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2

# What computes, with the instructions of older processors too, in one thread and in two.
portable: setup
	$(BIN)/python -m tests.portable

# The slow suites.
check: portable
	$(BIN)/python -m pytest -n 2 -m slow

# The core beside other versions of torch: downloads some 10 GB, and deletes them. TORCH="2.6.0:3.11
# newest:3.13" names versions and interpreters.
compat: setup
	$(BIN)/python -m tests.compat results/platforms/$$(date +%F)-compat $(TORCH)

# Step times and memory against rivals (those that are installed), appended to results/.
bench: setup
	$(BIN)/python -m benchmarks

# The step on a CUDA GPU, for GPTs of 124M and 1B parameters.
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu

# The pictures of docs/, drawn anew.
figures: setup
	for script in docs/figures/*.py; do $(BIN)/python $$script || exit 1; done

# The pages as a site in build/site.
docs: setup
	$(BIN)/mkdocs build --strict

# Wheel and sdist, as the package index gets them.
dist: setup
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/twine check --strict dist/*
	@! grep -q example.org pyproject.toml || echo "Not for an upload yet: pyproject.toml has no address of the repository."

# Resolves the extras anew and writes the versions down.
lock: setup
	$(BIN)/pip install --quiet --upgrade "$$(grep '^torch==' requirements-dev.lock)" -e '.[dev]'
	( echo '# Pinned for development: `make setup` installs exactly this. Regenerate with `make lock`.'; \
	  $(BIN)/pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/' ) > requirements-dev.lock.new
	mv requirements-dev.lock.new requirements-dev.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
