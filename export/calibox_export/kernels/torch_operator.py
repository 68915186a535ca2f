"""CalibratedNMS as a PyTorch operator, `torch.ops.calibox.calibrated_nms`, which importing this module registers.

On CUDA tensors it launches the kernels of `trt_plugins` on the current stream, after no synchronisation, so that it may
be captured in a CUDA graph. On CPU tensors it is the numpy reference, not the kernels. `torch.compile` sees one opaque
operator of known shapes. Nothing of it has a gradient.
"""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from calibox_core.suppression import Attributes
from calibox_export.kernels.library import (
    FLOAT16,
    FLOAT32,
    INPUT_NAMES,
    INTEGER_OUTPUTS,
    OUTPUT_NAMES,
    Device,
    KernelLibrary,
    Part,
    Sizes,
    library_path,
    output_shapes,
)

# PyTorch's allocators align to 64 bytes on the CPU and to 512 on CUDA; the kernels want this.
_ALIGNMENT = 256
_ELEMENTS = {torch.float32: FLOAT32, torch.float16: FLOAT16}


@torch.library.custom_op("calibox::calibrated_nms", mutates_args=(), device_types="cuda")
def calibrated_nms(
    boxes: Tensor,
    p: Tensor,
    q: Tensor,
    fusion: Tensor,
    score_threshold: Tensor,
    iou_threshold: Tensor,
    out_score: str,
    class_agnostic: bool,
    candidate_floor: float,
    pre_nms_top_k: int,
    max_detections: int,
) -> list[Tensor]:
    """The ten outputs in the order of `library.OUTPUT_NAMES`.

    Args:
        boxes: ``[B, A, 4]`` x1, y1, x2, y2, float32 or float16.
        p: classification scores ``[B, A, C]`` in 0..1, float32 or float16.
        q: localization scores ``[B, A, 1]`` or ``[B, A, C]`` in 0..1, of p's type.
        fusion: exponents (a, b, g) ``[B, 3]``, float32, finite and at least 0 (not checked: they lie on the device).
        score_threshold: ``[B]`` float32.
        iou_threshold: ``[B]`` float32.
        out_score: key, classification or classification_clustered.
        class_agnostic: whether boxes compete across classes.
        candidate_floor: candidates have p above this.
        pre_nms_top_k: 1..3840.
        max_detections: rows of the detections.

    Raises:
        KernelError: no CUDA build is found, or it refuses the call.
        ValueError: a tensor has another shape or type.
    """
    attributes = _attributes(out_score, class_agnostic, candidate_floor, pre_nms_top_k, max_detections)
    given = (boxes, p, q, fusion, score_threshold, iou_threshold)
    with torch.cuda.device(p.device):
        stream = torch.cuda.current_stream().cuda_stream
        return run_on_tensors(cuda_library(), given, attributes, stream=stream)


@calibrated_nms.register_kernel("cpu")
def _on_cpu(
    boxes: Tensor,
    p: Tensor,
    q: Tensor,
    fusion: Tensor,
    score_threshold: Tensor,
    iou_threshold: Tensor,
    out_score: str,
    class_agnostic: bool,
    candidate_floor: float,
    pre_nms_top_k: int,
    max_detections: int,
) -> list[Tensor]:
    """The numpy reference, image by image."""
    from calibox_export.kernels.reference import padded_reference

    attributes = _attributes(out_score, class_agnostic, candidate_floor, pre_nms_top_k, max_detections)
    given = (boxes, p, q, fusion, score_threshold, iou_threshold)
    _sizes(given)
    arrays = {name: tensor.numpy().astype(np.float32) for name, tensor in zip(INPUT_NAMES, given, strict=True)}
    return [torch.from_numpy(values) for values in padded_reference(arrays, attributes).values()]


@calibrated_nms.register_fake
def _shapes(
    boxes: Tensor,
    p: Tensor,
    q: Tensor,
    fusion: Tensor,
    score_threshold: Tensor,
    iou_threshold: Tensor,
    out_score: str,
    class_agnostic: bool,
    candidate_floor: float,
    pre_nms_top_k: int,
    max_detections: int,
) -> list[Tensor]:
    _sizes((boxes, p, q, fusion, score_threshold, iou_threshold))
    return _empty_outputs(p, _attributes(out_score, class_agnostic, candidate_floor, pre_nms_top_k, max_detections))


