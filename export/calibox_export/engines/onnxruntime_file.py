"""ONNX files of lower precision for ONNX Runtime: INT8 on CPUs, float16 on NVIDIA GPUs."""

from pathlib import Path
from typing import Any

import onnx

from calibox_core.bundle import MODEL_FILE
from calibox_core.cpu import INT8_PRODUCTS, has_int8_products
from calibox_core.engines import EngineError, Runtime
from calibox_core.precision import Precision
from calibox_export.engines.backend import Facts, Work
from calibox_export.low_precision.half import to_half
from calibox_export.low_precision.int8 import to_int8
from calibox_export.low_precision.stored import check_fp32
from calibox_export.parity import Graph, open_graph

CUDA = "CUDAExecutionProvider"
# In float16 ONNX Runtime's CPU code computes in float32 between casts, which only costs.
NEEDS: dict[Precision, tuple[str, ...]] = {"int8": (INT8_PRODUCTS,), "fp16": (CUDA,)}


class OnnxRuntimeBackend:
    """ONNX Runtime; in float32 it serves the bundle's own file."""

    runtime: Runtime = "onnxruntime"
    precisions: tuple[Precision, ...] = tuple(NEEDS)

    def version(self) -> str:
        """Of the package."""
        return str(_import_onnxruntime().__version__)

    def check(self, precision: Precision) -> None:
        """Asks the package what it was built with."""
        available = _import_onnxruntime().get_available_providers()
        if precision == "fp16" and CUDA not in available:
            raise EngineError(
                f"ONNX Runtime computes in fp16 on NVIDIA GPUs alone, and the installed one has no {CUDA} (it has "
                f"{', '.join(available)}): install onnxruntime-gpu in its place, or take --precision int8"
            )
        if precision == "int8" and not has_int8_products():
            raise EngineError(
                "this CPU has no INT8 products (AVX-512 VNNI, AVX VNNI or ARM's dot products): ONNX Runtime would be "
                "no faster here, and inexact; serve the ONNX file as it is"
            )

    def write(self, work: Work, folder: Path) -> Facts:
        """model.onnx; that of a bundle in this precision is the bundle's own."""
        graph = onnx.load(work.bundle.model_path)
        if check_fp32(graph, but=work.precision) == "fp32":
            graph = to_int8(graph, work.calibration()) if work.precision == "int8" else to_half(graph, "fp16")
        onnx.save(graph, folder / MODEL_FILE)
        return Facts(needs=NEEDS[work.precision])

    def open(self, folder: Path, precision: Precision, *, as_served: bool = False) -> Graph:  # noqa: ARG002 - all one
        """On this machine: float16 on its GPU."""
        return open_graph(
            folder / MODEL_FILE, providers=(*([CUDA] if precision == "fp16" else []), "CPUExecutionProvider")
        )


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"ONNX Runtime cannot be imported ({error}); install it with: pip install 'calibox[cpu]'"
        ) from error
    return onnxruntime
