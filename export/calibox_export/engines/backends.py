"""The runtimes that engines can be built for."""

from calibox_core.engines import Runtime
from calibox_export.engines.backend import Backend
from calibox_export.engines.openvino_ir import OpenVinoBackend

BACKENDS: dict[Runtime, Backend] = {backend.runtime: backend for backend in (OpenVinoBackend(),)}
