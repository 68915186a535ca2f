"""The service of a front end: what `Service` is, with an engine in another process and the metrics of all."""

import asyncio
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from calibox_server.decoding import prepare_decoders
from calibox_server.metrics import Metrics
from calibox_server.pipeline import Pipeline
from calibox_server.service import Service, pipeline_for
from calibox_server.settings import Settings
from calibox_server.workers import messages
from calibox_server.workers.catalogue import Offer
from calibox_server.workers.channel import Channel
from calibox_server.workers.child import Start
from calibox_server.workers.desk import Desk
from calibox_server.workers.exposition import merged
from calibox_server.workers.far_repository import FarRepository
from calibox_server.workers.messages import head
from calibox_server.workers.places import Places, SharedHeld
from calibox_server.workers.rates import SharedLimiters
from calibox_server.workers.remote_line import RemoteLine
from calibox_server.workers.shared import new_text
from calibox_server.workers.slab import Layout, SharedSlots

# Slots of one model in one front end, as a multiple of the queue's places and beside the tiles of one image: those of
# requests in tiles take more slots than they held places. Pages that nobody touches take no memory.
_SLOTS_PER_PLACE = 4
_KEPT = 32  # slots that keep their pages: as many images as usually wait at once
_PATIENCE_S = 3.0  # for the metrics of the other processes; Prometheus gives up after 10


def share_of(settings: Settings, fronts: int) -> Settings:
    """One front end's part of what the settings give to the whole server."""
    return settings.model_copy(
        update={
            "max_connections": math.ceil(settings.max_connections / fronts),
            "decode_threads": math.ceil(settings.decoders / fronts),
            "fetch_at_once": math.ceil(settings.fetch_at_once / fronts),
            "watch_s": None,
            "grpc_port": None,
        }
    )


@dataclass(slots=True)
class FrontService(Service):
    """A service whose engine is in another process, with the metrics of all."""

    control: Channel | None = field(default=None)
    questions: dict[int, asyncio.Future[dict[str, str]]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def exposition(self) -> bytes:
        """The text of every process's metrics."""
        own = await asyncio.to_thread(self.metrics.exposition)
        if self.control is None or self.control.closed:
            return own
        number = next(self.numbers)
        question = self.questions[number] = asyncio.get_running_loop().create_future()
        try:
            self.control.send(head(messages.SNAPSHOT, number), [new_text(own)])
            texts = await asyncio.wait_for(question, _PATIENCE_S)
        except TimeoutError:
            return own
        finally:
            del self.questions[number]
        return (await asyncio.to_thread(merged, texts)).encode()


def make_service(start: Start, desk: Desk) -> FrontService:
    """The service of one front end, without models yet."""
    fronts = start.processes - 1
    settings = share_of(start.settings, fronts)
    prepare_decoders()
    metrics = Metrics(score_histograms=settings.score_histograms)
    decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
    places = Places(start.places, start.processes, start.process)

    def make_pipeline(offer: Offer) -> Pipeline:
        manifest, engine = offer.manifest, offer.engine
        line = RemoteLine(
            SharedSlots(
                Layout.of(manifest),
                count=_SLOTS_PER_PLACE * settings.queue_size + settings.max_tiles,
                keep=max(_KEPT, 2 * engine.in_flight * engine.max_batch),
            ),
            desk,
            queue_size=settings.queue_size,
            reserved=settings.reserved_places,
            instances=engine.instances,
            held=SharedHeld(places, offer.model),
        )
        counted = metrics.model(manifest.name, manifest.version, manifest.label_names)
        return pipeline_for(settings, manifest, engine, line, decoders, counted)

    repository = FarRepository(desk, make_pipeline)
    limiters = SharedLimiters(start.rates)
    return FrontService(
        settings, repository.models, metrics, decoders, repository, make_limiter=limiters.make, engine_is_there=False
    )
