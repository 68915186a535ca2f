"""What the engine process offers to its front ends: every model under a number, told anew after each change."""

import asyncio
import contextlib
import socket
from typing import Any

from calibox_server.engine_line import EngineLine
from calibox_server.errors import ServiceError
from calibox_server.outermost import as_service_error
from calibox_server.service import Service
from calibox_server.workers import catalogue, messages
from calibox_server.workers.catalogue import Offer, facts_of
from calibox_server.workers.far_repository import order_of
from calibox_server.workers.front_link import FrontLink, Offered
from calibox_server.workers.places import SharedHeld
from calibox_server.workers.shared import new_document, read_document
from calibox_server.workers.slab import Layout

_PATIENCE_S = 10.0  # for a front end to go by a new catalogue; one that hangs must not hold up the operator for ever


class Offers:
    """Keeps every front end's catalogue as the models are.

    Args:
        service: of the engine process.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._links: set[FrontLink] = set()
        self._offered: dict[int, Offered] = {}  # by number
        self._number = 0  # of the catalogue
        self._document: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress = asyncio.Condition()
        self._planned = False
        service.models.on_change = self.plan
        self.publish()

    def add(self, end: socket.socket) -> None:
        """There is a front end more."""
        link = FrontLink(end, self._ordered, self._lost)
        self._links.add(link)
        for number, offered in self._offered.items():
            link.invite(number, offered)
        link.tell(messages.CATALOGUE, self._number, new_document(self._document))

    def plan(self) -> None:
        """Something changed; it is told at the end of this turn of the event loop."""
        if not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_soon(self.publish)

    def publish(self) -> None:
        """Tells every front end what is served now."""
        self._planned = False
        before, self._offered, offers = self._offered, {}, []
        for pipeline in self._service.models:
            line = pipeline.line
            assert isinstance(line, EngineLine)  # this process makes no other
            assert isinstance(line.count, SharedHeld)
            number = line.count.model
            self._offered[number] = Offered(line, Layout.of(pipeline.manifest))
            offers.append(Offer(number, pipeline.manifest, facts_of(pipeline.engine, line.in_flight)))
        for link in self._links:
            for number in self._offered.keys() - before.keys():
                link.invite(number, self._offered[number])
        self._number += 1
        self._document = catalogue.write(offers, self._service.models, self._service.repository.index())
        for link in self._links:
            link.tell(messages.CATALOGUE, self._number, new_document(self._document))

    async def everywhere(self) -> None:
        """Until every front end goes by what is served now."""
        self.publish()
        number = self._number
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S), self._progress:
                await self._progress.wait_for(lambda: all(link.applied >= number for link in self._links))

    def _ordered(self, link: FrontLink, kind: int, number: int, fds: list[int]) -> None:
        if kind == messages.APPLIED:
            link.applied = number
            self._start(self._notify())
        elif kind == messages.CHANGE:
            self._start(self._change(link, number, read_document(fds[0])))

    def _lost(self, link: FrontLink) -> None:
        self._links.discard(link)
        self._start(self._notify())

    async def _change(self, link: FrontLink, number: int, order: dict[str, Any]) -> None:
        try:
            change = await order_of(self._service.repository, order)
            told: dict[str, Any] = {"loaded": change.loaded, "unloaded": change.unloaded}
        except Exception as error:
            known: ServiceError = as_service_error(error)
            told = {"code": known.code, "detail": str(known)}
        await self.everywhere()
        link.tell(messages.CHANGED, number, new_document(told))

    async def _notify(self) -> None:
        async with self._progress:
            self._progress.notify_all()

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
