# Everything a newcomer needs: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= $(shell for p in python3.11 python3.10 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 12))' 2>/dev/null \
  && { echo $$p; break; }; done)
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test lint unit zoo-smoke clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.10 or 3.11 is needed, none was found"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" "setuptools<81" wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: install
	env -u OMP_NUM_THREADS $(BIN)/python tools/demo.py

test: lint unit

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The second run lets OpenVINO and Paddle Inference compute int8 as on a processor without VNNI.
unit: install
	$(BIN)/python -m pytest -n 2 --dist loadscope
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n 2 --dist loadscope -m int8

# Every row of the model zoo from end to end on drawn data: train, slim, export, evaluate, report.
zoo-smoke: install
	$(BIN)/python tools/reproduce.py --scale smoke --jobs 2

clean:
	rm -rf output demo_data .mypy_cache .ruff_cache .pytest_cache .hypothesis
