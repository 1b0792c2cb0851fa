PYTHON ?= python3
BIN := .venv/bin
OUT ?=

.PHONY: install demo test test-slow lint claims bench clean

install: .venv/.installed

# torch first and by version: with it in place nothing later fetches another build.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/daps-rl train $(if $(OUT),--out $(OUT))

# A thread to each process: threads that wait for one another take longer than the work they share.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "slow and not gpu"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed && cp -r daps_rl build/typed && cp -r envs agents build/typed/daps_rl
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p daps_rl  # as it is installed: one package

# Every measured number of README.md and docs/ against the rows that it names; seconds.
claims: install
	$(BIN)/python benchmarks/check_claims.py

bench: install
	$(BIN)/python benchmarks/digits.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/fashion_mnist.py

clean:
	rm -rf .venv build dist *.egg-info
