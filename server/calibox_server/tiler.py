"""Images cut into letterboxed tiles, in the decode threads; what `tiles` says, done to pixels."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from calibox_core.letterbox import Letterbox, letterbox_into
from calibox_core.manifest import Manifest
from calibox_server.background import in_pool
from calibox_server.decoding import checked_header, decode
from calibox_server.engine import EngineOutput
from calibox_server.engine_runner import clock
from calibox_server.errors import DeadlineError, ParameterError
from calibox_server.parameters import Parameters
from calibox_server.requests import ImagePart
from calibox_server.slots import Slot, Slots
from calibox_server.tiles import Seen, Tiling, View, count_views, is_cut, merge, views_of


@dataclass(frozen=True, slots=True)
class Tile:
    """One view of an image, ready for the engine."""

    view: View
    slot: Slot
    letterbox: Letterbox  # of the view


class Tiler:
    """Cuts images for one model.

    Args:
        manifest: of the model.
        slots, decoders: shared with the images that are not cut.
        max_pixels: of one image.
        max_tiles: views of one image, the whole included.
        places: views of one request.
    """

    def __init__(
        self,
        manifest: Manifest,
        slots: Slots,
        decoders: Executor,
        *,
        max_pixels: int,
        max_tiles: int,
        places: int,
    ) -> None:
        self._manifest = manifest
        self._slots = slots
        self._decoders = decoders
        self._max_pixels = max_pixels
        self._max_tiles = max_tiles
        self._places = places

    async def plan(self, images: Sequence[ImagePart], tiling: Tiling) -> list[list[View]]:
        """The views of each image, told from the headers alone.

        Raises:
            ParameterError: too many; the text says what to change.
            ServiceError: as `checked_header` says.
        """
        views = await in_pool(self._decoders, lambda image: self._views(image, tiling), images)
        count = sum(map(len, views))
        if count > self._places:
            raise ParameterError(
                f"the {len(images)} images make {count} tiles, and this server holds at most {self._places} at once; "
                "send fewer images in one request, or ask for larger tiles"
            )
        return views

    async def cut(
        self, images: Sequence[ImagePart], views: Sequence[Sequence[View]], *, deadline: float
    ) -> list[list[Tile]]:
        """Decodes each image once and letterboxes its views.

        Raises:
            DeadlineError: the time was over before the last tile was cut.
            ServiceError: as `decode` says; then no slot is lent any more.
        """
        jobs = [partial(self._cut, image, of_it, deadline) for image, of_it in zip(images, views, strict=True)]
        return await in_pool(self._decoders, lambda job: job(), jobs, undo=self._give_back)

    async def join(
        self, tiles: Sequence[Sequence[Tile]], rows: Sequence[Sequence[EngineOutput]], parameters: Parameters
    ) -> list[Seen]:
        """One answer for each image from the engine's rows of its tiles."""
        pairs = list(zip(tiles, rows, strict=True))
        return await in_pool(self._decoders, lambda pair: self._join(*pair, parameters), pairs)

    def _views(self, image: ImagePart, tiling: Tiling) -> list[View]:
        header = checked_header(image, self._max_pixels)
        width, height = header.upright_size
        count = count_views(width, height, tiling)
        if count > self._max_tiles:
            raise ParameterError(
                f"{image.label} has {width} x {height} pixels and would be cut into {count} tiles; this server cuts "
                f"into at most {self._max_tiles}: ask for a larger `tile` or less `overlap`"
            )
        return views_of(width, height, tiling)

    def _cut(self, image: ImagePart, views: Sequence[View], deadline: float) -> list[Tile]:
        pixels, tiles = decode(image, self._max_pixels), list[Tile]()
        try:
            for view in views:
                if clock() >= deadline:
                    raise DeadlineError("the deadline passed while tiles were cut; allow more with timeout_ms")
                slot = self._slots.take()
                part = pixels[view.top : view.bottom, view.left : view.right]
                letterbox = letterbox_into(slot, part, pad_value=self._manifest.input.pad_value)
                tiles.append(Tile(view, slot, letterbox))
        except BaseException:
            self._give_back(tiles)
            raise
        return tiles

    def _join(self, tiles: Sequence[Tile], rows: Sequence[EngineOutput], parameters: Parameters) -> Seen:
        seen = [_in_image(tile, out, whole=tiles[0].view) for tile, out in zip(tiles, rows, strict=True)]
        nms = self._manifest.nms
        return merge(seen, exponents=parameters.exponents, iou_threshold=parameters.iou_threshold, nms=nms)

    def _give_back(self, tiles: Sequence[Tile]) -> None:
        for tile in tiles:
            self._slots.give(tile.slot)


def _in_image(tile: Tile, rows: EngineOutput, whole: View) -> Seen:
    view = tile.view
    boxes = tile.letterbox.to_image(rows.boxes)
    boxes[:, 0::2] += view.left
    boxes[:, 1::2] += view.top
    return Seen(
        boxes=boxes,
        labels=rows.labels,
        classification_scores=rows.classification_scores,
        localization_scores=rows.localization_scores,
        scores=rows.scores,
        cut=is_cut(boxes, view, whole),
    )
