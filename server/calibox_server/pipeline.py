"""One model's path from encoded images to detections: decode, letterbox, batch, run, un-letterbox."""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from itertools import chain, islice
from typing import Protocol, TypeVar

from calibox_core.manifest import Manifest
from calibox_server.background import together
from calibox_server.batcher import Batcher
from calibox_server.decoding import Placer
from calibox_server.detections import ImageDetections, StageTimes, answer_of, finish, times_of
from calibox_server.detections_json import DetectionsWriter
from calibox_server.door import Submit
from calibox_server.encoded import AsSent
from calibox_server.engine import EngineFacts
from calibox_server.engine_runner import RawDetections, Work, clock
from calibox_server.metrics import ModelMetrics
from calibox_server.parameters import Given, Parameters, read_parameters
from calibox_server.queue import Priority, Reply
from calibox_server.requests import ImagePart
from calibox_server.slots import Slots
from calibox_server.soon import Soon
from calibox_server.tiler import Tiler
from calibox_server.tiles import Tiling

A = TypeVar("A")


class Line(Protocol):
    """Where images wait for the engine: in this process, or in front of another."""

    @property
    def decodes(self) -> bool:
        """Whether an image may wait as it was sent, to be decoded by the thread that runs it: a hand-over less."""

    @property
    def slots(self) -> Slots:
        """Where images are put for it."""

    @property
    def waiting(self) -> int:
        """Images that wait."""

    def admit(
        self, count: int, *, priority: Priority = Priority.NORMAL, more: bool = False
    ) -> AbstractContextManager[Submit[Work, RawDetections]]:
        """As `Door.admit`."""

    def check(self, count: int, *, priority: Priority = Priority.NORMAL, more: bool = False) -> None:
        """As `Door.check`."""

    async def close(self, timeout: float) -> bool:
        """Finishes what was admitted, at most for ``timeout`` seconds. Returns whether everything ended in time."""


def free(_: int) -> None:
    """What costs nothing, as where no rate is set."""


