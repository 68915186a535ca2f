#!/usr/bin/env bash
# Builds, checks and times the CUDA kernels; results.md and results.json come to lie in FOLDER.
#
#     benchmarks/gpu/run.sh [--host] FOLDER [STEP ...]
#
# STEP is a step or one of the groups checks, timings and models, each of which ends within 8 minutes; without one all
# steps run, in at most 20 minutes. A later call with the same FOLDER adds to what is there. --host runs the same on the
# CPU, with small sizes and the kernels' host build. Needs Python 3.11, torch, torchvision, numpy and nvcc, nothing else.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PYTHONPATH="$root:$root/benchmarks:$root/core:$root/training:$root/export${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
