"""On what ONNX Runtime runs: this machine's CPU, or an NVIDIA GPU by CUDA or by TensorRT inside ONNX Runtime.

The GPU's part was written by ONNX Runtime's documentation and has never run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from calibox_core.engines import EngineError, cache_folder
from calibox_core.manifest import Manifest

ProviderName = Literal["auto", "cpu", "cuda", "tensorrt"]
Options = Mapping[str, str]

# Batches gain nothing on CPUs, and threads inside a run cost: a 384 x 512 detector of 6 M parameters took 55 ms of CPU
# per image alone, 55 to 57 ms in batches of 4 and 8, and 62 ms with two threads (two cores, ONNX Runtime 1.31). So the
# default is as many single-threaded runs of one image as there are cores.
CPU_MAX_BATCH = 1
GPU_MAX_BATCH = 8  # as `calibox build` plans for
_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a session runs."""

    title: str
    providers: tuple[tuple[str, Options], ...]  # the first does the work, the others what it cannot
    max_batch: int
    buckets: bool  # whether batches are filled up to 1, 2, 4, 8, ..., because each new shape costs a search


def placement(wanted: ProviderName, available: Sequence[str], manifest: Manifest, max_batch: int | None) -> Placement:
    """Providers and their options.

    Args:
        wanted: auto takes CUDA where the package has it.
        available: what the installed package was built with.
        manifest: says sizes.
        max_batch: most images in one run; None for the provider's default.

    Raises:
        EngineError: the package lacks what was asked for.
    """
    needed = {"cuda": _CUDA, "tensorrt": _TENSORRT}.get(wanted, _CPU)
    if needed not in available:
        raise EngineError(
            f"the installed ONNX Runtime has no {needed} (it has {', '.join(available)}): put onnxruntime-gpu in its "
            "place with pip uninstall onnxruntime and pip install 'calibox[gpu]', or set --onnxruntime-provider cpu"
        )
    if wanted == "cpu" or (wanted == "auto" and _CUDA not in available):
        return Placement("CPU", ((_CPU, {}),), max_batch or CPU_MAX_BATCH, buckets=False)
    largest = max_batch or GPU_MAX_BATCH
    chosen: list[tuple[str, Options]] = [(_CUDA, cuda_options()), (_CPU, {})]
    if wanted == "tensorrt":
        chosen.insert(0, (_TENSORRT, tensorrt_options(manifest, largest)))
    return Placement("TensorRT" if wanted == "tensorrt" else "CUDA", tuple(chosen), largest, buckets=True)


def cuda_options() -> Options:
    """Of the CUDA provider."""
    return {
        # Memory grows by what is asked for, not to the next power of two: the sizes are few, because batches are.
        "arena_extend_strategy": "kSameAsRequested",
        # The fastest convolution of each shape, tried when the buckets are warmed up.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        # TF32 keeps 10 bits of the factors: then kept boxes would not be those of other engines.
        "use_tf32": "0",
    }


def tensorrt_options(manifest: Manifest, max_batch: int) -> Options:
    """Of TensorRT inside ONNX Runtime: engines kept in the user's cache, one profile for all batches, no fp16."""
    size, cache = manifest.input, str(cache_folder() / "onnxruntime-tensorrt")

    def shapes(batch: int) -> str:
        rest = ",".join(f"{name}:{batch}" for name in ("score_threshold", "iou_threshold", "refine_steps"))
        return f"images:{batch}x{size.height}x{size.width}x3,fusion:{batch}x3,{rest}"

    return {
        "trt_fp16_enable": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(max_batch),
        "trt_profile_max_shapes": shapes(max_batch),
    }


def bucket_sizes(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, 8, ... and the largest."""
    return (*(size for size in (1 << i for i in range(max_batch.bit_length())) if size < max_batch), max_batch)


def check_placed(place: Placement, used: Sequence[Any]) -> None:
    """ONNX Runtime falls back to the CPU with a line in its log where a provider cannot start.

    Raises:
        EngineError: it did.
    """
    first = place.providers[0][0]
    if first not in used:
        raise EngineError(
            f"ONNX Runtime could not start its {first}: its log says why, nvidia-smi tells whether there is a driver, "
            "and CUDA and cuDNN must be of the versions that it was built for; or set --onnxruntime-provider cpu"
        )
