"""The process that runs the models: repository, engines, batches, gRPC. It knows nothing of HTTP."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable

from calibox_server.door import Held
from calibox_server.engine_line import EngineLine
from calibox_server.greeting import welcome
from calibox_server.heap import settle
from calibox_server.logs import configure_logs
from calibox_server.service import Service
from calibox_server.workers import messages
from calibox_server.workers.channel import Channel, close_all
from calibox_server.workers.child import Start, run_child
from calibox_server.workers.messages import head, read_head
from calibox_server.workers.offers import Offers
from calibox_server.workers.places import Places, SharedHeld
from calibox_server.workers.rates import SharedLimiters
from calibox_server.workers.shared import new_document, new_text


class EngineProcess:
    """Serves front ends until the supervisor says that it is enough."""

    def __init__(self, start: Start, service: Service) -> None:
        self._start = start
        self._service = service
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Returns when everything is closed."""
        service, settings = self._service, self._start.settings
        self._offers = Offers(service)
        self._control = Channel(self._start.end, self._ordered, self._ended.set)
        async with contextlib.AsyncExitStack() as stack:
            service.begin()
            if settings.grpc_port is not None:
                await stack.enter_async_context(_grpc(service, settings.grpc_port))
            text = welcome(service, settings.host, self._start.port)
            self._control.send(head(messages.READY), [new_document({"welcome": text})])
            await self._ended.wait()
            await service.close()

    def _ordered(self, packet: bytes, fds: list[int]) -> None:
        """What the supervisor says."""
        kind, number = read_head(packet)
        if kind == messages.LINK:
            self._offers.add(socket.socket(fileno=fds[0]))
            return
        close_all(fds)
        if kind == messages.STOP:
            self._service.stop()
        elif kind == messages.PING:
            self._control.send(head(messages.PONG, int(1e3 * longest_run(self._service))))
        elif kind == messages.END:
            self._ended.set()
        elif kind == messages.SNAPSHOT:
            task = asyncio.create_task(self._tell_metrics(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell_metrics(self, number: int) -> None:
        self._control.send(head(messages.SNAPSHOT, number), [new_text(await self._service.exposition())])


def longest_run(service: Service) -> float:
    """Seconds since the oldest run began that goes on in any engine; 0 where none does."""
    lines = (pipeline.line for pipeline in service.models)
    return max((line.longest_run for line in lines if isinstance(line, EngineLine)), default=0.0)


@contextlib.asynccontextmanager
async def _grpc(service: Service, port: int) -> AsyncIterator[None]:
    """Serves gRPC inside the block; what it needs is imported only where it is wanted."""
    from calibox_server.guard import make_guard
    from calibox_server.oip.grpc_server import grpc_server
    from calibox_server.tracer import Tracer
    from calibox_server.tracing import make_provider

    settings = service.settings
    tracer = Tracer(make_provider()) if settings.otel else None
    async with grpc_server(service, make_guard(settings, service.make_limiter), port, tracer):
        yield
    if tracer is not None:
        await tracer.finish()


def load(start: Start) -> Service:
    """The models, each with its places on the shared page."""
    places = Places(start.places, start.processes, start.process)
    numbers = itertools.count(start.first_model)

    def make_held() -> Held:
        return SharedHeld(places, next(numbers))

    service = Service.load(start.settings, make_held=make_held)
    service.make_limiter = SharedLimiters(start.rates).make
    return service


def serve(start: Start) -> None:
    """Loads the models and runs until the supervisor says that it is enough.

    Raises:
        CaliboxError: no model could be loaded.
    """
    configure_logs(start.settings)
    service = load(start)
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # as the web server chooses
        import uvloop

        factory = uvloop.new_event_loop
    settle()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(EngineProcess(start, service).run())


if __name__ == "__main__":
    run_child(serve)