class Pipeline:
    """Serves one model.

    A pipeline may be replaced or unloaded at any time. Whoever asks `Models.find` for one calls `admit` without an
    `await` in between: from then on it stays open until the block of `admit` ends.

    Args:
        manifest, engine: the model, already warmed up.
        line: where its images wait for the engine; closed with the pipeline.
        decoders: threads shared by all models.
        max_pixels: of one image.
        max_tiles: that one image may be cut into.
        places: for the tiles of one request.
        timeout_ms: of requests that name none.
        metrics: of this model.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: EngineFacts,
        line: Line,
        *,
        decoders: Executor,
        max_pixels: int,
        max_tiles: int = 1,
        places: int = 1,
        timeout_ms: float,
        metrics: ModelMetrics,
    ) -> None:
        self.manifest = manifest
        self.writer = DetectionsWriter(manifest)
        self._timeout_ms = timeout_ms
        self._usual = self._read({}, images=1)  # most requests ask for nothing in particular
        self.engine = engine
        self.line = line
        self._metrics = metrics
        self._decoders = decoders
        self._place = Placer(line.slots, pad_value=manifest.input.pad_value, max_pixels=max_pixels)
        self._as_sent = AsSent(manifest, self._place, metrics)
        self._tiler = Tiler(manifest, line.slots, decoders, max_pixels=max_pixels, max_tiles=max_tiles, places=places)
        watched = weakref.ref(line)  # metrics outlive a model that is unloaded
        metrics.watch_queue(lambda: alive.waiting if (alive := watched()) else 0)

    @property
    def waiting(self) -> int:
        """Images that are decoded and wait for the engine."""
        return self.line.waiting

    def parameters(self, given: Given, images: int) -> Parameters:
        """What a request with so many images asks for.

        Raises:
            ParameterError: as `read_parameters` says.
        """
        return self._read(given, images) if given or images != 1 else self._usual

    def _read(self, given: Given, images: int) -> Parameters:
        return read_parameters(given, self.manifest, default_timeout_ms=self._timeout_ms, images=images)

    def admit(
        self, images: int, priority: Priority = Priority.NORMAL
    ) -> AbstractContextManager[Submit[Work, RawDetections]]:
        """Takes places in the queue, before anything is decoded.

        Raises:
            OverloadedError: not so many are free.
            StoppingError: the server is stopping, or the model was replaced or unloaded.
        """
        return self.line.admit(images, priority=priority)

    def check_room(self, priority: Priority = Priority.NORMAL) -> None:
        """Raises what `admit` would raise for one image."""
        self.line.check(1, priority=priority)

    async def detect(
        self,
        submit: Submit[Work, RawDetections],
        images: Sequence[ImagePart],
        parameters: Parameters,
        *,
        deadline: float,
        charge: Callable[[int], None] = free,
    ) -> tuple[list[ImageDetections], StageTimes]:
        """Detections of every image, or the error of the first image that cannot be read.

        Args:
            submit: from `admit`.
            images: as they were sent; all are decoded before the engine sees the first.
            parameters: the same for all images of the request, but for the steps of a refinement.
            deadline: on `clock`.
            charge: called with the number of tiles beside the images themselves, before they are cut.

        Raises:
            ServiceError: as `decode_into` and `Submit` say.
        """
        if parameters.tiling is not None:
            return await self._detect_in_tiles(images, parameters, parameters.tiling, deadline, charge)
        if self.line.decodes and len(images) == 1:
            one = self._as_sent.work(images[0], parameters, deadline)
            return self._as_sent.seen(one, (await self.infer(submit, [one], deadline=deadline))[0])
        started = clock()
        placed = await self._place.all(images, self._decoders, deadline=deadline)
        decoded = clock()
        asked = zip(placed, parameters.refine_steps, strict=True)
        work = [Work(slot, parameters, steps, decoded) for (slot, _), steps in asked]
        raw = await self.infer(submit, work, deadline=deadline)
        pairs = zip(raw, placed, strict=True)
        found = [finish(r.rows, letterbox, parameters, self.manifest) for r, (_, letterbox) in pairs]
        self._metrics.observe_scores(found)
        return found, times_of(decoded - started, raw)

    def detect_soon(
        self,
        image: ImagePart,
        parameters: Parameters,
        *,
        deadline: float,
        into: Callable[[list[ImageDetections], StageTimes], A],
        reply: Reply[A],
    ) -> Callable[[], None] | None:
        """`admit` and `detect` of one image whose caller is called.

        Args:
            image, parameters, deadline: as `detect` takes them.
            into: what `detect` would return to what the caller wants.
            reply: the caller; perhaps called before this returns.

        Returns: what takes the image back; None where only `detect` will do, and nothing was begun.

        Raises:
            OverloadedError, StoppingError: as `admit` says; the reply is not called.
        """
        line = self.line
        if parameters.tiling is not None or not line.decodes or not isinstance(line, Batcher):
            return None
        work = self._as_sent.work(image, parameters, deadline)
        soon = Soon(line, work, self._as_sent.counted(work, into), reply)
        soon.start(deadline=deadline, priority=parameters.priority)
        return soon.cancel

    async def _detect_in_tiles(
        self,
        images: Sequence[ImagePart],
        parameters: Parameters,
        tiling: Tiling,
        deadline: float,
        charge: Callable[[int], None],
    ) -> tuple[list[ImageDetections], StageTimes]:
        """`detect` of images whose tiles share the batches; each tile takes a place in the queue, as an image does."""
        started = clock()
        views = await self._tiler.plan(images, tiling)
        more = sum(map(len, views)) - len(images)  # the images themselves have their places
        charge(more)
        with self.line.admit(more, priority=parameters.priority, more=True) as submit:
            tiles = await self._tiler.cut(images, views, deadline=deadline)
            decoded = clock()
            steps = (s for s, of_image in zip(parameters.refine_steps, tiles, strict=True) for _ in of_image)
            flat = zip(chain.from_iterable(tiles), steps, strict=True)
            work = [Work(tile.slot, parameters, asked, decoded) for tile, asked in flat]
            raw = await together([submit(one, deadline=deadline, priority=parameters.priority) for one in work])
        rows = iter(raw)
        by_image = [[r.rows for r in islice(rows, len(of_image))] for of_image in tiles]
        joined = await self._tiler.join(tiles, by_image, parameters)
        self._metrics.images.inc(len(images))
        wholes = [of_image[0].view for of_image in tiles]
        found = [answer_of(seen, whole, parameters, self.manifest) for seen, whole in zip(joined, wholes, strict=True)]
        self._metrics.observe_scores(found)
        return found, times_of(decoded - started, raw)

    async def infer(
        self, submit: Submit[Work, RawDetections], work: Sequence[Work], *, deadline: float
    ) -> list[RawDetections]:
        """The engine's own rows of images that lie ready: `detect` without decoding before and finishing after.

        Args:
            submit: from `admit`, for at least as many images.
            work: one per image; a slot that is a view of a body is used as it is and never taken into the pool.
            deadline: on `clock`.

        Raises:
            ServiceError: as `Submit` says.
        """
        try:
            raw = await together([submit(one, deadline=deadline, priority=one.parameters.priority) for one in work])
        except BaseException:
            for one in work:
                one.unwanted = True  # it may have been handed over already
            raise
        self._metrics.images.inc(len(raw))
        return raw

    async def close(self, timeout: float) -> None:
        """Finishes what was admitted, at most for ``timeout`` seconds, and closes the engine."""
        await self.line.close(timeout)
