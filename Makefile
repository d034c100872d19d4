# make demo: trains on the built-in text and evaluates. make test: the test suite but for
# what takes long, which make test-slow runs. TESTS= picks some of them.
# PYTHON= picks the Python that a new $(VENV) is made with; make clean removes it.

PYTHON ?=
TESTS ?=
VENV ?= .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint venv clean

demo: $(INSTALLED)
	rm -rf runs/demo
	$(BIN)/python train.py --config configs/default.py --workdir runs/demo
	$(BIN)/python evaluate.py --workdir runs/demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(TESTS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist load -m slow $(TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

venv: $(INSTALLED)

# Each candidate is run, not only looked up: version managers put names on PATH that
# fail to start, and some systems ship Python without the modules that make a venv.
$(INSTALLED): pyproject.toml
	@test -x $(BIN)/pip || { \
	  for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	      echo "Making $(VENV) with $$python"; \
	      exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	  done; \
	  echo "error: no Python 3.11, 3.12 or 3.13 with venv among: $(or $(PYTHON),python3.11 python3.12 python3.13 python3); install one or name it with PYTHON=/path/to/python" >&2; \
	  exit 2; \
	}
	@echo "Installing pf_jax into $(VENV), which takes minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv .venv-newest runs/demo build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
