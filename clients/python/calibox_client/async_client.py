"""The client for asyncio; all but the network is shared with the blocking one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import httpx2

from calibox_client.errors import DeadlineError, ServerUnreachableError
from calibox_client.exchange import (
    DEFAULT_TIMEOUT,
    DEFAULT_URL,
    check_timeout,
    client_error,
    deadline_error,
    default_headers,
    stream_arguments,
)
from calibox_client.images import ImageBatch, ImageInput, encode_images
from calibox_client.models import ModelInfo, model_request, models_request, read_manifest, read_models, ready_request
from calibox_client.replies import Reply, read_detections
from calibox_client.requests import DetectParameters, HttpRequest, check_base_url, detect_request
from calibox_client.results import Detections
from calibox_client.retries import Deadline, RetryObserver, RetryPolicy, async_retrying

_T = TypeVar("_T")


class AsyncClient:
    """Calls one server from asyncio; make one, share it between tasks, and close it, or use it in ``async with``."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        on_retry: RetryObserver | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """A client of the server at ``url``; arguments and errors are those of `Client`."""
        self.url = check_base_url(url)
        self.timeout = check_timeout(timeout)
        self._retries = retries or RetryPolicy()
        self._on_retry = on_retry
        self._sleep = sleep
        self._http = httpx2.AsyncClient(base_url=self.url, headers=default_headers(headers), transport=transport)

    @overload
    async def detect(self, image: ImageInput, **parameters: Unpack[DetectParameters]) -> Detections: ...
    @overload
    async def detect(self, image: ImageBatch[Any], **parameters: Unpack[DetectParameters]) -> list[Detections]: ...

    async def detect(
        self, image: ImageInput | ImageBatch[Any], **parameters: Unpack[DetectParameters]
    ) -> Detections | list[Detections]:
        """Finds objects in one image, or in a list of images sent as one request; see `Client.detect`."""
        encoded, batch = await asyncio.to_thread(encode_images, image)  # files and PNG would hold up the event loop
        request = detect_request(encoded, batch=batch, parameters=parameters)
        found = await self._call(request, partial(read_detections, images=len(encoded)))
        return found if batch else found[0]

    async def models(self) -> list[ModelInfo]:
        """The models that the server found; see `Client.models`."""
        return await self._call(models_request(), read_models)

    async def manifest(self, model: str, version: str | None = None) -> dict[str, Any]:
        """The manifest of a model; see `Client.manifest`."""
        return await self._call(model_request(model), partial(read_manifest, version=version))

    async def ready(self) -> bool:
        """Whether the server answers and is ready for requests; never repeated."""
        try:
            return (await self._exchange(ready_request(), Deadline(self.timeout))).status == httpx2.codes.OK
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

    async def _call(self, request: HttpRequest, read: Callable[[Reply], _T]) -> _T:
        deadline = Deadline(self.timeout)

        async def attempt() -> _T:
            return read(await self._exchange(request, deadline))

        return await async_retrying(self._retries, self.timeout, self._sleep, self._on_retry)(attempt)

    async def _exchange(self, request: HttpRequest, deadline: Deadline) -> Reply:
        arguments = stream_arguments(request, deadline)
        try:
            async with asyncio.timeout(deadline.remaining()), self._http.stream(**arguments) as reply:
                return Reply(reply.status_code, reply.headers, await reply.aread())
        except httpx2.HTTPError as error:
            raise client_error(error, self.url, deadline) from error
        except TimeoutError as error:
            raise deadline_error(deadline) from error
