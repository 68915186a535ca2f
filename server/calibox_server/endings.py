"""How requests end: answered, refused, with the client gone, or with the server stopped. The same for every surface."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from calibox_server.connections import LEAVING, Leaving
from calibox_server.errors import ServiceError, StoppingError, stopped_early
from calibox_server.metrics import Metrics
from calibox_server.outermost import CLIENT_CLOSED_CODE

T = TypeVar("T")


class Counted:
    """A block that is one detection request; counted by its end.

    Raises:
        StoppingError: in place of a cancellation: the web server gives up what runs when the drain time is over.
    """

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:  # first: the way of nearly every request
            self._metrics.request_ended("ok")
            return
        self._metrics.request_ended(_code(error))
        if isinstance(error, asyncio.CancelledError):
            raise stopped_early() from None


def _code(error: BaseException) -> str:
    if isinstance(error, ServiceError):
        return error.code
    if isinstance(error, ClientDisconnect):
        return CLIENT_CLOSED_CODE
    return StoppingError.code if isinstance(error, asyncio.CancelledError) else ServiceError.code


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits ``work`` and cancels it when the client disconnects; the body was read before.

    Raises:
        ClientDisconnect: the client left.
    """
    task, left = asyncio.current_task(), False
    assert task is not None  # an endpoint always runs in a task

    def cancel() -> None:
        nonlocal left
        left = True
        task.cancel()

    with _listening(request, cancel):
        try:
            return await work
        except asyncio.CancelledError:
            if left:
                task.uncancel()
                raise ClientDisconnect from None
            raise


@contextmanager
def _listening(request: Request, cancel: Callable[[], None]) -> Iterator[None]:
    """Calls ``cancel`` when the client leaves inside the block; a task that waits for it costs more than being told."""
    leaving: Leaving | None = request.scope.get(LEAVING)
    if leaving is None:  # another web server than ours
        watcher = asyncio.create_task(_watch(request.receive, cancel))
        try:
            yield
        finally:
            watcher.cancel()
        return
    if leaving.happened:
        cancel()
    leaving.listeners.add(cancel)
    try:
        yield
    finally:
        leaving.listeners.discard(cancel)


async def _watch(receive: Receive, cancel: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cancel()


async def unless_cancelled(work: Coroutine[Any, Any, T], *, by_server: Callable[[], bool]) -> T:
    """Awaits ``work`` where a cancellation is how a client's leaving is told, unless it was ``by_server``.

    Raises:
        ClientDisconnect: the client left.
    """
    try:
        return await work
    except asyncio.CancelledError:
        if by_server():
            raise
        raise ClientDisconnect from None
