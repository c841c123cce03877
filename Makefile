# Every target sets itself up: a fresh clone needs Python 3.11 or 3.12 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready

TRT_BINDINGS := 10.15.1.29 10.16.1.11 11.4.0.106

# Python starts some hundred times in the tests: bytecode is kept, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint format clean trt-bindings rtx

demo: $(STAMP)
	$(BIN)/python -m img_deploy.benchmarks.demo --out demo

test: $(STAMP) lint trt-bindings rtx
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .typecheck build && $(BIN)/pip install -q --no-deps --no-build-isolation --no-compile --target .typecheck .
	cd .typecheck && MYPYPATH=. ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p img_deploy

format: $(STAMP)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

$(STAMP): pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 12) else "img-deploy needs Python 3.11 or 3.12; run make PYTHON=python3.12")'
	@echo "setting up .venv: a few minutes, once"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -U pip
	$(BIN)/pip install -q -c constraints.txt -e ".[cpu,index,ray,serve,train,dev]"
	$(BIN)/pip install -q --no-deps triton==3.6.0
	touch $@

# TensorRT's Python bindings without TensorRT, to check names and signatures against; tests skip without them.
trt-bindings: $(TRT_BINDINGS:%=.trt/%/.ready)

.trt/%/.ready: | $(STAMP)
	@$(BIN)/pip install -q --no-deps --target .trt/$* tensorrt-cu13-bindings==$* && touch $@ \
	  || echo "TensorRT $* bindings not to be had: the tests that need them will be skipped"

# TensorRT for RTX, which builds engines without a GPU; tests skip without it.
rtx: | $(STAMP)
	@$(BIN)/pip install -q -c constraints.txt -e ".[rtx]" \
	  || echo "TensorRT for RTX not to be had: the tests that need it will be skipped"

clean:
	rm -rf .venv .typecheck .trt build demo
