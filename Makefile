# Everything a newcomer needs: `make demo` and `make test`. Both install into .venv first.
# Another interpreter: make PYTHON=python3.12 test; beside the first one: make PYTHON=... VENV=DIR test
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
  && { echo $$p; break; }; done)
VERSION := $(shell $(PYTHON) -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-$(VERSION)
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test lint unit test-gpu chain zoo-smoke clean

install: $(INSTALLED)

# An environment of another Python is made anew. PaddleClas and PaddleSlim ask for libraries that
# have no build for the newer Pythons, and run without those: README, "Versions".
$(INSTALLED): pyproject.toml setup.py constraints.txt
	@case "$(VERSION)" in 3.10|3.11|3.12|3.13) ;; *) \
	  echo "error: Python 3.10 to 3.13 is needed, found $(or $(VERSION),none)"; exit 2;; esac
	test -e $(BIN)/python$(VERSION) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" "setuptools<81" wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps paddleclas==2.6.0 paddleslim==2.6.0
	@touch $@

demo: install
	env -u OMP_NUM_THREADS $(BIN)/python tools/demo.py

test: lint unit

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests wait now and then, so there is one process more than a small machine has cores. Files are
# begun in order, as those with few tests, which would be begun last otherwise, are the longest. The
# second run computes int8 as a processor without VNNI does, in ONNX Runtime as well where a C
# compiler and objdump are installed.
unit: install
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder
	$(BIN)/python -m benchmarks.processor.without_vnni --allow_cap \
	  $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m int8

# Contracts, mixed precision, batch norms and trainings in two processes on a GPU, where there is one.
test-gpu: install
	$(BIN)/python -m tests.on_gpu

# The wheel at work, in a new environment of each other Python that is found on this machine; but for
# some: make chain BUT="3.10 3.12"
chain: install
	$(BIN)/python tests/chain.py --but $(VERSION) $(BUT)

# Every row of the model zoo from end to end on drawn data: train, slim, export, evaluate, report.
# Some rows: make zoo-smoke ROWS="hrnet_w32 gcnet_qat"
zoo-smoke: install
	$(BIN)/python tools/reproduce.py --scale smoke --jobs 2 --overwrite $(ROWS)

clean:
	rm -rf output demo_data .mypy_cache .ruff_cache .pytest_cache .hypothesis
