"""From a file to an engine on the device: the runtime, the plugin and the plan."""

from calibox_core.engines import BuiltEngine
from calibox_core.tensorrt_package import PLUGIN_FILE, ErrorTexts
from calibox_server.cuda.driver import Device
from calibox_server.tensorrt.api import CudaEngine, RuntimeObject, TensorRt
from calibox_server.tensorrt.fits import check_device, check_plugin, check_version, trusted_plan


def load(trt: TensorRt, built: BuiltEngine, device: Device, errors: ErrorTexts) -> tuple[RuntimeObject, CudaEngine]:
    """The engine, and its runtime, which is to be kept as long.

    Raises:
        EngineError: it was built for another version or device, its files are not those of its record, or TensorRT
            does not take it.
    """
    check_version(built, trt.__version__)
    check_device(built, device.capability)
    check_plugin(built)
    plan = trusted_plan(built)
    runtime = _runtime(trt, built, errors)
    _add_plugin(runtime, built, errors)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise errors.refusal(f"{built.record.runtime} cannot read the plan in {built.folder}")
    return runtime, engine


def _runtime(trt: TensorRt, built: BuiltEngine, errors: ErrorTexts) -> RuntimeObject:
    try:
        return trt.Runtime(errors.logger)
    except (TypeError, RuntimeError) as error:
        # The binding's words are "factory function returned nullptr"; the reason is in the log.
        raise errors.refusal(f"{built.record.runtime} does not start") from error


def _add_plugin(runtime: RuntimeObject, built: BuiltEngine, errors: ErrorTexts) -> None:
    library = built.folder / PLUGIN_FILE
    if library.is_file():
        if runtime.get_plugin_registry().load_library(str(library)) is None:
            raise errors.refusal(f"{built.record.runtime} cannot load {library}")
    elif built.record.plugin_sha256:
        runtime.engine_host_code_allowed = True  # the plugin is in the plan, whose hash was just compared
