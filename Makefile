# CroCo. `make` lists the targets; `make run` and `make test` do everything on a machine that has Python 3.11.

PYTHON ?= python3.11
# Where pip finds PyTorch's CPU wheel, if not where it looks by itself (README, "Installing").
TORCH_INDEX ?=
# Where a run goes; by default a new folder in runs, and runs/latest points to it.
OUT ?=
# Tests run in this many processes of one thread each: OpenMP's threads wait for each other where cores are shared.
WORKERS ?= 2
# Benches to run; all by default.
BENCH ?=
# The study that `make study` runs.
CONFIG ?= pipelines/configs/toy.yaml
# Processes that its arms are dealt to, about 2.5 GB each.
JOBS ?= 2
# JSON file with the digests of a registry's images, without which a package is compiled for no caching.
IMAGES ?=
# Images to build, of cpu, gpu and euroeval; all by default. VARIANT=cpu is for machines without a GPU.
ONLY ?=
VARIANT ?= gpu
ENGINE ?= podman
# HOST/PATH to push them to.
REGISTRY ?=

TORCH := torch==2.13.0
BIN := .venv/bin
INSTALLED := .venv/installed
TOY := .cache/toy
# A real S3 server for the tests, in an environment of its own.
OBJECTSTORE := .cache/objectstore
# What checks images and manifests: linters, kubectl, and the object store that manifests ship.
LINT := .cache/lint

# AlpacaEval's own package, which the win rates are held against.
ALPACA := .cache/alpaca

.DEFAULT_GOAL := help
.PHONY: help install toy run study test test-fast lint format signal chaos bench bench-quick winrates compile images images-test lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv with the locked environment

$(INSTALLED): images/laptop.lock pyproject.toml
	@echo "installing the locked environment into .venv: about 2 minutes, 3.7 GB"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install --quiet --no-deps --require-hashes -r images/laptop.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c "import torch; assert torch.version.cuda is None" || { echo "make install: found a PyTorch built \
	for CUDA, or a broken one; expected the CPU wheel of $(TORCH): set TORCH_INDEX (README, Installing)"; exit 1; }
	@touch $@

$(OBJECTSTORE)/installed: images/objectstore.lock
	$(PYTHON) -m venv --clear $(OBJECTSTORE)
	$(OBJECTSTORE)/bin/pip install --quiet --no-deps --require-hashes -r images/objectstore.lock
	@touch $@

$(LINT)/installed: images/lint.lock
	$(PYTHON) -m venv --clear $(LINT)
	$(LINT)/bin/pip install --quiet --no-deps --require-hashes -r images/lint.lock
	@touch $@

$(ALPACA)/installed: images/alpaca.lock
	$(PYTHON) -m venv --clear $(ALPACA)
	$(ALPACA)/bin/pip install --quiet --no-deps --require-hashes -r images/alpaca.lock
	@touch $@

toy: install  ## train the toy world (cached in .cache/toy)
	$(BIN)/python -m croco toy --out $(TOY)

run: toy  ## the whole flow on the toy world; prints the path of its report
	$(BIN)/python -m pipelines run --toy $(TOY) $(if $(OUT),--out $(OUT))

study: toy  ## every arm of the paper's comparison on the toy world; prints the path of its report (CONFIG=FILE for another)
	$(BIN)/python -m pipelines run --pipeline study --config $(CONFIG) --toy $(TOY) --jobs $(JOBS) $(if $(OUT),--out $(OUT))

test: lint toy $(OBJECTSTORE)/installed $(LINT)/installed $(ALPACA)/installed  ## every test, with real vLLM, TRL, EuroEval and kfp.local
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-fast: install $(OBJECTSTORE)/installed $(LINT)/installed $(ALPACA)/installed  ## the tests that need no engine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not engine and not browser"

lint: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

signal: toy  ## does the method work: tuned against base and a coin-flipped control, three seeds, on held-out prompts
	$(BIN)/python tests/e2e/measure_signal.py --toy $(TOY) --out .cache/signal

chaos: toy $(OBJECTSTORE)/installed  ## kill every stage at random instants; resume; hold the outputs against undisturbed runs
	PYTHONPATH=tests $(BIN)/python -m chaos --toy $(TOY) --out .cache/chaos

bench: toy $(OBJECTSTORE)/installed  ## every stage's speed: ours, the released code's procedure, the limit (BENCH="scoring dpo" for some)
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH) --toy $(TOY) --out .cache/bench

bench-quick: toy $(OBJECTSTORE)/installed  ## the same at small sizes: does it run, and about where does it stand
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH) --toy $(TOY) --out .cache/bench/quick --quick

winrates: install  ## are the win rates right about simulated judges whose biases are known
	$(BIN)/python tests/bench/winrates.py --out .cache/bench/winrates.json

compile: install  ## the Kubeflow package, croco-preference.yaml; IMAGES=FILE pins its images
	$(BIN)/python -m pipelines compile --out croco-preference.yaml $(if $(IMAGES),--images $(IMAGES),--allow-tags)

images:  ## build the images (images/README.md); REGISTRY=HOST/PATH pushes them and notes their digests for compile
	$(PYTHON) images/build.py $(ONLY) --variant $(VARIANT) --engine $(ENGINE) $(if $(REGISTRY),--registry $(REGISTRY))

images-test: toy  ## build the images' CPU variants and run the flow with every task in a container (as root, on Debian)
	tests/images/setup.sh .cache/images
	$(if $(TORCH_INDEX),TORCH_INDEX=$(TORCH_INDEX)) tests/images/build.sh .cache/images $(ONLY)
	CONTAINERS_CONF=$(CURDIR)/.cache/images/containers.conf ONLY="$(ONLY)" $(if $(TORCH_INDEX),TORCH_INDEX=$(TORCH_INDEX)) \
		$(BIN)/python -m pytest tests/images/containers.py

lock: install  ## pin every images/*.in with hashes into its .lock
	$(PYTHON) -m venv .cache/uv && .cache/uv/bin/pip install --quiet uv==0.13.8
	for name in laptop objectstore lint alpaca; do \
		.cache/uv/bin/uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate --python-version 3.11 \
			--index-strategy unsafe-best-match --output-file images/$$name.lock images/$$name.in || exit 1; done
	PATH=$(CURDIR)/.cache/uv/bin:$$PATH images/lock.sh

clean:  ## remove what runs leave behind; keeps .venv and the toy world
	rm -rf runs .cache/store croco-preference.yaml .pytest_cache .mypy_cache .ruff_cache .hypothesis
