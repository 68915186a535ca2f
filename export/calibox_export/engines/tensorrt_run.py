"""A TensorRT engine as a function of arrays, to measure it; the server has a faster way. Memory is PyTorch's."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibox_export.engines.tensorrt_api import ErrorTexts, TensorRt
from calibox_export.parity import Arrays, Graph

if TYPE_CHECKING:
    import torch

_TYPES = {"FLOAT": "float32", "INT32": "int32", "UINT8": "uint8"}  # PyTorch's names by TensorRT's


def gpu_capability() -> str | None:
    """Of the GPU that PyTorch uses, such as sm_89; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def open_plan(trt: TensorRt, plan: Path, plugin: Path) -> Graph | None:
    """The engine, every output by name; None where no GPU is here that it was built for.

    Args:
        trt: the package that built it.
        plan: a file that was made on this machine, or whose hash was compared: it may carry code.
        plugin: loaded where it is there.

    Raises:
        EngineError: it cannot be loaded or run.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    errors = ErrorTexts(trt)
    content, runtime = plan.read_bytes(), trt.Runtime(errors.logger)
    if hasattr(runtime, "get_engine_validity"):  # of TensorRT-RTX, whose engines may be for other devices
        validity, _ = runtime.get_engine_validity(content)
        if validity.name == "INVALID":
            return None
    return open_content(runtime, content, plugin, errors, torch.device("cuda"))


def open_content(runtime: Any, content: bytes, plugin: Path, errors: ErrorTexts, device: "torch.device") -> Graph:
    """The same by a runtime, for a device."""
    import torch

    runtime.engine_host_code_allowed = True  # a plugin may be inside
    if plugin.is_file() and runtime.get_plugin_registry().load_library(str(plugin)) is None:
        raise errors.refusal(f"TensorRT cannot load {plugin}")
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise errors.refusal("TensorRT cannot read the engine that it built")
    context = engine.create_execution_context()
    if context is None:
        raise errors.refusal("TensorRT has no room to run the engine")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
    outputs = {name: getattr(torch, _TYPES[engine.get_tensor_dtype(name).name]) for name in names if name not in inputs}

    def run(feeds: Arrays) -> Arrays:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(feeds[name])).to(device) for name in inputs}
        told = [context.set_input_shape(name, tuple(tensors[name].shape)) for name in inputs]
        for name, kind in outputs.items():
            tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=kind, device=device)
        told += [context.set_tensor_address(name, tensor.data_ptr()) for name, tensor in tensors.items()]
        if not all(told) or not _execute(context, device):
            raise errors.refusal("TensorRT does not run the engine")
        return {name: tensors[name].cpu().numpy() for name in outputs}

    return run


def _execute(context: Any, device: "torch.device") -> bool:
    """On a stream of its own, as TensorRT advises, until it is done."""
    import torch

    if device.type != "cuda":
        return bool(context.execute_async_v3(0))
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    done = bool(context.execute_async_v3(stream.cuda_stream))
    stream.synchronize()
    return done
