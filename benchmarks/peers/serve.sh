#!/usr/bin/env bash
# Serves the bundle BUNDLES/MODEL on PORT as one compares servers: logs like theirs, no page, the rest as it comes.
#
#     BUNDLES=DIR MODEL=det PORT=8000 benchmarks/peers/serve.sh [OPTION of calibox serve ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
exec "${CALIBOX:-$root/.venv/bin/calibox}" serve --models "${BUNDLES:?a folder that benchmarks/peers/wrap.py wrote}/${MODEL:?det or tiny}" \
    --host 127.0.0.1 --port "${PORT:?a port}" --engine onnxruntime --log-level warning --no-page "$@"
