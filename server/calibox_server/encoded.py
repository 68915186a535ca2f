"""Work whose image is decoded by the thread that runs it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from calibox_core.letterbox import Letterbox
from calibox_core.manifest import Manifest
from calibox_server.decoding import Placer
from calibox_server.detections import ImageDetections, StageTimes, finish, times_of
from calibox_server.engine_runner import RawDetections, Work, clock
from calibox_server.metrics import ModelMetrics
from calibox_server.parameters import Parameters
from calibox_server.requests import ImagePart
from calibox_server.slots import Slot

A = TypeVar("A")

_NO_PIXELS = np.frombuffer(b"", np.uint8)  # a view of what is not ours: no pool takes it


@dataclass(slots=True, eq=False)
class Encoded(Work):
    """One image as it was sent; its slot is taken when the engine has time for it.

    So a queue of requests holds their bytes and not their pixels, and a request changes threads once less each way.
    """

    place: Callable[[], tuple[Slot, Letterbox]] = field(kw_only=True)
    letterbox: Letterbox | None = field(default=None, kw_only=True)  # once it is decoded

    @classmethod
    def of(
        cls, place: Callable[[], tuple[Slot, Letterbox]], parameters: Parameters, refine_steps: int, submitted: float
    ) -> "Encoded":
        """Args: what decodes it and raises ServiceError, and as `Work` has them."""
        return cls(_NO_PIXELS, parameters, refine_steps, submitted, place=place)

    def decode(self) -> None:
        """Raises ServiceError: as ``place``."""
        self.slot, self.letterbox = self.place()


class AsSent:
    """Images that wait as they were sent, before and behind the engine.

    Args:
        manifest: of the model.
        place: decodes them.
        metrics: of the model.
    """

    def __init__(self, manifest: Manifest, place: Placer, metrics: ModelMetrics) -> None:
        self._manifest = manifest
        self._place = place
        self._metrics = metrics

    def work(self, image: ImagePart, parameters: Parameters, deadline: float) -> Encoded:
        """What waits for the engine."""
        place = partial(self._place, image, deadline=deadline)
        return Encoded.of(place, parameters, parameters.refine_steps[0], clock())

    def counted(
        self, work: Encoded, into: Callable[[list[ImageDetections], StageTimes], A]
    ) -> Callable[[RawDetections], A]:
        """Counts the image, and makes something else of what `seen` returns."""

        def seen(raw: RawDetections) -> A:
            self._metrics.images.inc()
            return into(*self.seen(work, raw))

        return seen

    def seen(self, work: Encoded, raw: RawDetections) -> tuple[list[ImageDetections], StageTimes]:
        """What the engine found in it, as `Pipeline.detect` returns it."""
        assert work.letterbox is not None  # it was decoded
        found = [finish(raw.rows, work.letterbox, work.parameters, self._manifest)]
        self._metrics.observe_scores(found)
        return found, times_of(raw.decode, [raw])
