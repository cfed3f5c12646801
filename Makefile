# `make demo` and `make test` set everything up themselves; repeated, they start at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := .venv-torch
PYTEST := $(BIN)/python -m pytest -n auto

.PHONY: demo test test-slow test-torch lint bench docs clean

demo: $(READY)
	$(BIN)/eyas predict samples --save out/demo
	$(BIN)/eyas track samples/parade.mp4 --save out/demo/parade.mp4

test: $(READY)
	$(PYTEST) -m "not slow"

test-slow: $(READY)
	$(PYTEST) -m slow

# PyTorch is large, so that what needs it has an environment of its own.
test-torch: $(TORCH)/.ready
	$(TORCH)/bin/python -m pytest tests/test_export.py tests/test_ops.py tests/test_ops_torch.py tests/test_torch_module.py \
	  tests/test_torch_backend.py tests/test_write_a_plug_in.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/predict_folder.py

docs: $(READY)
	$(BIN)/python -m pytest -q tests/test_docs.py

# A virtual environment of its own, made once and renewed when pyproject.toml changes. Some systems ship Python
# without ensurepip, so that `-m venv` cannot bring pip along; virtualenv then does.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "eyas needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || $(PYTHON) -m virtualenv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(READY)

$(TORCH)/.ready: pyproject.toml
	@test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH) || $(PYTHON) -m virtualenv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,export]'
	@touch $@

clean:
	rm -rf $(VENV) $(TORCH) out build dist .mypy_cache .pytest_cache .ruff_cache
