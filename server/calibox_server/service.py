"""The server without HTTP: settings, models, metrics and one detection request from bytes to an answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from starlette.requests import Request

from calibox_core.manifest import Manifest
from calibox_server.answers import detections_json
from calibox_server.decoding import prepare_decoders
from calibox_server.engine import Engine
from calibox_server.engine_choice import EngineOpener
from calibox_server.errors import OverloadedError, StoppingError
from calibox_server.metrics import Metrics
from calibox_server.models import Models, OpenEngine, load_models
from calibox_server.parameters import read_parameters, read_target
from calibox_server.pipeline import Pipeline, StageTimes, clock
from calibox_server.queue import Policy
from calibox_server.requests import DetectRequest, read_request
from calibox_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered detection request."""

    body: bytes
    timing_ms: dict[str, float]


@dataclass(slots=True)
class Service:
    """What `build_app` puts behind HTTP."""

    settings: Settings
    models: Models
    metrics: Metrics
    decoders: ThreadPoolExecutor
    stopping: bool = field(default=False)

    @classmethod
    def load(cls, settings: Settings, open_engine: OpenEngine | None = None) -> "Service":
        """Loads and warms up every model; blocks.

        Args:
            settings: of the server.
            open_engine: makes an engine of a bundle; as the settings ask when None.

        Raises:
            BundleError: no model could be loaded.
        """
        prepare_decoders()
        metrics = Metrics()
        decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")

        def make_pipeline(manifest: Manifest, engine: Engine) -> Pipeline:
            policy = Policy(
                max_batch=engine.max_batch,
                max_delay=settings.max_delay_ms / 1e3,
                instances=engine.instances,
                in_flight=engine.in_flight,
            )
            return Pipeline(
                manifest,
                engine,
                policy=policy,
                queue_size=settings.queue_size,
                decoders=decoders,
                max_pixels=settings.max_pixels,
                metrics=metrics.model(manifest.name, manifest.version),
            )

        models = load_models(settings.models, open_engine or EngineOpener(settings), make_pipeline)
        return cls(settings, models, metrics, decoders)

    async def read(self, request: Request) -> DetectRequest:
        """Reads a request's body, unless it is sure beforehand that it could not be taken.

        Raises:
            ServiceError: stopping, overloaded, or as `read_request` says.
            ClientDisconnect: the client left while its body was read.
        """
        self._check_door()
        return await read_request(
            request,
            max_bytes=self.settings.max_bytes,
            max_images=min(self.settings.max_images, self.settings.queue_size),
            in_thread=self._in_thread,
        )

    async def answer(self, asked: DetectRequest, started: float) -> Answer:
        """Answers a request that was read; ``started`` is when it came, on the pipeline's clock.

        Raises:
            ServiceError: any of the tree.
        """
        pipeline = self.models.find(*read_target(asked.given))
        parameters = read_parameters(
            asked.given,
            pipeline.manifest,
            default_timeout_ms=self.settings.timeout_ms,
            images=len(asked.images),
        )
        deadline = clock() + parameters.timeout_ms / 1e3
        with pipeline.admit(len(asked.images)) as submit:
            found, times = await pipeline.detect(submit, asked.images, parameters, deadline=deadline)
        seconds = _stages(times, clock() - started)
        self.metrics.request_answered(seconds)
        timing_ms = {stage: round(value * 1e3, 3) for stage, value in seconds.items()}
        return Answer(detections_json(pipeline.manifest, found, timing_ms), timing_ms)

    def stop(self) -> None:
        """From now on nothing new is taken; may be called from a signal handler."""
        self.stopping = True

    async def close(self) -> None:
        """Finishes what was admitted, as long as the settings allow."""
        self.stop()
        await asyncio.gather(*(pipeline.close(self.settings.drain_s) for pipeline in self.models))
        self.decoders.shutdown(wait=False, cancel_futures=True)

    def _check_door(self) -> None:
        """Refuses before the body is read, when it is sure that no model could take the request."""
        if self.stopping:
            raise StoppingError("the server is stopping and takes no new requests; send it again elsewhere")
        for pipeline in self.models:
            try:
                return pipeline.check_room()
            except OverloadedError as error:
                full = error
        raise full

    async def _in_thread(self, function: Callable[..., DetectRequest], *args: object) -> DetectRequest:
        return await asyncio.get_running_loop().run_in_executor(self.decoders, function, *args)


def _stages(times: StageTimes, total: float) -> dict[str, float]:
    return {"decode": times.decode, "queue": times.queue, "engine": times.engine, "total": total}
