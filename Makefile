# Everything a new machine with Python >= 3.10, pip and make needs: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types bench bench-peers assets clean

help:
	@echo "make demo         train PPO on movie reviews and show before and after (under 3 minutes)"
	@echo "make test         run the tests (under 10 minutes on 2 cores)"
	@echo "make check        lint, types and tests"
	@echo "make bench        measure speed and memory as ratios; writes docs/results/benchmark.json"
	@echo "make bench-peers  seconds to a reward against TRL, in a virtual environment of its own"
	@echo "make assets       rebuild the bundled language model, rewards and prompts"

# The stamp is newer than what it was made from, so a second run installs nothing.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python examples/quickstart.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types test

bench: $(INSTALLED)
	$(BIN)/python examples/benchmark.py

# TRL pins what it needs in an environment of its own; it is never a dependency.
bench-peers: $(INSTALLED)
	test -x .venv-trl/bin/python || $(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --constraint constraints.txt -r examples/benchmarks/requirements-trl.txt
	.venv-trl/bin/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python examples/benchmark.py peers

assets: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[build]'
	$(BIN)/python -m text_envs.assets.build_reviews --cache .cache/reviews
	$(BIN)/python -m text_envs.assets.build_continuations
	$(BIN)/python -m text_envs.assets.build_wordle
	$(BIN)/python -m text_envs.assets.build_comments
	$(BIN)/python -m text_envs.assets.build_concepts
	$(BIN)/python -m text_envs.assets.build_summaries
	$(BIN)/python -m text_envs.reference

clean:
	rm -rf $(VENV) .venv-trl .pytest_cache .mypy_cache .ruff_cache .hypothesis
