"""`/v1/stream`: the frames of a video over a WebSocket, answered in their order.

A text message is a JSON object with parameters, named as those of `POST /v1/detect`, for the frames after it; a binary
message is one encoded frame. A client may send as fast as it likes: the newest frames are the ones that are answered.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from calibox_server.endings import Counted, unless_cancelled
from calibox_server.engine_runner import clock
from calibox_server.errors import MalformedRequestError, ServiceError, UpgradeRequiredError, problem
from calibox_server.json_limits import parse_json
from calibox_server.openapi import problem_responses
from calibox_server.options import items
from calibox_server.outermost import as_service_error, note_error
from calibox_server.parameters import Given, read_parameters, read_target
from calibox_server.records import Record, record_of
from calibox_server.requests import DetectRequest, ImagePart
from calibox_server.service import Service
from calibox_server.tracer import Tracer, traced

PATH = "/v1/stream"
POLICY_VIOLATION = 1008  # close code of RFC 6455 for what a server does not accept
DROPPED_CODE = "dropped"  # what the metrics call a frame that gave way
# Answers that may wait to be sent, those of dropped frames above all; then the client is read from no more.
MAX_UNSENT = 256


@dataclass(slots=True, eq=False)
class Frame:
    """One image of the stream."""

    number: int  # from 0 on
    data: bytes
    given: Given
    reply: asyncio.Future[bytes]
    came: float = field(default_factory=clock)

    def answer(self, data: bytes) -> None:
        """Sets the reply, unless nobody waits for it any more."""
        if not self.reply.done():
            self.reply.set_result(data)


@dataclass(slots=True)
class Line:
    """The frames that wait, a few at most. Pure."""

    places: int
    frames: deque[Frame] = field(default_factory=deque)

    def put(self, frame: Frame) -> Frame | None:
        """Appends a frame; where none has room, the oldest leaves and is returned."""
        self.frames.append(frame)
        return self.frames.popleft() if len(self.frames) > self.places else None


class Stream:
    """One connection.

    Args:
        service: answers frames as it answers requests.
        socket: accepted already.
        tracer: makes a span of each frame; none where it is None.
    """

    def __init__(self, service: Service, socket: WebSocket, tracer: Tracer | None = None) -> None:
        self._service = service
        self._tracer = tracer
        self._socket = socket
        self._record: Record = record_of(socket.scope)
        self._given: Given = {}
        self._count = self._running = 0
        self._line = Line(service.settings.stream_frames)
        self._replies: asyncio.Queue[asyncio.Future[bytes] | None] = asyncio.Queue(MAX_UNSENT)
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Serves until the client leaves, the server stops, or parameters are not accepted."""
        refusal = ""
        try:
            async with self._tasks:
                self._tasks.create_task(self._send_all())
                try:
                    await self._receive_all()
                except ServiceError as error:
                    refusal = error.code
                    await self._replies.put(_done(self._refusal(error, self._record)))
                    await self._replies.put(None)  # nothing comes after it
        except* WebSocketDisconnect:
            refusal = ""
        if refusal:
            await self._socket.close(POLICY_VIOLATION, refusal)

    async def _receive_all(self) -> None:
        """Takes messages until the client leaves.

        Raises:
            WebSocketDisconnect: it left; or the server stops.
            ServiceError: parameters are not accepted.
        """
        while (received := await self._socket.receive())["type"] == "websocket.receive":
            if (text := received.get("text")) is not None:
                self._given = self._read_parameters(text)
            else:
                await self._take(bytes(received["bytes"]))
        raise WebSocketDisconnect(received["code"])

    def _read_parameters(self, text: str) -> Given:
        """Parameters of a message, checked against the model that they name.

        Raises:
            ServiceError: not an object; unknown model or parameter, or a value that is not accepted.
        """
        document = parse_json(text.encode())
        if not isinstance(document, dict):
            raise MalformedRequestError('the parameters must be a JSON object, such as {} or {"score_threshold": 0.5}')
        given: Given = {name: value if isinstance(value, list) else [value] for name, value in document.items()}
        manifest = self._service.models.find(*read_target(given)).manifest
        read_parameters(given, manifest, default_timeout_ms=self._service.settings.timeout_ms)
        return given

    async def _take(self, data: bytes) -> None:
        frame = Frame(self._count, data, self._given, asyncio.get_running_loop().create_future())
        self._count += 1
        await self._replies.put(frame.reply)
        if self._running < self._line.places:
            self._start(frame)
        elif (dropped := self._line.put(frame)) is not None:
            self._service.metrics.request_ended(DROPPED_CODE)
            dropped.answer(orjson.dumps({"frame": dropped.number, "dropped": True}))

    def _start(self, frame: Frame) -> None:
        self._running += 1
        self._tasks.create_task(self._work(frame))

    async def _work(self, frame: Frame) -> None:
        """Answers a frame, and goes on with the next that waits."""
        try:
            frame.answer(await self._traced(frame))
        except ClientDisconnect:
            return
        except Exception as error:
            frame.answer(self._refusal(as_service_error(error), self._record, frame=frame.number))
        self._running -= 1
        task = asyncio.current_task()
        is_over = task is not None and task.cancelling() > 0  # the server stops, and nothing new begins
        if self._line.frames and not is_over:
            self._start(self._line.frames.popleft())

    async def _traced(self, frame: Frame) -> bytes:
        """`_detect` as a span of its own, below that of whoever opened the stream."""
        record, headers = replace(self._record, started=frame.came), self._socket.scope["headers"]
        known: dict[str, str | int] = {"calibox.frame": frame.number, "url.path": PATH}
        with traced(self._tracer, f"frame {PATH}", headers, record, known):
            try:
                return await self._detect(frame, record)
            except ServiceError as error:
                record.status, record.code = error.status, error.code
                return self._refusal(error, record, frame=frame.number)

    async def _detect(self, frame: Frame, record: Record) -> bytes:
        with Counted(self._service.metrics):
            record.charge(1)
            asked = DetectRequest([ImagePart(frame.data, f"frame {frame.number}")], frame.given)
            work = self._service.answer(asked, frame.came, record.charge_more)
            answer = await unless_cancelled(work, by_server=lambda: self._service.stopping)
        record.note(answer)
        record.code = "ok"
        return b'{"frame":%d,' % frame.number + answer.body.removeprefix(b"{")

    def _refusal(self, error: ServiceError, record: Record, **named: Any) -> bytes:
        note_error(error, record)
        return orjson.dumps({**named, "error": problem(error, record.request_id, record.trace_id)})

    async def _send_all(self) -> None:
        while (reply := await self._replies.get()) is not None:
            text = (await reply).decode()
            await self._socket.send_text(text)


def _done(data: bytes) -> asyncio.Future[bytes]:
    reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    reply.set_result(data)
    return reply


def add_stream(app: FastAPI, service: Service, tracer: Tracer | None = None) -> None:
    """Adds the address."""

    async def stream(socket: WebSocket) -> None:
        if not is_welcome(socket, items(service.settings.cors_origins)):
            await socket.close(POLICY_VIOLATION)  # before it is open: 403
            return
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            await Stream(service, socket, tracer).run()

    async def plain() -> Response:
        raise UpgradeRequiredError("frames are sent over a WebSocket; open one at this address, as wss:// or ws://")

    app.add_api_websocket_route(PATH, stream)
    app.add_api_route(
        PATH,
        plain,
        response_class=Response,
        status_code=UpgradeRequiredError.status,
        responses=problem_responses([UpgradeRequiredError]),
        summary="A WebSocket for the frames of a video; a plain request is refused",
    )


def is_welcome(socket: WebSocket, origins: tuple[str, ...]) -> bool:
    """Whether the page that opens the stream may: browsers open a WebSocket to any server without asking it first."""
    origin = socket.headers.get("origin")
    if origin is None or "*" in origins or origin in origins:
        return True
    return origin.partition("://")[2] == socket.headers.get("host")
