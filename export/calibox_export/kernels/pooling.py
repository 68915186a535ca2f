"""Precise RoI pooling by the kernels of `trt_plugins`, on torch tensors: what the node `calibox::PrRoIPool` computes.

The C interface of `trt_plugins/kernels/prroi_pool.h` in ctypes. Forward only. Letters: B images, F features, H x W
pixels, K RoIs per image, P x Q bins.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from calibox_export.kernels.library import FLOAT16, FLOAT32, KernelError, load_library

_ELEMENTS = {torch.float32: FLOAT32, torch.float16: FLOAT16}
_COUNTS = ("batch", "features", "height", "width", "rois", "pooled_height", "pooled_width", "map_type")


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in _COUNTS),
        ("spatial_scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("maps", "boxes", "pooled")),
    ]


class PoolingLibrary:
    """A loaded library, the CUDA build or the host build; may be used from several threads."""

    def __init__(self, path: Path) -> None:
        self._library = load_library(path, _Call, "prroi_pool")

    def pool(
        self,
        features_BFHW: Tensor,
        rois_BK4: Tensor,
        output_size: tuple[int, int],
        spatial_scale: float,
        *,
        stream: int = 0,
    ) -> Tensor:
        """Pooled maps ``[B, K, F, P, Q]`` of the features' type; the host build has them when this returns.

        Args:
            features_BFHW: float32 or float16, on the library's device.
            rois_BK4: x1, y1, x2, y2 in pixels of the image, float32. One without area, or with NaN or an infinity in
                it, gives 0.
            output_size: P, Q.
            spatial_scale: map pixels per image pixel, 1 / stride.
            stream: a cudaStream_t, ignored by the host build.

        Raises:
            KernelError: sizes are outside the kernels' limits, or CUDA reports an error.
            ValueError: a tensor has another shape or type.
        """
        _check(features_BFHW, rois_BK4)
        maps, boxes = features_BFHW.contiguous(), rois_BK4.contiguous()
        pooled = maps.new_empty(*boxes.shape[:2], maps.shape[1], *output_size)
        counts = (*maps.shape, boxes.shape[1], *output_size, _ELEMENTS[maps.dtype])
        call = _Call(*counts, spatial_scale, maps.data_ptr(), boxes.data_ptr(), pooled.data_ptr())
        status = self._library.calibox_prroi_pool_launch(call, stream)
        if status != 0:
            raise KernelError(self._library.calibox_prroi_pool_status_text(status).decode())
        return pooled


def _check(features_BFHW: Tensor, rois_BK4: Tensor) -> None:
    images = features_BFHW.shape[0]
    if features_BFHW.ndim != 4 or features_BFHW.dtype not in _ELEMENTS:
        raise ValueError(f"features must be [B, F, H, W] in float32 or float16, got {_described(features_BFHW)}")
    if rois_BK4.shape != (images, *rois_BK4.shape[1:2], 4) or rois_BK4.dtype != torch.float32:
        raise ValueError(f"rois must be [{images}, K, 4] in float32, got {_described(rois_BK4)}")
    if rois_BK4.device != features_BFHW.device:
        raise ValueError(f"rois must be on {features_BFHW.device} as the features are, got {rois_BK4.device}")


def _described(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"
