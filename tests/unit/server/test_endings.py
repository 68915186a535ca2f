"""A client that leaves, as its connection tells it or, behind another web server, as the protocol does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from calibox_server.connections import LEAVING, Leaving
from calibox_server.endings import unless_client_leaves
from tests.support.gated_engine import PATIENCE_S


class Client:
    """Somebody who asked, and stays or leaves."""

    def __init__(self, *, told_by_connection: bool) -> None:
        self.leaving = Leaving()
        self._gone = asyncio.Event()
        scope: dict[str, Any] = {"type": "http", "headers": []}
        if told_by_connection:
            scope[LEAVING] = self.leaving
        self.request = Request(scope, self._receive)

    def leave(self) -> None:
        self._gone.set()
        self.leaving.happen()

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}


def with_client(told_by_connection: bool, act: Callable[[Client], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await act(Client(told_by_connection=told_by_connection))

    return asyncio.run(run())


async def forever(began: asyncio.Event) -> None:
    began.set()
    await asyncio.Event().wait()


@pytest.mark.parametrize("told_by_connection", [True, False])
def test_work_ends_when_its_client_leaves(told_by_connection: bool) -> None:
    async def act(client: Client) -> None:
        began = asyncio.Event()
        asking = asyncio.create_task(unless_client_leaves(client.request, forever(began)))
        await began.wait()
        client.leave()
        with pytest.raises(ClientDisconnect):
            await asking
        assert asking.cancelling() == 0  # whoever awaits further is not cancelled

    with_client(told_by_connection, act)


@pytest.mark.parametrize("told_by_connection", [True, False])
def test_a_client_who_stays_gets_the_result_and_nobody_listens_any_more(told_by_connection: bool) -> None:
    async def act(client: Client) -> str:
        async def work() -> str:
            await asyncio.sleep(0)
            return "found"

        found = await unless_client_leaves(client.request, work())
        client.leave()  # afterwards: hurts nobody
        await asyncio.sleep(0)
        assert client.leaving.listeners == set()
        assert len(asyncio.all_tasks()) == 1
        return found

    assert with_client(told_by_connection, act) == "found"


def test_work_whose_client_left_before_it_began_ends_at_its_first_wait() -> None:
    async def act(client: Client) -> None:
        client.leave()
        with pytest.raises(ClientDisconnect):
            await unless_client_leaves(client.request, forever(asyncio.Event()))

    with_client(True, act)


@pytest.mark.parametrize("told_by_connection", [True, False])
def test_a_cancellation_by_somebody_else_stays_one(told_by_connection: bool) -> None:
    async def act(client: Client) -> None:
        began = asyncio.Event()
        asking = asyncio.create_task(unless_client_leaves(client.request, forever(began)))
        await began.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert client.leaving.listeners == set()

    with_client(told_by_connection, act)
