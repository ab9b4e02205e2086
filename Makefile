# Needs python3 (3.11 or newer) and make; the rest is installed into .venv on first use.
#   make demo PYTHON=python3.12     chooses the Python

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
DIST ?= dist

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint requirements/constraints.txt
REQUIRED := pyproject.toml requirements/constraints.txt

COMMA := ,
TARGETS ?= onnx$(COMMA)tflite$(COMMA)coreml
OLDEST := .venv-oldest
BROWSER_PACKAGES := .browser

SHA256SUM = $(shell command -v sha256sum || echo shasum -a 256)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

BROWSER ?= $(shell command -v chromium || command -v google-chrome || command -v chromium-browser)

.PHONY: help demo oldest browser workflows docs release verify-release test test-slow test-all lint types architecture \
  pytest fuzz benchmark format clean

help:
	@echo "make demo       export the packaged model to every target, verify it, and show what each size costs"
	@echo "make oldest     verify bundles with the oldest supported onnxruntime, without PyTorch and converters"
	@echo "make browser    the playground and reports in headless Chromium (BROWSER=/path/to/chrome); needs npm"
	@echo "make workflows  lints the workflow files, the examples among them; needs npm"
	@echo "make release    wheels, sdist, SBOM, the packaged model's bundle and SHA256SUMS, into $(DIST)"
	@echo "make verify-release  checks these: hashes, and every artifact of the bundle"
	@echo "make docs       the documentation site, in docs/_build/html; a warning is an error"
	@echo "make test       formatting, lint, types, architecture and the quick tests"
	@echo "make test-all   all of that and the slow tests, which make test-slow runs alone"
	@echo "make lint       formatting, lint and spelling"
	@echo "make types      type checking alone"
	@echo "make pytest     every test, quick and slow, alone; ARGS='-k checkpoint' chooses some"
	@echo "make fuzz       damaged files for everything that reads them; SECONDS=600 each, READER=manifest,onnx alone, SEED=7"
	@echo "make benchmark  latency, size and export time of ONNX and Core ML at ViT-B size (TFLite: benchmarks/README.md)"
	@echo "make format     rewrites the code to the format that make lint asks for"
	@echo "make clean      deletes .venv, the demo's bundle and caches"

demo: $(BIN)/.installed
	$(BIN)/hydra-export --target $(TARGETS) --heads 3,6,12 --out $(OUT) >/dev/null
	$(BIN)/hydra-export verify $(OUT) >/dev/null
	@$(BIN)/python scripts/demo.py $(OUT)

oldest: $(BIN)/.installed
	@test -e $(OLDEST)/bin/.installed || { $(PYTHON) -m venv $(OLDEST) && \
	  $(OLDEST)/bin/python -m pip --disable-pip-version-check install --quiet -r requirements/oldest-runtime.txt && \
	  touch $(OLDEST)/bin/.installed; }
	@$(OLDEST)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --force-reinstall .
	$(BIN)/hydra-export --target $(subst $(COMMA)tflite,,$(TARGETS)) --out $(OUT)-oldest >/dev/null
	$(OLDEST)/bin/hydra-export verify $(OUT)-oldest
	$(BIN)/hydra-export --heads all --graph separate,shared --input image --batch dynamic --out $(OUT)-oldest >/dev/null
	$(OLDEST)/bin/hydra-export verify $(OUT)-oldest

browser: $(BIN)/.installed-dev
	@test -n "$(BROWSER)" || { echo "No Chromium or Chrome is on PATH. Install one, or give BROWSER=/path/to/it." >&2; exit 2; }
	mkdir -p $(BROWSER_PACKAGES)
	cp hydra_export/serving/package.json hydra_export/serving/package-lock.json $(BROWSER_PACKAGES)
	npm ci --silent --ignore-scripts --no-audit --no-fund --prefix $(BROWSER_PACKAGES)
	HYDRA_EXPORT_BROWSER="$(BROWSER)" $(BIN)/pytest -n auto --dist loadfile tests/browser

