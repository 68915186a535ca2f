"""The client for asyncio; all but the network is shared with the blocking one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import httpx2

from calibox_client.errors import CaliboxClientError, DeadlineError, ServerUnreachableError
from calibox_client.exchange import (
    DEFAULT_TIMEOUT,
    DEFAULT_URL,
    LIMITS,
    check_concurrency,
    client_error,
    deadline_error,
    stream_arguments,
)
from calibox_client.images import Encoding, ImageBatch, ImageInput, as_batch, encode_images
from calibox_client.many import OnError, check_on_error, in_order_async, or_error_async
from calibox_client.models import ModelInfo, model_request, models_request, read_model, read_models, ready_request
from calibox_client.replies import Reply, read_detections
from calibox_client.requests import DetectParameters, HttpRequest, detect_request
from calibox_client.results import Detections
from calibox_client.retries import Deadline, RetryObserver, RetryPolicy, call_async
from calibox_client.settings import Settings
from calibox_client.streaming.answers import FrameAnswer
from calibox_client.streaming.open import DEFAULT_AHEAD, stream_request, stream_with

_T = TypeVar("_T")


class _Link(Settings):
    """A client's connections."""

    _http: httpx2.AsyncClient
    _sleep: Callable[[float], Awaitable[None]]

    async def ready(self) -> bool:
        """Whether the server answers and is ready for requests; never repeated."""
        try:
            return (await self._exchange(ready_request(), self._deadline(None))).status == httpx2.codes.OK
        except (ServerUnreachableError, DeadlineError):
            return False

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _detect(
        self, images: ImageBatch[Any], batch: bool, timeout: float | None, parameters: Mapping[str, Any]
    ) -> list[Detections]:
        deadline = self._deadline(timeout)
        # Files and PNG would hold up the event loop; bytes are ready, and a thread costs a tenth of the call.
        ready = all(isinstance(image, bytes) for image in images)
        encode = partial(encode_images, images, self._encoding)
        encoded = encode() if ready else await asyncio.to_thread(encode)
        request = detect_request(encoded, batch=batch, parameters=parameters)
        return await self._call(request, partial(read_detections, images=len(encoded)), deadline)

    async def _call(self, request: HttpRequest, read: Callable[[Reply], _T], deadline: Deadline) -> _T:
        async def attempt() -> _T:
            return read(await self._exchange(request, deadline))

        return await call_async(self._patience, deadline, self._sleep, attempt)

    async def _exchange(self, request: HttpRequest, deadline: Deadline) -> Reply:
        arguments = stream_arguments(self.url, request, deadline)
        try:
            async with asyncio.timeout(deadline.remaining()), self._http.stream(**arguments) as reply:
                return Reply(reply.status_code, reply.headers, await reply.aread())
        except httpx2.HTTPError as error:
            raise client_error(error, self.url, deadline) from error
        except TimeoutError as error:
            raise deadline_error(deadline) from error


class AsyncClient(_Link):
    """Calls one server from asyncio; make one, share it between tasks, and close it, or use it in ``async with``."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        encoding: Encoding = "png",
        on_retry: RetryObserver | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """A client of the server at ``url``; arguments and errors are those of `Client`."""
        super().__init__(url, timeout, retries, headers, encoding, on_retry)
        self._sleep = sleep
        self._http = httpx2.AsyncClient(base_url=self.url, headers=self._headers, limits=LIMITS, transport=transport)

    @overload
    async def detect(
        self, image: ImageInput, *, timeout: float | None = None, **parameters: Unpack[DetectParameters]
    ) -> Detections: ...
    @overload
    async def detect(
        self, image: ImageBatch[Any], *, timeout: float | None = None, **parameters: Unpack[DetectParameters]
    ) -> list[Detections]: ...

    async def detect(
        self,
        image: ImageInput | ImageBatch[Any],
        *,
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> Detections | list[Detections]:
        """Finds objects in one image, or in a list of images sent as one request; see `Client.detect`."""
        images, batch = as_batch(image)
        found = await self._detect(images, batch, timeout, parameters)
        return found if batch else found[0]

    @overload
    def detect_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        concurrency: int = 8,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> AsyncGenerator[Detections]: ...
    @overload
    def detect_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        concurrency: int = 8,
        on_error: OnError,
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> AsyncGenerator[Detections | CaliboxClientError]: ...

    def detect_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> AsyncGenerator[Detections | CaliboxClientError]:
        """Finds objects in each image, several requests at once; see `Client.detect_many`."""
        check_concurrency(concurrency)

        async def call(image: ImageInput) -> Detections:
            return (await self._detect([image], False, timeout, parameters))[0]

        return in_order_async(or_error_async(call, check_on_error(on_error)), images, concurrency=concurrency)

    def stream(
        self,
        frames: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        live: bool = False,
        ahead: int = DEFAULT_AHEAD,
        encoding: Encoding = "jpeg",
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> AsyncGenerator[FrameAnswer]:
        """Finds objects in the frames of a video over one connection; see `Client.stream`."""
        seconds = self.timeout if timeout is None else timeout
        request = stream_request(self.url, self._headers, frames, encoding, seconds, parameters)
        return stream_with(request, self._patience, self._sleep, live=live, ahead=ahead)()

    async def models(self) -> list[ModelInfo]:
        """The models that the server found; see `Client.models`."""
        return await self._call(models_request(), read_models, self._deadline(None))

    async def model(self, name: str, version: str | None = None) -> ModelInfo:
        """One version of a model with its manifest; see `Client.model`."""
        return await self._call(model_request(name), partial(read_model, version=version), self._deadline(None))

    async def manifest(self, model: str, version: str | None = None) -> dict[str, Any]:
        """The manifest of a model; see `Client.manifest`."""
        return dict((await self.model(model, version)).manifest)
