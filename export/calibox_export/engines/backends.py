"""The runtimes that engines can be built for."""

from calibox_core.engines import Runtime
from calibox_export.engines.backend import Backend
from calibox_export.engines.onnxruntime_file import OnnxRuntimeBackend
from calibox_export.engines.openvino_ir import OpenVinoBackend
from calibox_export.engines.tensorrt_plan import TensorRtBackend, TensorRtRtxBackend

_ALL: tuple[Backend, ...] = (OnnxRuntimeBackend(), OpenVinoBackend(), TensorRtBackend(), TensorRtRtxBackend())
BACKENDS: dict[Runtime, Backend] = {backend.runtime: backend for backend in _ALL}
