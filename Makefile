# make check: lint, types, layers, API. make test: everything, with all set-up. make demo: see it work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTOS := $(sort $(wildcard proto/shoal/v1/*.proto))
LAST_API := docs/api/last-release.binpb
GENERATE = $(BIN)/python -m grpc_tools.protoc -I proto \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc
PYTEST_ARGS ?=

.PHONY: help venv apt apt-dev check lint types layers api stubs proto fmt test unit demo bench bench-peers api-release clean

help:
	@echo "targets: venv proto fmt check test unit demo bench bench-peers api-release clean"

venv: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	# Installed packages are compiled when they are installed; these too, also where PYTHONDONTWRITEBYTECODE is set.
	$(BIN)/python -m compileall -q common server client
	touch $@

apt:
	deploy/apt-install.sh deploy/apt-packages.txt

apt-dev:
	deploy/apt-install.sh deploy/apt-packages.txt deploy/apt-packages-demo.txt deploy/apt-packages-dev.txt

check: lint types layers api stubs

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy common server client

layers: venv
	$(BIN)/lint-imports --no-cache

api: venv
	cd proto && ../$(BIN)/buf lint
	@if [ -f $(LAST_API) ]; then echo "buf breaking against $(LAST_API)"; \
		cd proto && ../$(BIN)/buf breaking --against ../$(LAST_API); \
	else echo "no released API yet: nothing to break"; fi

# The committed stubs are what the protos give, byte for byte.
stubs: venv
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(GENERATE) --python_out=$$fresh --grpc_python_out=$$fresh --mypy_out=$$fresh --mypy_grpc_out=$$fresh $(PROTOS) \
		2>/dev/null && \
	diff -r --exclude=__pycache__ --exclude=__init__.py $$fresh/shoal/v1 common/shoal/v1 && echo "stubs are up to date" \
	|| { echo "the stubs differ from the protos: run 'make proto' and commit" >&2; exit 1; }

proto: venv
	$(GENERATE) --python_out=common --grpc_python_out=common --mypy_out=common --mypy_grpc_out=common $(PROTOS)

# After a release: what later changes of the API are compared with.
api-release: venv
	mkdir -p $(dir $(LAST_API))
	cd proto && ../$(BIN)/buf build -o ../$(LAST_API)

fmt: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: apt-dev venv
	$(BIN)/pytest $(PYTEST_ARGS)

unit: venv
	$(BIN)/pytest tests/unit tests/golden $(PYTEST_ARGS)

# It installs what it needs itself, which is less than the tests want.
demo:
	./examples/demo.sh

bench: apt-dev venv
	$(BIN)/python -m bench $(BENCH_ARGS)

bench-peers:
	deploy/apt-install.sh deploy/apt-packages-peers.txt

clean:
	rm -rf $(VENV) dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
