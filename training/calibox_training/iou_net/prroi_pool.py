"""Precise RoI pooling: the mean of the bilinear surface of a map over each bin of a RoI, exactly.

Source: IoU-Net, arXiv 1807.11590, section 3.3. Feature i sits at coordinate i: no shift by half a pixel, unlike
`roi_align` with ``aligned=True``. Outside the map the surface falls to 0 within one pixel. The pooled map of a RoI is
Y V X^T for its window V of the map and the weights of `bin_weights` along either axis.

Letters: B images, F features, H x W pixels of a map, M pixels of all maps together, R RoIs, P x Q bins, n RoIs of a
chunk with windows of h x w pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from calibox_training.iou_net.bin_weights import bin_weights, span_gradients
from calibox_training.iou_net.windows import Chunk, Maps, chunks, gather, scatter


def flatten_maps(levels_BFHW: Sequence[Tensor]) -> Maps:
    """Lays out maps ``[B, F, H, W]`` of equal B and F; channels-last memory of one level is not copied."""
    first = levels_BFHW[0]
    kind = torch.promote_types(first.dtype, torch.float32)
    rows = [level.to(kind).permute(0, 2, 3, 1).reshape(-1, level.shape[1]).contiguous() for level in levels_BFHW]
    shapes = tuple((level.shape[2], level.shape[3]) for level in levels_BFHW)
    return Maps(rows[0] if len(rows) == 1 else torch.cat(rows), shapes, first.shape[0])


def prroi_pool(
    features_BFHW: Tensor,
    rois_R4: Tensor,
    image_index_R: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
) -> Tensor:
    """Pools RoIs of several images from one map.

    Gradients reach features and RoIs (once; there are no second derivatives). Memory beyond that of the features (and
    a channels-last copy, if they are not), the result and their gradients is bounded: the windows of a chunk hold at
    most `windows.CHUNK_NUMBERS` numbers (or one window, where a single one is larger), and at most four tensors of that
    size are alive at a time. Nothing but the inputs is kept for the backward pass.

    Args:
        features_BFHW: any float dtype; computed in float32 (float64 stays), whatever the autocast.
        rois_R4: x1, y1, x2, y2 in pixels of the image. A RoI without area gives 0 and takes no gradient.
        image_index_R: int64, each RoI's image in 0..B-1.
        output_size: P, Q.
        spatial_scale: map pixels per image pixel, 1 / stride.

    Returns: ``[R, F, P, Q]``.
    """
    level_R = torch.zeros_like(image_index_R)
    return pool_maps(
        flatten_maps([features_BFHW]), rois_R4, image_index_R, level_R, output_size, scales=(spatial_scale,)
    )


def pool_maps(
    maps: Maps,
    rois_R4: Tensor,
    image_index_R: Tensor,
    level_R: Tensor,
    output_size: tuple[int, int],
    *,
    scales: Sequence[float],
) -> Tensor:
    """`prroi_pool`, each RoI from a level of its own.

    Args:
        level_R: int64, position in ``maps.shapes`` and in ``scales``, for example of `roi_levels`.
        scales: map pixels per image pixel of each level.
    """
    kind = maps.pixels_MF.dtype
    scale_R = torch.tensor(scales, dtype=kind, device=rois_R4.device)[level_R]
    on_map_R4 = rois_R4.to(kind) * scale_R[:, None]
    pooled: Tensor = _Pool.apply(
        maps.pixels_MF, on_map_R4, image_index_R, level_R, maps.shapes, maps.images, output_size
    )
    return pooled


def roi_levels(boxes_R4: Tensor, *, lowest: int, highest: int) -> Tensor:
    """Each box's level in an FPN, int64 ``[R]``, counted from ``lowest``: k = floor(4 + log2(sqrt(w h) / 224)).

    A box of 224 pixels, the side of ImageNet's crops, belongs to P4; one without area, or NaN, to the finest level.
    Source: Lin et al., FPN, arXiv 1612.03144, eq. 1.

    Args:
        boxes_R4: in pixels of the image.
        lowest, highest: k of the finest and of the coarsest level there is.
    """
    area_R = (boxes_R4[:, 2:] - boxes_R4[:, :2]).clamp(min=0).prod(dim=1)
    level_R = (4 + (area_R.sqrt() / 224).log2()).floor()
    return (level_R.nan_to_num().clamp(lowest, highest) - lowest).long()


class _Pool(Function):
    """Y V X^T of every RoI, and its gradients in closed form; windows are read again for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        pixels_MF: Tensor,
        rois_R4: Tensor,
        image_R: Tensor,
        level_R: Tensor,
        shapes: tuple[tuple[int, int], ...],
        images: int,
        output_size: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(pixels_MF, rois_R4, image_R, level_R)
        ctx.shapes, ctx.images, ctx.output_size = shapes, images, output_size
        maps = Maps(pixels_MF, shapes, images)
        pooled_RPQF = pixels_MF.new_zeros(len(rois_R4), *output_size, pixels_MF.shape[1])
        with torch.autocast(pixels_MF.device.type, enabled=False):
            for chunk in chunks(rois_R4, image_R, level_R, maps, output_size):
                y_nPh, x_nQw = _weights(chunk, output_size)
                sums_nPwF = _by_column(y_nPh @ gather(pixels_MF, chunk), chunk)
                pooled_RPQF[chunk.rows_n] = x_nQw[:, None] @ sums_nPwF
        return pooled_RPQF.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_RFPQ: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:
        pixels_MF, rois_R4, image_R, level_R = ctx.saved_tensors
        for_pixels, for_rois = ctx.needs_input_grad[:2]
        pixels_gradient_MF = torch.zeros_like(pixels_MF) if for_pixels else None
        rois_gradient_R4 = torch.zeros_like(rois_R4) if for_rois else None
        gradient_RPQF = gradient_RFPQ.permute(0, 2, 3, 1)
        maps = Maps(pixels_MF, ctx.shapes, ctx.images)
        with torch.autocast(pixels_MF.device.type, enabled=False):
            for chunk in chunks(rois_R4, image_R, level_R, maps, ctx.output_size):
                gradient_nPQF = gradient_RPQF[chunk.rows_n]
                weights = y_nPh, x_nQw = _weights(chunk, ctx.output_size)
                spread_nPk = (x_nQw.mT[:, None] @ gradient_nPQF).flatten(2)
                if pixels_gradient_MF is not None:
                    scatter(pixels_gradient_MF, chunk, y_nPh.mT @ spread_nPk)
                if rois_gradient_R4 is not None:
                    window_nhk = gather(pixels_MF, chunk)
                    y_gradient_nPh = spread_nPk @ window_nhk.mT
                    sums_nPwF = _by_column(y_nPh @ window_nhk, chunk)
                    x_gradient_nQw = (gradient_nPQF @ sums_nPwF.mT).sum(dim=1)
                    rois_gradient_R4[chunk.rows_n] = _roi_gradients(chunk, weights, (y_gradient_nPh, x_gradient_nQw))
        return pixels_gradient_MF, rois_gradient_R4, None, None, None, None, None


def _weights(chunk: Chunk, output_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Y ``[n, P, h]`` and X ``[n, Q, w]``."""
    (rows, columns), (height, width) = output_size, chunk.window
    return bin_weights(chunk.down, rows, height), bin_weights(chunk.across, columns, width)


def _by_column(sums_nPk: Tensor, chunk: Chunk) -> Tensor:
    """``[n, P, w * F]`` as ``[n, P, w, F]``; F may be 0."""
    width = chunk.window[1]
    return sums_nPk.view(*sums_nPk.shape[:2], width, sums_nPk.shape[2] // width)


def _roi_gradients(chunk: Chunk, weights: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> Tensor:
    """Gradients of x1, y1, x2, y2, ``[n, 4]``, from those of Y and X."""
    y1_n, y2_n = span_gradients(chunk.down, weights[0], gradients[0])
    x1_n, x2_n = span_gradients(chunk.across, weights[1], gradients[1])
    return torch.stack([x1_n, y1_n, x2_n, y2_n], dim=1)
