"""TensorRT and TensorRT-RTX as runtimes of `calibox build`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx

from calibox_core.bundle import sha256_of
from calibox_core.engines import EngineError, Runtime, cache_folder
from calibox_core.precision import Precision
from calibox_core.tensorrt_package import PLAN_FILE, PLUGIN_FILE
from calibox_export.engines.backend import Facts, Work
from calibox_export.engines.tensorrt_api import import_tensorrt
from calibox_export.engines.tensorrt_build import PlanOrder, build_plan, build_plan_apart
from calibox_export.engines.tensorrt_graph import tensorrt_graph
from calibox_export.engines.tensorrt_run import gpu_capability, open_plan
from calibox_export.kernels.library import Device, library_path
from calibox_export.parity import Graph

_FIRST_WITH_BFLOAT16 = 80  # sm_80


class _Plans:
    """What both have: plans, for which a machine has one GPU or none."""

    runtime: Runtime
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")

    def version(self) -> str:
        """Of the package."""
        return import_tensorrt(self.runtime).__version__

    def open(
        self,
        folder: Path,
        precision: Precision,  # noqa: ARG002 - the plan says it
        *,
        as_served: bool = False,  # noqa: ARG002 - a plan is compiled
    ) -> Graph | None:
        """On this machine's GPU, if it was built for that one."""
        return open_plan(import_tensorrt(self.runtime), folder / PLAN_FILE, folder / PLUGIN_FILE)


class TensorRtBackend(_Plans):
    """TensorRT on this machine's GPU. It builds and measures there, and nowhere else."""

    runtime: Runtime = "tensorrt"

    def check(self, precision: Precision) -> None:
        """Asks the GPU."""
        capability = gpu_capability()
        if capability is None:
            raise EngineError(
                "TensorRT builds on the NVIDIA GPU that is to run the engine, and PyTorch sees none here (nvidia-smi "
                "tells whether there is a driver); for an RTX GPU of another machine, build with "
                "--engine tensorrt-rtx --target sm_89"
            )
        _check_bfloat16(precision, [capability])

    def write(self, work: Work, folder: Path) -> Facts:
        """model.plan, and the plugin's library beside it unless it is inside or there is none."""
        if work.targets:
            raise EngineError("TensorRT builds for this machine's GPU alone: leave --target out")
        capability, plugin = gpu_capability() or "", plugin_path()
        with_plugin = build_plan(
            import_tensorrt(self.runtime),
            PlanOrder(
                runtime=self.runtime,
                graph=tensorrt_graph(onnx.load(work.bundle.model_path), work.precision).SerializeToString(),
                plan=folder / PLAN_FILE,
                max_batch=work.max_batch,
                plugin=plugin,
                embed_plugin=work.embed_plugin,
                timing_cache=cache_folder() / f"tensorrt-{self.version()}-{capability}.timing",
            ),
        )
        if plugin is None or not with_plugin:
            return Facts(needs=(capability,))
        if not work.embed_plugin:
            shutil.copyfile(plugin, folder / PLUGIN_FILE)
        return Facts(needs=(capability,), plugin_sha256=sha256_of(plugin))


class TensorRtRtxBackend(_Plans):
    """TensorRT-RTX, for GPUs of GeForce and RTX. It builds on any machine, for the GPUs that are named."""

    runtime: Runtime = "tensorrt-rtx"

    def check(self, precision: Precision) -> None:
        """Nothing: what it builds for is known when it is told."""

    def write(self, work: Work, folder: Path) -> Facts:
        """model.plan, with the operator's function: TensorRT-RTX has no plugins."""
        if work.embed_plugin:
            raise EngineError(
                "TensorRT-RTX has no plugins and computes the operator by its function: leave --embed-plugin out"
            )
        targets = work.targets or tuple(filter(None, [gpu_capability()]))
        if not targets:
            raise EngineError(
                "there is no NVIDIA GPU here to build for: name those that will run it, such as --target sm_89"
            )
        _check_bfloat16(work.precision, targets)
        build_plan_apart(
            PlanOrder(
                runtime=self.runtime,
                graph=tensorrt_graph(onnx.load(work.bundle.model_path), work.precision).SerializeToString(),
                plan=folder / PLAN_FILE,
                max_batch=work.max_batch,
                capabilities=targets,
            )
        )
        return Facts(needs=targets)


def plugin_path() -> Path | None:
    """The operator's library, where it was built: beside the kernels."""
    path = library_path(Device.CUDA).with_name(PLUGIN_FILE)
    return path if path.is_file() else None


def _check_bfloat16(precision: Precision, capabilities: Sequence[str]) -> None:
    numbers = {name: name.removeprefix("sm_") for name in capabilities}
    old = [name for name, number in numbers.items() if number.isdigit() and int(number) < _FIRST_WITH_BFLOAT16]
    if precision == "bf16" and old:
        raise EngineError(f"{', '.join(old)} has no bfloat16 arithmetic, which began with sm_80: take --precision fp16")