@dataclass(frozen=True)
class PreparedCall:
    """A call with memory of its own, which may be launched again and again, also in a CUDA graph."""

    library: KernelLibrary
    attributes: Attributes
    given: tuple[Tensor, ...]  # the six inputs, dense, in the order of `library.INPUT_NAMES`
    outputs: list[Tensor]  # in the order of `library.OUTPUT_NAMES`
    space: Tensor  # uint8, the workspace and room to align it

    def launch(self, *, stream: int = 0, part: Part = Part.WHOLE) -> None:
        """Computes `outputs` of what `given` holds by then.

        Args:
            stream: a cudaStream_t, ignored by the host build.
            part: what of it.

        Raises:
            KernelError: sizes or attributes are outside their limits, or CUDA reports an error.
        """
        start = -self.space.data_ptr() % _ALIGNMENT
        self.library.launch(
            _sizes(self.given),
            self.attributes,
            inputs={name: tensor.data_ptr() for name, tensor in zip(INPUT_NAMES, self.given, strict=True)},
            outputs={name: tensor.data_ptr() for name, tensor in zip(OUTPUT_NAMES, self.outputs, strict=True)},
            workspace=(self.space.data_ptr() + start, self.space.numel() - _ALIGNMENT),
            stream=stream,
            part=part,
        )


def prepare(library: KernelLibrary, given: tuple[Tensor, ...], attributes: Attributes) -> PreparedCall:
    """A call on the tensors' device, which must be the library's.

    Args:
        library: the CUDA build for CUDA tensors, the host build for CPU tensors.
        given: the six inputs in the order of `library.INPUT_NAMES`, as in `calibrated_nms`.
        attributes: of the operator.
    """
    dense = tuple(tensor.contiguous() for tensor in given)
    space = dense[1].new_empty(library.workspace_bytes(_sizes(dense), attributes) + _ALIGNMENT, dtype=torch.uint8)
    return PreparedCall(library, attributes, dense, _empty_outputs(dense[1], attributes), space)


def run_on_tensors(
    library: KernelLibrary, given: tuple[Tensor, ...], attributes: Attributes, *, stream: int = 0
) -> list[Tensor]:
    """The outputs in the order of `library.OUTPUT_NAMES`, of a call as in `prepare`."""
    call = prepare(library, given, attributes)
    call.launch(stream=stream)
    return call.outputs


@cache
def cuda_library() -> KernelLibrary:
    """The CUDA build, loaded once."""
    return KernelLibrary(library_path(Device.CUDA))


def _attributes(
    out_score: str, class_agnostic: bool, candidate_floor: float, pre_nms_top_k: int, max_detections: int
) -> Attributes:
    return SimpleNamespace(
        out_score=out_score,
        class_agnostic=class_agnostic,
        candidate_floor=candidate_floor,
        pre_nms_top_k=pre_nms_top_k,
        max_detections=max_detections,
    )


def _empty_outputs(p: Tensor, attributes: Attributes) -> list[Tensor]:
    return [
        p.new_empty(shape, dtype=torch.int32 if name in INTEGER_OUTPUTS else torch.float32)
        for name, shape in output_shapes(p.shape[0], attributes).items()
    ]


def _sizes(given: tuple[Tensor, ...]) -> Sizes:
    """Sizes and types of the inputs.

    Raises:
        ValueError: one of them is not as `calibrated_nms` says.
    """
    boxes, p, q, *_ = given
    batch, anchors, classes = p.shape
    columns = q.shape[-1]
    shapes = ((batch, anchors, 4), tuple(p.shape), (batch, anchors, columns), (batch, 3), (batch,), (batch,))
    for name, tensor, shape in zip(INPUT_NAMES, given, shapes, strict=True):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have the shape {list(shape)}, got {list(tensor.shape)}")
        if tensor.device != p.device:
            raise ValueError(f"{name} must be on {p.device} as p is, got {tensor.device}")
    if q.dtype != p.dtype or boxes.dtype not in _ELEMENTS or p.dtype not in _ELEMENTS:
        raise ValueError(
            f"boxes, p and q must be float32 or float16, p and q alike, got {boxes.dtype, p.dtype, q.dtype}"
        )
    if any(tensor.dtype != torch.float32 for tensor in given[3:]):
        raise ValueError("fusion, score_threshold and iou_threshold must be float32")
    return Sizes(batch, anchors, classes, columns, _ELEMENTS[boxes.dtype], _ELEMENTS[p.dtype])
