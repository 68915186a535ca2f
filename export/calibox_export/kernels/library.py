"""The C interface of `trt_plugins/kernels/calibrated_nms.h` in ctypes.

Two libraries offer it: the one for CUDA devices, and the host build, which runs the same kernels on the CPU (slowly: it
is there to test them). Letters: B images, A anchors, C classes, K candidates (`pre_nms_top_k`), N detections
(`max_detections`).
"""

import ctypes
import os
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import NamedTuple

from calibox_core.operator_names import INPUTS, OUTPUTS
from calibox_core.suppression import Attributes

FOLDER_VARIABLE = "CALIBOX_KERNELS"
_CHECKOUT_FOLDER = Path(__file__).parents[3] / "trt_plugins" / "build"

FLOAT32, FLOAT16 = 0, 1
_OUT_SCORES = ("key", "classification", "classification_clustered")

INPUT_NAMES, OUTPUT_NAMES = INPUTS, OUTPUTS
INTEGER_OUTPUTS = ("num_detections", "labels", "candidate_labels")


class KernelError(RuntimeError):
    """A library that is missing or another version, or a call that it refused."""


class Device(StrEnum):
    """Where a library's kernels run."""

    CUDA = "cuda"
    HOST = "host"


_FILES = {Device.CUDA: "libcalibox_kernels.so", Device.HOST: "libcalibox_kernels_host.so"}


class Part(IntEnum):
    """The operator, or one of its parts, to measure it; `SUPPRESSION` reads what `SELECTION` left behind."""

    WHOLE = 0
    SELECTION = 1
    SUPPRESSION = 2


class Sizes(NamedTuple):
    """Shapes and element types of the inputs; what is not boxes, p or q is float32."""

    batch: int  # B
    anchors: int  # A
    classes: int  # C
    quality_columns: int  # 1 or C
    box_type: int = FLOAT32  # of boxes
    score_type: int = FLOAT32  # of p and q


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in Sizes._fields),
        ("out_score", ctypes.c_int32),
        ("class_agnostic", ctypes.c_int32),
        ("candidate_floor", ctypes.c_float),
        ("pre_nms_top_k", ctypes.c_int32),
        ("max_detections", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in INPUT_NAMES),
        *((f"out_{name}", ctypes.c_void_p) for name in OUTPUT_NAMES),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
    ]


def output_shapes(batch: int, attributes: Attributes) -> dict[str, tuple[int, ...]]:
    """Shape of every output: int32 for `INTEGER_OUTPUTS`, float32 for the others."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in OUTPUT_NAMES:
        rows = attributes.pre_nms_top_k if name.startswith("candidate_") else attributes.max_detections
        shapes[name] = (batch,) if name == "num_detections" else (batch, rows, *([4] if name.endswith("boxes") else []))
    return shapes


def load_library(path: Path, call: type[ctypes.Structure], operator: str) -> ctypes.CDLL:
    """The library, with the functions of one operator (``nms``, ``prroi_pool``) declared.

    Raises:
        KernelError: it cannot be loaded, or its struct of a call is not ``call``.
    """
    try:
        library = ctypes.CDLL(str(path))
        size, launch, text = (
            getattr(library, f"calibox_{operator}_{name}") for name in ("call_bytes", "launch", "status_text")
        )
    except (OSError, AttributeError) as error:
        raise KernelError(f"{path} cannot be loaded ({error}); build it as docs/plugin.md says") from error
    size.restype = ctypes.c_uint64
    launch.restype, launch.argtypes = ctypes.c_int32, [ctypes.POINTER(call), ctypes.c_void_p]
    text.restype, text.argtypes = ctypes.c_char_p, [ctypes.c_int32]
    if size() != ctypes.sizeof(call):
        raise KernelError(f"{path} was built from another version of calibox; build it again as docs/plugin.md says")
    return library


class KernelLibrary:
    """A loaded library; `launch` may be called from several threads."""

    def __init__(self, path: Path) -> None:
        self._library = load_library(path, _Call, "nms")
        part = self._library.calibox_nms_launch_part
        part.restype, part.argtypes = ctypes.c_int32, [ctypes.POINTER(_Call), ctypes.c_int32, ctypes.c_void_p]
        self._library.calibox_nms_device.restype = ctypes.c_char_p
        self._library.calibox_nms_workspace_bytes.restype = ctypes.c_uint64
        self._library.calibox_nms_workspace_bytes.argtypes = [ctypes.POINTER(_Call)]
        self.device = Device(self._library.calibox_nms_device().decode())

    def workspace_bytes(self, sizes: Sizes, attributes: Attributes) -> int:
        """Bytes of device memory that a launch needs beside its outputs; 0 for what it would refuse."""
        return int(self._library.calibox_nms_workspace_bytes(_call(sizes, attributes)))

    def launch(
        self,
        sizes: Sizes,
        attributes: Attributes,
        *,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        workspace: tuple[int, int],
        stream: int = 0,
        part: Part = Part.WHOLE,
    ) -> None:
        """Enqueues the operator; the host build has done it when this returns.

        Args:
            sizes: of the inputs.
            attributes: of the operator.
            inputs: addresses of dense tensors by `INPUT_NAMES`.
            outputs: addresses by `OUTPUT_NAMES`, of the shapes of `output_shapes`.
            workspace: address, aligned to 256 bytes, and bytes.
            stream: a cudaStream_t; 0 is the default stream.
            part: what of it.

        Raises:
            KernelError: sizes, attributes or the workspace are outside their limits, or CUDA reports an error.
        """
        call = _call(sizes, attributes)
        for name in INPUT_NAMES:
            setattr(call, name, inputs[name])
        for name in OUTPUT_NAMES:
            setattr(call, f"out_{name}", outputs[name])
        call.workspace, call.workspace_bytes = workspace
        status = self._library.calibox_nms_launch_part(call, part, stream)
        if status != 0:
            raise KernelError(self._library.calibox_nms_status_text(status).decode())


def _call(sizes: Sizes, attributes: Attributes) -> _Call:
    return _Call(
        **sizes._asdict(),
        out_score=_OUT_SCORES.index(attributes.out_score),
        class_agnostic=attributes.class_agnostic,
        candidate_floor=attributes.candidate_floor,
        pre_nms_top_k=attributes.pre_nms_top_k,
        max_detections=attributes.max_detections,
    )


def library_path(device: Device) -> Path:
    """Where a build is looked for: the folder `CALIBOX_KERNELS`, or `trt_plugins/build` of a checkout."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder) if folder else _CHECKOUT_FOLDER) / _FILES[device]
