#!/usr/bin/env bash
# Writes docker/locks/: the exact packages of each image with the hashes of their files, within constraints.txt.
# `make locks` calls it; with another folder as its word it shows what would change. Nothing is compiled for it; pycuda
# alone has no wheels, and its metadata is read from its source.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=${UV:-.venv/bin/uv}
folder=${1:-docker/locks}

# What all images run: Python 3.12, which is also that of Ubuntu 24.04 under the GPU images, on x86-64 with glibc 2.28.
common=(--constraints constraints.txt --python-version 3.12 --python-platform x86_64-manylinux_2_28
    --generate-hashes --only-binary :all: --no-binary pycuda --no-annotate --quiet)

lock() {
    local name=$1
    shift
    "$uv" pip compile "${common[@]}" --output-file "$folder/$name.txt" "$@"
}

# The slim images take OpenCV as a wheel or compile it, by the build argument OPENCV; so it has a file of its own.
slim=(--no-emit-package opencv-python-headless)

lock build docker/locks/build.in
lock opencv docker/locks/opencv.in --no-deps --no-binary opencv-python-headless
lock cpu pyproject.toml "${slim[@]}" --extra server --extra grpc --extra otel --extra cpu
lock eval pyproject.toml "${slim[@]}" --extra eval
lock gpu pyproject.toml docker/locks/gpu.in --extra server --extra grpc --extra otel --extra cpu
lock train pyproject.toml docker/locks/gpu.in --extra export --extra cpu --extra eval --extra reproduce
