# calibox: `make help` lists what can be made. Needs Python 3.11 or newer with venv and pip, and nothing else.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
# Further words for pytest: make test ARGS="tests/unit/core -k letterbox"
ARGS ?=
# Test files run side by side in so many processes, a file's tests in one; 0 runs them in pytest's own, as debuggers want.
JOBS ?= auto
PYTEST := -m pytest --numprocesses $(JOBS) --maxprocesses 8 --dist loadfile

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

SERVE_EXTRAS := server,cpu
# Everything but `gpu`, which cannot stand beside `cpu`: both ship the package onnxruntime.
ALL_EXTRAS := server,grpc,cpu,openvino,quantize,tensorrt-rtx,train,export,eval,reproduce,supervision,pandas,video,ray,otel,dev

# Tests only. It asks for older packages (protobuf below 7, greenlet below 3.4) than the rest, and works with the newer.
ALONE := tritonclient

# One stamp per set of extras, newer than what decides about the packages: then pip does not run at all.
VENV_READY := $(VENV)/.ready-venv
SERVE_READY := $(VENV)/.ready-serve
ALL_READY := $(VENV)/.ready-all
PINS := pyproject.toml constraints.txt

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help serve install test test-all soak lint format kernels protocol constraints locks images sbom release-check clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(SERVE_READY)  ## serve the bundles in models/ (HOST=127.0.0.1 PORT=8000); installs what that needs
	@exec $(BIN)/calibox serve --models models --host "$(HOST)" --port "$(PORT)"

install: $(ALL_READY)  ## install every extra except gpu into .venv

test: $(ALL_READY)  ## the tests, without those that are slow or need a GPU
	$(BIN)/python $(PYTEST) $(ARGS)

test-all: $(ALL_READY)  ## all tests, slow ones and those for a GPU too
	$(BIN)/python $(PYTEST) -m "" $(ARGS)

soak: $(ALL_READY)  ## what a server must bear, in full (half an hour on two quiet cores); writes docs/results/soak.md
	$(BIN)/python -m benchmarks.soak load --bundle models/bccd $(ARGS); real=$$?; \
		$(BIN)/python -m benchmarks.soak --goodput 0.88 $(ARGS) && exit $$real

lint: $(ALL_READY)  ## format, style, types and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(ALL_READY)  ## write the format and the fixes that ruff knows
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

kernels:  ## the CUDA kernels for this machine's CPU, to test them, in trt_plugins/build (needs cmake)
	cd trt_plugins && cmake --preset host && cmake --build --preset host

PROTOCOL := server/calibox_server/oip
protocol: $(ALL_READY)  ## the descriptors of the gRPC messages, from their .proto files
	cd $(PROTOCOL) && ../../../$(BIN)/python -m grpc_tools.protoc -I. --descriptor_set_out=protocol.binpb inference.proto health.proto

constraints: $(ALL_READY)  ## raise .venv to the newest versions that pyproject.toml allows, and pin them
	$(PIP) install --upgrade --upgrade-strategy eager --editable '.[$(ALL_EXTRAS)]'
	{ grep '^#' constraints.txt; $(PIP) freeze --exclude-editable | grep -vE '^(nvidia-|cuda-|triton=)'; } > $(VENV)/pins
	mv $(VENV)/pins constraints.txt

locks: $(ALL_READY)  ## the packages of the container images with their hashes, in docker/locks, from constraints.txt
	docker/lock.sh

# What the machine has mounted while an image is built, for instance a certificate: see docker/rootless-build.sh.
VOLUMES ?=
IMAGES ?= /var/tmp/calibox-images
images: $(ALL_READY)  ## build and ask the images cpu and eval without a container engine (root, Debian's buildah, debootstrap, bubblewrap)
	docker/rootless-build.sh --work $(IMAGES) $(foreach volume,$(VOLUMES),--volume $(volume)) cpu eval
	$(BIN)/python -m release sbom --trees $(IMAGES)
	$(BIN)/python -m benchmarks.images --work $(IMAGES)

sbom: $(ALL_READY)  ## bills of material of the images in build/sbom (CycloneDX)
	$(BIN)/python -m release sbom $(ARGS)

release-check: $(ALL_READY)  ## what must hold before a release; TAG=v1.2.3 asks for a finished changelog, too
	$(BIN)/python -m release check $(if $(TAG),--tag $(TAG)) $(ARGS)

clean:  ## remove .venv, caches and builds
	rm -rf $(VENV) build dist trt_plugins/build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp and not bin/python, which exists before pip does.
$(VENV_READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: calibox needs Python 3.11 or newer, and $(PYTHON) is not; name another one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'error: $(PYTHON) comes without venv or pip (on Debian and Ubuntu: apt install python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(SERVE_READY): $(PINS) | $(VENV_READY)
	$(PIP) install --constraint constraints.txt --editable '.[$(SERVE_EXTRAS)]'
	@touch $@

# These extras include those for serving.
$(ALL_READY): $(PINS) | $(VENV_READY)
	$(PIP) install --constraint constraints.txt --editable '.[$(ALL_EXTRAS)]'
	$(PIP) install --constraint constraints.txt --no-deps $(ALONE)
	@touch $@ $(SERVE_READY)
