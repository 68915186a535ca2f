"""The network of a stream: fetches frames, sends them, takes answers in, and connects again when a server went away."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from calibox_client.errors import ApiError, BadReplyError, CaliboxClientError, DeadlineError, ServerUnreachableError
from calibox_client.images import Encoding, ImageInput, encode_image
from calibox_client.many import each
from calibox_client.replies import Reply, refusal
from calibox_client.requests import STREAM_PATH
from calibox_client.retries import Patience, is_repeatable
from calibox_client.streaming.answers import FrameAnswer
from calibox_client.streaming.flow import Busy, Flow

_T = TypeVar("_T")

# RFC 6455's code for a message that is too long.
_TOO_LONG = 1009
# An answer with a thousand boxes has some 200 KB; more than this is none.
_LONGEST_ANSWER = 16 * 2**20


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a stream is made with.

    Attributes:
        url: the server's address, http or https.
        headers: of the handshake.
        values: parameters as text.
        frames: images; their ``next`` is called in a thread.
        encoding: how pixels travel.
        timeout: seconds to connect, repeats included, and again for each answer.
    """

    url: str
    headers: Mapping[str, str]
    values: Mapping[str, list[str]]
    frames: Iterable[ImageInput] | AsyncIterable[ImageInput]
    encoding: Encoding
    timeout: float


