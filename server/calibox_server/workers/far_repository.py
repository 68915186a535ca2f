"""The models of a front end: what the engine process offers, asked over a desk.

An old version drains as in one process: nobody new finds it, what was admitted to it is answered, and only then is the
engine process told that this front end needs it no more.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from calibox_server.errors import EngineAwayError, StoppingError
from calibox_server.models import Models
from calibox_server.pipeline import Pipeline
from calibox_server.repository import DRAIN_SECONDS
from calibox_server.service import Changes
from calibox_server.shelf import Change
from calibox_server.workers import messages
from calibox_server.workers.catalogue import Catalogue, Offer
from calibox_server.workers.channel import Channel
from calibox_server.workers.desk import Desk
from calibox_server.workers.messages import error_named, head
from calibox_server.workers.places import SharedHeld
from calibox_server.workers.remote_line import RemoteLine
from calibox_server.workers.shared import new_document

MakePipeline = Callable[[Offer], Pipeline]


class FarRepository:
    """Keeps ``models`` as the engine process's catalogues say.

    Args:
        desk: where it is reached.
        make_pipeline: serves an offer by a `RemoteLine` whose places are a `SharedHeld`.
    """

    def __init__(self, desk: Desk, make_pipeline: MakePipeline) -> None:
        self.models = Models()
        self._desk = desk
        self._make_pipeline = make_pipeline
        self._index: list[dict[str, str]] = []
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._retired: set[RemoteLine] = set()  # which drain
        self._known = False  # whether a catalogue of the present engine process came
        self._closing = False

    def engine_came(self, channel: Channel) -> None:
        """There is an engine process; its catalogue follows."""
        self._desk.channel, self._known = channel, False

    def engine_left(self) -> None:
        """It ended; what waits for it waits for the next one."""
        self._desk.channel = None
        for pipeline in self.models:
            _line_of(pipeline).connect(None)
        for line in self._retired:  # its successor will not have them
            line.connect(None)
            line.end()
        for question in self._questions.values():
            if not question.done():
                question.set_exception(_away())

    def apply(self, catalogue: Catalogue, number: int) -> None:
        """Goes by a catalogue from now on."""
        for offer in catalogue.offers:
            self._take(offer)
        wanted = {(offer.manifest.name, offer.manifest.version) for offer in catalogue.offers}
        for pipeline in list(self.models):
            key = pipeline.manifest.name, pipeline.manifest.version
            if key not in wanted:
                self._retire(self.models.drop(*key))
        self.models.broken[:] = catalogue.broken
        self._index = list(catalogue.index)
        self._known = True
        self._send(head(messages.APPLIED, number))

    def told(self, number: int, document: Any) -> None:
        """The answer to a change."""
        question = self._questions.get(number)
        if question is not None and not question.done():
            question.set_result(document)

    async def load(self, name: str, version: str | None = None, *, again: bool = False) -> Change:
        """As `Repository.load`; every front end goes by it when it returns."""
        return await self._ask({"name": name, "version": version, "again": again, "unload": False})

    async def unload(self, name: str, version: str | None = None) -> Change:
        """As `Repository.unload`; every front end goes by it when it returns."""
        return await self._ask({"name": name, "version": version, "again": False, "unload": True})

    def index(self) -> list[dict[str, str]]:
        """As `Repository.index`."""
        return self._index

    async def watch(self, seconds: float) -> None:
        """The engine process looks at the folder."""

    async def close(self, timeout: float) -> None:
        """Drains every model for at most ``timeout`` seconds."""
        self._closing = True
        await asyncio.gather(*(pipeline.close(timeout) for pipeline in self.models))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    def _take(self, offer: Offer) -> None:
        """Serves an offer: one that is served already, one that a former engine process made, or a new one."""
        known = self.models.ready.get(offer.manifest.name, {}).get(offer.manifest.version)
        if known is not None and self._known and _line_of(known).model == offer.model:
            return
        if known is not None and not self._known and known.manifest == offer.manifest:
            known.engine = offer.engine
            self._connect(known, offer)
            return
        pipeline = self._make_pipeline(offer)
        self._connect(pipeline, offer)
        old = self.models.put(pipeline)
        if old is not None:
            self._retire(old)

    def _connect(self, pipeline: Pipeline, offer: Offer) -> None:
        line = _line_of(pipeline)
        if isinstance(line.count, SharedHeld) and line.count.model != offer.model:
            line.count.move(offer.model)
        if self._desk.channel is not None:
            self._desk.channel.send(head(messages.SLAB, offer.model), [line.slots.copy_of_fd()])
        line.connect(offer.model)

    def _retire(self, pipeline: Pipeline) -> None:
        # What a former engine process had, and this one has not, nobody will answer.
        task = asyncio.create_task(self._drain(pipeline, DRAIN_SECONDS if self._known else 0.0))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, pipeline: Pipeline, timeout: float) -> None:
        line, channel = _line_of(pipeline), self._desk.channel
        self._retired.add(line)
        await pipeline.close(timeout)
        self._retired.discard(line)
        if channel is not None and line.model is not None:
            channel.send(head(messages.LET_GO, line.model))

    async def _ask(self, order: dict[str, Any]) -> Change:
        if self._closing:
            raise StoppingError("the server is stopping; its models stay as they are")
        if self._desk.channel is None:
            raise _away()
        number = next(self._numbers)
        question = self._questions[number] = asyncio.get_running_loop().create_future()
        try:
            self._desk.channel.send(head(messages.CHANGE, number), [new_document(order)])
            return _change(await question)
        finally:
            del self._questions[number]

    def _send(self, packet: bytes) -> None:
        if self._desk.channel is not None:
            self._desk.channel.send(packet)


def order_of(repository: Changes, order: dict[str, Any]) -> Awaitable[Change]:
    """What a document of `FarRepository` asks of a real repository."""
    if order["unload"]:
        return repository.unload(order["name"], order["version"])
    return repository.load(order["name"], order["version"], again=order["again"])


def _change(document: dict[str, Any]) -> Change:
    if "code" in document:
        raise error_named(document["code"], document["detail"])
    return Change(
        loaded=[(name, version) for name, version in document["loaded"]],
        unloaded=[(name, version) for name, version in document["unloaded"]],
    )


def _line_of(pipeline: Pipeline) -> RemoteLine:
    assert isinstance(pipeline.line, RemoteLine)  # a front end makes no other
    return pipeline.line


def _away() -> EngineAwayError:
    return EngineAwayError("the process that runs the models is started again; ask again when /readyz says so")
