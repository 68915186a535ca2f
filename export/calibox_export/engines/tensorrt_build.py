"""From a graph to a serialised engine of TensorRT or TensorRT-RTX, by the one API that both have."""

import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibox_core.engines import EngineError, Runtime
from calibox_export.engines.tensorrt_api import (
    Builder,
    Config,
    ErrorTexts,
    Network,
    Parser,
    TensorRt,
    import_tensorrt,
    reasons,
)

# Scratch memory of a layer at most. TensorRT takes what it finds otherwise, and a device serves others meanwhile.
WORKSPACE = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOrder:
    """What to build."""

    runtime: Runtime
    graph: bytes  # of `tensorrt_graph`
    plan: Path  # file to write
    max_batch: int
    capabilities: tuple[str, ...] = ()  # such as sm_89, of TensorRT-RTX; TensorRT builds for the device that is there
    plugin: Path | None = None  # library to load; never with TensorRT-RTX, whose parser ends the process over it
    embed_plugin: bool = False  # into the plan
    timing_cache: Path | None = None  # read and rewritten


def build_plan(trt: TensorRt, order: PlanOrder) -> bool:
    """Writes the plan; whether a plugin is part of it.

    Raises:
        EngineError: TensorRT does not start, or refuses a node, the plugin, a capability or the whole.
    """
    errors = ErrorTexts(trt)
    builder = _builder(trt, errors)
    if order.plugin is not None:
        _load(builder, order.plugin, errors)
    network = builder.create_network(_network_flags(trt))
    parser = _parsed(trt, network, order, errors)  # holds the weights until the engine is built
    with_plugin = order.plugin is not None and _has_plugin(trt, network)
    config = _config(trt, builder, network, order)
    if with_plugin and order.embed_plugin:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)  # no other engine carries plugins
        config.plugins_to_serialize = [str(order.plugin)]
    plan = builder.build_serialized_network(network, config)
    del parser
    if plan is None:
        raise errors.refusal(f"{order.runtime} cannot build the engine")
    order.plan.write_bytes(memoryview(plan))
    _keep_timings(config, order)
    return with_plugin


def build_plan_apart(order: PlanOrder) -> bool:
    """The same in a process of its own, in which no plugin was loaded and nothing else is lost if it ends.

    Raises:
        EngineError: as `build_plan`, or that process ended.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_import_and_build, order).result()
        except BrokenProcessPool as error:
            raise EngineError(
                f"{order.runtime} ended the process that built the engine, without a reason; what it wrote to the "
                "terminal may tell more"
            ) from error


def _import_and_build(order: PlanOrder) -> bool:
    return build_plan(import_tensorrt(order.runtime), order)


def _builder(trt: TensorRt, errors: ErrorTexts) -> Builder:
    try:
        return trt.Builder(errors.logger)
    except (TypeError, RuntimeError) as error:
        # The binding's words are "factory function returned nullptr"; the reason is in the log.
        raise errors.refusal("TensorRT does not start; is there an NVIDIA GPU and its driver (nvidia-smi)") from error


def _load(builder: Builder, plugin: Path, errors: ErrorTexts) -> None:
    if builder.get_plugin_registry().load_library(str(plugin)) is None:
        raise errors.refusal(f"TensorRT cannot load {plugin}")


def _network_flags(trt: TensorRt) -> int:
    """Strong typing, where it must be asked for: 11 has nothing else, and no flag."""
    flag = getattr(getattr(trt, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parsed(trt: TensorRt, network: Network, order: PlanOrder, errors: ErrorTexts) -> Parser:
    parser = trt.OnnxParser(network, errors.logger)
    if parser.parse(order.graph):
        return parser
    if not parser.num_errors:
        raise errors.refusal(f"{order.runtime} cannot read the graph")
    error = parser.get_error(0)
    functions = "".join(f" in {name}" for name in reversed(error.local_function_stack()))
    said = "; ".join(line for line in reasons([error.desc()]) if not line.startswith("Invalid Node"))
    raise EngineError(f"{order.runtime} takes no {error.node_operator()} like {error.node_name()}{functions}: {said}")


def _has_plugin(trt: TensorRt, network: Network) -> bool:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return any(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers)


def _config(trt: TensorRt, builder: Builder, network: Network, order: PlanOrder) -> Config:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is asked for where 10 bits are too few
    if hasattr(trt.BuilderFlag, "STRICT_NANS"):
        config.set_flag(trt.BuilderFlag.STRICT_NANS)  # the operator's comparisons are false for NaN
    profile = builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        profile.set_shape(tensor.name, *_range(tensor.shape, order.max_batch))
    config.add_optimization_profile(profile)
    _set_capabilities(trt, config, order.capabilities)
    if order.timing_cache is not None:
        _set_timings(config, order.timing_cache)
    return config


def _range(shape: Sequence[int], max_batch: int) -> list[tuple[int, ...]]:
    """Least, best and largest shape. Kernels are chosen for half of the largest batch: most are full or single."""
    return [tuple(batch if size == -1 else size for size in shape) for batch in (1, (max_batch + 1) // 2, max_batch)]


def _set_capabilities(trt: TensorRt, config: Config, capabilities: Sequence[str]) -> None:
    if not capabilities:
        return
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        found = getattr(trt.ComputeCapability, name.replace("_", "").upper(), None)
        if found is None or not config.set_compute_capability(found, index):
            known = sorted(int(one[2:]) for one in dir(trt.ComputeCapability) if one.startswith("SM"))
            raise EngineError(
                f"tensorrt-rtx {trt.__version__} builds for no {name}, only for {', '.join(f'sm_{n}' for n in known)}"
            )


def _set_timings(config: Config, path: Path) -> None:
    """What kernels took before; one of another version or device counts as none."""
    content = path.read_bytes() if path.is_file() else b""
    for candidate in (content, b""):
        cache = config.create_timing_cache(candidate)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def _keep_timings(config: Config, order: PlanOrder) -> None:
    cache: Any = config.get_timing_cache() if order.timing_cache is not None else None
    if cache is None or order.timing_cache is None:
        return
    try:
        order.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=order.timing_cache.parent, delete=False) as scratch:
            scratch.write(memoryview(cache.serialize()))
        Path(scratch.name).replace(order.timing_cache)
    except OSError:
        return  # the next build takes longer, that is all