class FrameStream:
    """One stream, over as many connections as it takes."""

    def __init__(
        self, request: StreamRequest, flow: Flow, patience: Patience, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._request = request
        self._flow = flow
        self._patience = patience
        self._sleep = sleep
        self._changed = asyncio.Condition()
        self._failures = 0  # of connections since the last answer
        self._failure: Exception | None = None  # that ended the stream
        self._is_pausing = False

    async def answers(self) -> AsyncGenerator[FrameAnswer]:
        """Answers in the order of the frames, then the error that ended the stream, if one did."""
        work = asyncio.create_task(self._work())
        try:
            while (answer := await self._take()) is not None:
                yield answer
            await work  # closes the connection
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _take(self) -> FrameAnswer | None:
        await self._until(lambda: self._flow.can_take or self._flow.is_over or self._failure is not None)
        if self._flow.can_take:
            return await self._change(self._flow.take)
        if self._failure is not None:
            raise self._failure
        return None

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fetch())
                group.create_task(self._talk())
        except ExceptionGroup as errors:
            failure = _first(errors)
            await self._change(lambda: setattr(self, "_failure", failure))

    async def _fetch(self) -> None:
        """Gives the flow frames as it has room for them."""
        async for image in each(self._request.frames):
            await self._until(lambda: self._flow.has_room)
            await self._change(partial(self._flow.put, image))
        await self._change(lambda: setattr(self._flow, "ended", True))

    async def _talk(self) -> None:
        """Connects until every frame is answered."""
        while not self._flow.is_answered:
            try:
                async with asyncio.timeout(self._request.timeout):
                    socket = await self._connect()
            except TimeoutError as error:
                raise DeadlineError(f"no connection within {self._request.timeout:g} s") from error
            try:
                await self._use(socket)
            except ServerUnreachableError as error:
                await self._change(self._flow.lost)
                await self._fail(error)

    async def _connect(self) -> ClientConnection:
        while True:
            try:
                return await open_socket(self._request.url, self._request.headers)
            except CaliboxClientError as error:
                if not is_repeatable(error):
                    raise
                await self._fail(error)

    async def _use(self, socket: ClientConnection) -> None:
        """Works with one connection until every frame is answered.

        Raises:
            ServerUnreachableError: it broke.
            CaliboxClientError: the server refused something that another connection will not change.
        """
        try:
            async with socket, asyncio.TaskGroup() as group:
                await socket.send(json.dumps(dict(self._request.values)))
                tasks = [group.create_task(self._send(socket)), group.create_task(self._receive(socket))]
                await self._until(lambda: self._flow.is_answered)
                for task in tasks:
                    task.cancel()
        except ConnectionClosed as error:  # while the parameters were sent
            raise closed_error(error, self._request.url) from error
        except ExceptionGroup as errors:
            raise _closed_or(_first(errors), self._request.url) from None
        finally:
            socket.transport.abort()  # where the closing itself was interrupted

    async def _send(self, socket: ClientConnection) -> None:
        while True:
            await self._until(lambda: self._flow.can_send and not self._is_pausing)
            frame = await self._change(self._flow.send)
            if frame.data is None:
                frame.data = (await asyncio.to_thread(encode_image, frame.image, self._request.encoding)).data
            with contextlib.suppress(ConnectionClosed):  # what the server said before it closed is read all the same
                await socket.send(frame.data)

    async def _receive(self, socket: ClientConnection) -> None:
        while True:
            await self._until(lambda: self._flow.is_asking)
            try:
                async with asyncio.timeout(self._request.timeout):
                    text = await socket.recv()
            except TimeoutError as error:
                raise DeadlineError(f"no answer to a frame within {self._request.timeout:g} s") from error
            busy = await self._change(partial(self._flow.answered, text))
            if busy is None:
                self._failures = 0
            else:
                await self._rest(busy)

    async def _rest(self, busy: Busy) -> None:
        """Sends nothing for a while."""
        self._is_pausing = True
        await self._pause(busy.error, busy.tries)
        await self._change(lambda: setattr(self, "_is_pausing", False))

    async def _pause(self, error: CaliboxClientError, failures: int) -> None:
        """Waits before something is tried again.

        Raises:
            CaliboxClientError: the error, where it was tried often enough.
        """
        seconds = self._patience.pause(failures, error, self._request.timeout)
        if math.isinf(seconds):
            raise error
        self._patience.tell(error, seconds)
        await self._sleep(seconds)

    async def _fail(self, error: CaliboxClientError) -> None:
        """Waits before the next connection."""
        self._failures += 1
        await self._pause(error, self._failures)

    async def _until(self, true: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(true)

    async def _change(self, change: Callable[[], _T]) -> _T:
        async with self._changed:
            self._changed.notify_all()
            return change()


async def open_socket(url: str, headers: Mapping[str, str]) -> ClientConnection:
    """Opens the stream of a server.

    Raises:
        ApiError: it refused.
        ServerUnreachableError: no connection.
        BadReplyError: what answered speaks no WebSocket.
    """
    others = {name: value for name, value in headers.items() if name.lower() != "user-agent"}
    try:
        return await connect(
            "ws" + url.removeprefix("http") + STREAM_PATH,
            additional_headers=others,
            user_agent_header=headers.get("User-Agent"),
            compression=None,  # images are compressed already
            max_size=_LONGEST_ANSWER,
            open_timeout=None,
        )
    except InvalidStatus as error:
        answer = error.response
        if not 400 <= answer.status_code <= 599:
            raise BadReplyError(f"{url}{STREAM_PATH} answered with HTTP {answer.status_code}") from error
        raise refusal(Reply(answer.status_code, _lower(answer.headers), bytes(answer.body or b""))) from error
    except (InvalidHandshake, InvalidURI) as error:
        raise BadReplyError(f"{url}{STREAM_PATH} opens no stream: {error}") from error
    except (OSError, EOFError, TimeoutError) as error:
        raise ServerUnreachableError(f"{url} cannot be reached: {error or type(error).__name__}") from error


def closed_error(error: ConnectionClosed, url: str) -> CaliboxClientError:
    """What the end of a connection means to the caller."""
    if error.rcvd is not None and error.rcvd.code == _TOO_LONG:
        return ApiError("a frame has more bytes than the server takes", status=413, code="too_many_bytes")
    return ServerUnreachableError(f"{url} closed the stream: {error}")


def _closed_or(error: Exception, url: str) -> Exception:
    return closed_error(error, url) if isinstance(error, ConnectionClosed) else error


def _first(errors: ExceptionGroup[Any]) -> Exception:
    """The first error of a group, which other groups may lie in."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _lower(headers: Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.raw_items()}
