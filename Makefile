# Two commands set up everything they need in .venv: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/core  ## the main job: simulate and compare; ARGS=--force replaces earlier results
	$(BIN)/python run_sim.py scenarios/70b_3b.yaml $(ARGS)

test: .venv/test lint  ## lint, types and tests (ARGS goes to pytest)
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/test  ## simulated tokens per second; lists the benchmarks of real decoding (docs/benchmarks.md)
	$(BIN)/python benchmarks/simulation_speed.py
	$(BIN)/python benchmarks/evaluator_speed.py --points 1000 --compare 200 --rounds 1
	@echo "of real decoding, on a quiet machine: $(BIN)/python benchmarks/{hierarchy_gain,decoding_speed,peak_memory}.py --help"

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/test: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@ .venv/core

clean:
	rm -rf .venv build *.egg-info
