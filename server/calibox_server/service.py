"""The server without HTTP: settings, models, metrics and one detection request from bytes to an answer."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from starlette.requests import Request

from calibox_core.manifest import Manifest
from calibox_server.background import in_thread
from calibox_server.decoding import prepare_decoders
from calibox_server.detections import ImageDetections, StageTimes
from calibox_server.door import Held
from calibox_server.engine import Engine, EngineFacts
from calibox_server.engine_choice import EngineOpener
from calibox_server.engine_line import EngineLine
from calibox_server.engine_runner import clock
from calibox_server.errors import EngineAwayError, OverloadedError, StoppingError
from calibox_server.fetch.fetcher import Fetcher, make_fetcher
from calibox_server.memory import MemoryMeter
from calibox_server.metrics import Metrics, ModelMetrics
from calibox_server.models import Models, OpenEngine
from calibox_server.parameters import Parameters, read_target
from calibox_server.pipeline import Line, Pipeline, free
from calibox_server.queue import Policy, Priority, Reply
from calibox_server.rate import Limiter, MakeLimiter
from calibox_server.repository import Repository
from calibox_server.requests import DetectRequest, read_request
from calibox_server.server_timing import in_ms
from calibox_server.settings import Settings
from calibox_server.shelf import Change
from calibox_server.tuning import TunedOpener
from calibox_server.versions import VersionPolicy


class Answer(NamedTuple):
    """An answered detection request."""

    body: bytes
    timing_ms: dict[str, float]
    model: str  # name/version
    batch: int  # the most images that ran together with one of the request's
    images: int


class Changes(Protocol):
    """Whoever changes the models; as `Repository`, which is one."""

    async def load(self, name: str, version: str | None = None, *, again: bool = False) -> Change:
        """As `Repository.load`."""

    async def unload(self, name: str, version: str | None = None) -> Change:
        """As `Repository.unload`."""

    def index(self) -> list[dict[str, str]]:
        """As `Repository.index`."""

    async def watch(self, seconds: float) -> None:
        """As `Repository.watch`."""

    async def close(self, timeout: float) -> None:
        """As `Repository.close`."""


@dataclass(slots=True)
class Service:
    """What `build_app` puts behind HTTP."""

    settings: Settings
    models: Models
    metrics: Metrics
    decoders: ThreadPoolExecutor
    repository: Changes  # changes `models`
    make_limiter: MakeLimiter = field(default=Limiter)  # keeps the rates of callers
    engine_is_there: bool = field(default=True)  # false while its process is started again
    stopping: bool = field(default=False)
    drained_by: float = field(default=math.inf)  # on the pipeline's clock; known once it is stopped
    watch: asyncio.Task[None] | None = field(default=None)  # looks at the folder, where the settings ask for it
    fetcher: Fetcher = field(init=False)

    def __post_init__(self) -> None:
        self.fetcher = make_fetcher(self.settings)

    @classmethod
    def load(
        cls, settings: Settings, open_engine: OpenEngine | None = None, make_held: Callable[[], Held] = Held
    ) -> "Service":
        """Loads and warms up every model; blocks.

        Args:
            settings: of the server.
            open_engine: makes an engine of a bundle; as the settings ask when None.
            make_held: counts the places of one model.

        Raises:
            BundleError: no model could be loaded.
        """
        prepare_decoders()
        metrics = Metrics(score_histograms=settings.score_histograms)
        memory = MemoryMeter(open_engine or (TunedOpener if settings.tune else EngineOpener)(settings))
        busy: set[int] = set()
        decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")

        def make_pipeline(manifest: Manifest, engine: Engine) -> Pipeline:
            counted = metrics.model(manifest.name, manifest.version, manifest.label_names)
            grown = memory.grown(manifest, engine)
            policy = Policy(
                max_batch=engine.max_batch,
                max_delay=settings.max_delay_ms / 1e3,
                instances=engine.instances,
                in_flight=engine.in_flight,
            )
            line = EngineLine(
                manifest,
                engine,
                policy=policy,
                queue_size=settings.queue_size,
                reserved=settings.reserved_places,
                metrics=counted,
                held=make_held(),
                busy=busy,
            )
            pipeline = pipeline_for(settings, manifest, engine, line, decoders, counted)
            counted.watch_memory(pipeline, grown)
            return pipeline

        policy = VersionPolicy.parse(settings.versions)
        repository = Repository(settings.models, policy, memory.open, make_pipeline)
        repository.start()
        return cls(settings, repository.models, metrics, decoders, repository)

    def begin(self) -> None:
        """Starts what runs beside requests; called on the event loop."""
        if self.settings.watch_s is not None:
            self.watch = asyncio.create_task(self.repository.watch(self.settings.watch_s))

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.engine_is_there and not self.stopping

    def check_ready(self) -> None:
        """Raises StoppingError or EngineAwayError unless `ready`."""
        if self.stopping:
            raise StoppingError("the server is stopping; send requests elsewhere")
        if not self.engine_is_there:
            raise EngineAwayError("the process that runs the models is started again; requests wait for it")

    async def exposition(self) -> bytes:
        """The text of the metrics."""
        return await asyncio.to_thread(self.metrics.exposition)  # many classes: tens of milliseconds

    @property
    def max_images(self) -> int:
        """Most images of one request: more than the queue has places for could never be taken."""
        return min(self.settings.max_images, max(1, self.settings.queue_size - self.settings.reserved_places))

    async def read(self, request: Request) -> DetectRequest:
        """Reads a request's body, unless it is sure beforehand that it could not be taken.

        Raises:
            ServiceError: stopping, overloaded, or as `read_request` says.
            ClientDisconnect: the client left while its body was read.
        """
        self.check_door(request.scope["query_string"])
        return await read_request(
            request,
            max_bytes=self.settings.max_bytes,
            max_images=self.max_images,
            in_thread=partial(in_thread, self.decoders),
        )

    async def answer(self, asked: DetectRequest, started: float, charge: Callable[[int], None] = free) -> Answer:
        """Answers a request that was read.

        Args:
            asked: what was read.
            started: when it came, on the pipeline's clock.
            charge: as `Pipeline.detect` takes it.

        Raises:
            ServiceError: any of the tree.
        """
        read, fetched = clock(), 0.0
        pipeline, parameters = self._target(asked)  # whatever is wrong with it is said before anything is fetched
        if asked.urls:
            asked = await self.fetcher.fetch_into(
                asked, max_bytes=self.settings.max_bytes, seconds=parameters.timeout_ms / 1e3
            )
            fetched = clock() - read
            pipeline, parameters = self._target(asked)  # the model may have been replaced
        deadline = read + parameters.timeout_ms / 1e3
        with pipeline.admit(len(asked.images), parameters.priority) as submit:
            found, times = await pipeline.detect(submit, asked.images, parameters, deadline=deadline, charge=charge)
        return _answer_of(self.metrics, pipeline, started, fetched, found, times)

    def answer_soon(self, asked: DetectRequest, started: float, reply: Reply[Answer]) -> Callable[[], None] | None:
        """`answer` for a caller who is called, where one image has nothing to wait for but the engine.

        Args:
            asked: one image, read.
            started: when it came, on the pipeline's clock.
            reply: the caller; perhaps called before this returns.

        Returns: what takes the request back; None where only `answer` will do, and nothing was begun.

        Raises:
            ServiceError: as `answer`, of what is known at once; the reply is not called.
        """
        pipeline, parameters = self._target(asked)
        return pipeline.detect_soon(
            asked.images[0],
            parameters,
            deadline=clock() + parameters.timeout_ms / 1e3,
            into=partial(_answer_of, self.metrics, pipeline, started, 0.0),
            reply=reply,
        )

    def _target(self, asked: DetectRequest) -> tuple[Pipeline, Parameters]:
        pipeline = self.models.find(*read_target(asked.given))
        return pipeline, pipeline.parameters(asked.given, len(asked.images))

    def stop(self) -> None:
        """From now on nothing new is taken; may be called from a signal handler, and again."""
        if not self.stopping:
            self.drained_by = clock() + self.settings.drain_s
        self.stopping = True

    @property
    def drain_left(self) -> float:
        """Seconds of the drain time that are left once the service was stopped."""
        return max(0.0, self.drained_by - clock())

    async def close(self) -> None:
        """Finishes what was admitted, as long as the settings allow."""
        self.stop()
        if self.watch is not None:
            self.watch.cancel()
        await self.repository.close(self.drain_left)
        self.fetcher.close()
        self.decoders.shutdown(wait=False, cancel_futures=True)

    def check_door(self, query: bytes) -> None:
        """Refuses before the body is read, when it is sure that no model could take the request.

        Args:
            query: of its address, which may name the priority: all that can be known so early.

        Raises:
            StoppingError, OverloadedError: what the request is told.
        """
        priority = Priority.HIGH if b"priority=high" in query else Priority.NORMAL
        if self.stopping:
            raise StoppingError("the server is stopping and takes no new requests; send it again elsewhere")
        full: OverloadedError | None = None
        for pipeline in self.models:
            try:
                pipeline.check_room(priority)
            except OverloadedError as error:
                full = error
            else:
                return
        if full is not None:
            raise full


def pipeline_for(
    settings: Settings,
    manifest: Manifest,
    engine: EngineFacts,
    line: Line,
    decoders: ThreadPoolExecutor,
    metrics: ModelMetrics,
) -> Pipeline:
    """The pipeline of one model as the settings bound it."""
    return Pipeline(
        manifest,
        engine,
        line,
        decoders=decoders,
        max_pixels=settings.max_pixels,
        max_tiles=settings.max_tiles,
        places=max(1, settings.queue_size - settings.reserved_places),
        timeout_ms=settings.timeout_ms,
        metrics=metrics,
    )


def _answer_of(
    metrics: Metrics,
    pipeline: Pipeline,
    started: float,
    fetched: float,
    found: list[ImageDetections],
    times: StageTimes,
) -> Answer:
    seconds = {"fetch": fetched} if fetched else {}
    seconds |= {"decode": times.decode, "queue": times.queue, "engine": times.engine, "total": clock() - started}
    metrics.request_answered(seconds)
    timing_ms = {stage: in_ms(value) for stage, value in seconds.items()}
    body = pipeline.writer.write(found, timing_ms)
    return Answer(body, timing_ms, pipeline.writer.title, times.batch, len(found))
