# Everything a new machine with Python >= 3.10, pip and make needs: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-long test-browser check lint types bench bench-peers studies interop assets clean

help:
	@echo "make demo         train PPO on movie reviews and show before and after (under 3 minutes)"
	@echo "make test         run the tests"
	@echo "make test-long    run studies, benchmarks and recipes at their smallest size"
	@echo "make test-browser open pages in headless Chromium; installs it on Debian where it is missing"
	@echo "make check        lint, types and tests"
	@echo "make bench        measure speed and memory as ratios; writes docs/results/benchmark.json"
	@echo "make bench-peers  seconds to a reward against TRL, in a virtual environment of its own"
	@echo "make studies      every study of the README; hours, and it goes on where it was stopped"
	@echo "make interop      every recipe for another library, each in a virtual environment of its own"
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
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long"

# Studies, benchmarks and recipes at their smallest size: what they find is no matter of a test.
test-long: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

# `make test` runs these too, but skips them where there is no Chromium.
test-browser: $(INSTALLED)
	@command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable || \
	if ! command -v apt-get >/dev/null; then \
		echo "Chromium is missing, and there is no apt-get to install it with; please install it"; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then \
		apt-get update && apt-get install --yes --no-install-recommends chromium && command -v chromium; \
	elif command -v sudo >/dev/null; then \
		sudo apt-get update && sudo apt-get install --yes --no-install-recommends chromium && command -v chromium; \
	else \
		echo "Chromium is missing; as root: apt-get install chromium"; exit 1; \
	fi
	$(BIN)/python -m pytest tests/browser

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types test test-long

bench: $(INSTALLED)
	$(BIN)/python examples/benchmark.py

# TRL pins what it needs in an environment of its own; it is never a dependency.
bench-peers: $(INSTALLED)
	test -x .venv-trl/bin/python || $(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --constraint constraints.txt -r examples/benchmarks/requirements-trl.txt
	.venv-trl/bin/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python examples/benchmark.py peers

studies: $(INSTALLED)
	$(BIN)/python examples/study_quickstart.py --seeds 3
	for name in offline kl_control rcfd rlgf hir her; do \
		$(BIN)/python examples/study_$$name.py --workers 2 || exit 1; \
	done
	$(BIN)/python examples/results.py

# Each library in an environment of its own; `examples/interop/run.py --only NAME` runs one.
interop:
	$(PYTHON) examples/interop/run.py

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
	rm -rf $(VENV) .venv-*/ .pytest_cache .mypy_cache .ruff_cache .hypothesis