workflows:
	npm ci --silent --no-audit --no-fund --prefix scripts/workflows
	node scripts/workflows/lint.mjs .github/workflows/*.yml examples/workflows/*.yml

# The time of the commit, so that it gives the same bytes; where there is no git, the one that hatchling takes.
release: export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),1580601600)
release: $(BIN)/.installed-release
	@rm -rf "$(DIST)"/hydra_export-* "$(DIST)"/hydra_runtime-* "$(DIST)"/hydravit-fashion-mnist-* "$(DIST)/SHA256SUMS"
	@test -z "$$(ls -A "$(DIST)" 2>/dev/null)" || { \
	  echo "$(DIST) holds files that no release has. Remove them, or give DIST=/another/folder." >&2; exit 2; }
	$(BIN)/python -m build --no-isolation --outdir "$(DIST)" .
	$(BIN)/python -m build --no-isolation --wheel --outdir "$(DIST)" runtime
	$(BIN)/python scripts/make_sbom.py "$(DIST)/hydra_export-$(VERSION).cdx.json"
	$(BIN)/hydra-export export --zip --target $(TARGETS) --heads 3,6,12 --graph separate,universal --no-cache \
	  --out "$(DIST)/hydravit-fashion-mnist-$(VERSION)" >/dev/null
	rm -r "$(DIST)/hydravit-fashion-mnist-$(VERSION)"
	cd "$(DIST)" && $(SHA256SUM) -- * >SHA256SUMS

verify-release:
	cd "$(DIST)" && $(SHA256SUM) --check --strict SHA256SUMS
	$(BIN)/hydra-export verify "$(DIST)/hydravit-fashion-mnist-$(VERSION).zip"

docs: $(BIN)/.installed-dev
	$(BIN)/sphinx-build -W --keep-going --nitpicky --quiet --fresh-env docs docs/_build/html

test: lint types architecture
	$(BIN)/pytest -n auto --dist worksteal --durations 15 -m 'not slow' $(ARGS)

test-slow: $(BIN)/.installed-dev
	$(BIN)/pytest -n auto --dist worksteal --durations 15 -m slow $(ARGS)

# Quick and slow tests together: one start of the workers, and no wait for the last quick test.
test-all: lint types architecture pytest

lint: $(BIN)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell *.* .github Makefile benchmarks docs examples hydra_export requirements runtime scripts tests

types: $(BIN)/.installed-dev
	$(BIN)/mypy

architecture: $(BIN)/.installed-dev
	$(BIN)/lint-imports

pytest: $(BIN)/.installed-dev
	$(BIN)/pytest -n auto --dist worksteal --durations 15 $(ARGS)

fuzz: $(BIN)/.installed-dev
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) --reader "$(READER)" --seed $(or $(SEED),0)

benchmark: $(BIN)/.installed-dev
	$(BIN)/python benchmarks/onnx_target.py
	$(BIN)/python benchmarks/coreml_target.py

format: $(BIN)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(OLDEST) $(BROWSER_PACKAGES) $(OUT) $(OUT)-oldest .mypy_cache .ruff_cache .pytest_cache .import_linter_cache docs/_build

$(BIN)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "hydra-export needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there)." >&2; \
	  echo "Run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu run: apt install python3-venv" >&2; exit 2; }
	@touch $@

$(BIN)/.installed: $(BIN)/.created $(REQUIRED)
	@echo "Installing hydra-export into $(VENV) (PyTorch is large; this is done once) ..."
	@$(PIP) --editable '.[tflite]'
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.created $(REQUIRED)
	@echo "Installing hydra-export and its development tools into $(VENV) (this is done once) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(BIN)/.installed

$(BIN)/.installed-release: $(BIN)/.installed-dev requirements/release.txt
	@$(PIP) --requirement requirements/release.txt
	@touch $@
