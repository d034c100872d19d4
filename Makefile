# make demo       trains on the built-in text, then evaluates
# make test       runs the tests that are not marked slow; TESTS= names some of them
# make test-slow  runs the tests that are marked slow; TESTS= names some of them
# make test-device  runs the tests that compile for an H100 and TPUs, which need no device;
#                 needs Python 3.12 or newer, and installs XLA's compilers into $(VENV)
# make lint       runs ruff and pyright
# make docs       builds the documentation into build/docs; installs Sphinx into $(VENV)
# make venv       creates $(VENV); PYTHON= names the Python to create it with
# make clean      removes the virtual environments, the demo run, builds and caches

PYTHON ?=
TESTS ?=
VENV ?= .venv
INSTALLED := $(VENV)/.installed
COMPILERS := $(VENV)/.installed-compilers
SPHINX := $(VENV)/.installed-docs
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-device lint docs venv clean

demo: $(INSTALLED)
	rm -rf runs/demo
	$(BIN)/python train.py --config configs/default.py --workdir runs/demo
	$(BIN)/python evaluate.py --workdir runs/demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not device" $(TESTS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist load -m slow $(TESTS)

test-device: $(COMPILERS)
	$(BIN)/python -m pytest -n 2 --dist load -m device $(TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(SPHINX)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env docs build/docs
	@echo "The documentation is in build/docs/index.html"

venv: $(INSTALLED)

# Each candidate Python is run, since a name on PATH is not enough: those of version managers
# can fail to start, and some systems ship Python without the modules that create a venv.
$(INSTALLED): pyproject.toml
	@test -x $(BIN)/pip || { \
	  for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	      echo "Creating $(VENV) with $$python"; \
	      exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	  done; \
	  echo "error: no Python 3.11, 3.12 or 3.13 with venv among: $(or $(PYTHON),python3.11 python3.12 python3.13 python3); install one or name it with PYTHON=/path/to/python" >&2; \
	  exit 2; \
	}
	@echo "Installing pf_jax into $(VENV), which takes minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(COMPILERS): $(INSTALLED)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "error: $(VENV) has $$($(BIN)/python --version), and compilers need 3.12 or newer; name another with VENV=.venv-newest PYTHON=python3.13" >&2; \
	  exit 2; \
	}
	@echo "Installing compilers for GPUs and TPUs into $(VENV), which takes a minute"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,compile]'
	@touch $@

$(SPHINX): $(INSTALLED)
	@echo "Installing Sphinx into $(VENV), which takes a minute"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,docs]'
	@touch $@

clean:
	rm -rf .venv .venv-newest runs/demo build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
