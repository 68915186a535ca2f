"""The pixels that RoIs touch, as windows of maps, a chunk of RoIs at a time.

Letters: M pixels of all maps, F features, R RoIs, n RoIs of a chunk, h x w pixels of its windows, k = w * F numbers of
a row.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from calibox_training.iou_net.bin_weights import Spans, spans

# Numbers that the windows of a chunk may hold: 1 MB of float32, which a processor's cache keeps and the allocator hands
# out again (measured: a quarter and sixteen times as much are slower); 256 MB on a GPU, where calls cost more.
CHUNK_NUMBERS = {"cpu": 2**18}
CHUNK_NUMBERS_ELSEWHERE = 2**26


class Maps(NamedTuple):
    """Maps of a batch, laid out for pooling: every pixel of every level and image is a row."""

    pixels_MF: Tensor  # float32, or float64 where the features are; contiguous
    shapes: tuple[tuple[int, int], ...]  # H, W of each level
    images: int


class Chunk(NamedTuple):
    """RoIs on maps of one level, with windows of one size that lie wholly inside them."""

    rows_n: Tensor  # positions among the RoIs
    down: Spans
    across: Spans
    window: tuple[int, int]  # h, w; at least what each RoI touches
    origin_n: Tensor  # int64, row of the first pixel of each window among all pixels
    columns: int  # W of the maps

    @property
    def pixels_nhw(self) -> Tensor:
        """Rows of the windows' pixels."""
        (height, width), device = self.window, self.origin_n.device
        row_h = torch.arange(height, device=device) * self.columns
        return self.origin_n[:, None, None] + row_h[:, None] + torch.arange(width, device=device)


def chunks(rois_R4: Tensor, image_R: Tensor, level_R: Tensor, maps: Maps, least: tuple[int, int]) -> Iterator[Chunk]:
    """RoIs that touch their maps, by the size of their windows; the others pool 0 and take no gradient.

    Args:
        rois_R4: in pixels of their maps.
        image_R, level_R: int64, the map of each.
        maps: all of them.
        least: a window counts with so many rows and columns at least, against the bound.
    """
    device, features = rois_R4.device, max(1, maps.pixels_MF.shape[1])
    limit = CHUNK_NUMBERS.get(device.type, CHUNK_NUMBERS_ELSEWHERE) // features
    start = 0
    for level, (height, width) in enumerate(maps.shapes):
        down, across = spans(rois_R4[:, 1], rois_R4[:, 3], height), spans(rois_R4[:, 0], rois_R4[:, 2], width)
        touches_R = (down.count_R > 0) & (across.count_R > 0) & (level_R == level)
        rows_m = touches_R.nonzero()[:, 0]
        # By height, then by width, so that windows of a chunk are alike.
        rows_m = rows_m[(down.count_R * (width + 1) + across.count_R)[rows_m].argsort(stable=True)]
        tall, wide = down.count_R[rows_m].tolist(), across.count_R[rows_m].tolist()
        for begin, end, window in _packs(tall, wide, limit, least):
            rows_n = rows_m[begin:end]
            down_n = down.take(rows_n).within(height, window[0])
            across_n = across.take(rows_n).within(width, window[1])
            origin_n = start + (image_R[rows_n] * height + down_n.first_R) * width + across_n.first_R
            yield Chunk(rows_n, down_n, across_n, window, origin_n, width)
        start += maps.images * height * width


def _packs(
    heights: list[int], widths: list[int], limit: int, least: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Runs of RoIs whose windows, all as large as the largest of the run, hold at most ``limit`` pixels together.

    Yields: first, end, and height and width of the windows; a run has at least one RoI.
    """
    begin, height, width = 0, 0, 0
    for place in range(len(heights)):
        taller, wider = max(height, heights[place]), max(width, widths[place])
        pixels = max(taller, least[0]) * max(wider, least[1])
        if place > begin and (place + 1 - begin) * pixels > limit:
            yield begin, place, (height, width)
            begin, taller, wider = place, heights[place], widths[place]
        height, width = taller, wider
    if heights:
        yield begin, len(heights), (height, width)


def gather(pixels_MF: Tensor, chunk: Chunk) -> Tensor:
    """The windows, copied, ``[n, h, w * F]``."""
    rows_nhw = chunk.pixels_nhw
    return pixels_MF.index_select(0, rows_nhw.flatten()).view(*rows_nhw.shape[:2], -1)


def scatter(total_MF: Tensor, chunk: Chunk, windows_nhk: Tensor) -> None:
    """Adds windows ``[n, h, w * F]`` to the pixels that they stand for."""
    total_MF.index_add_(0, chunk.pixels_nhw.flatten(), windows_nhk.view(-1, total_MF.shape[1]))
