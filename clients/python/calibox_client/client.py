"""The blocking client."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
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
from calibox_client.many import OnError, check_on_error, in_order, or_error, sleep_unless
from calibox_client.models import ModelInfo, model_request, models_request, read_model, read_models, ready_request
from calibox_client.replies import Reply, read_detections
from calibox_client.requests import DetectParameters, HttpRequest, detect_request
from calibox_client.results import Detections
from calibox_client.retries import Deadline, RetryObserver, RetryPolicy, call
from calibox_client.settings import Settings
from calibox_client.streaming.answers import FrameAnswer
from calibox_client.streaming.blocking import iterate
from calibox_client.streaming.open import DEFAULT_AHEAD, stream_request, stream_with

_T = TypeVar("_T")


class _Link(Settings):
    """A client's connections."""

    _http: httpx2.Client
    _sleep: Callable[[float], None]

    def ready(self) -> bool:
        """Whether the server answers and is ready for requests; never repeated."""
        try:
            return self._exchange(ready_request(), self._deadline(None)).status == httpx2.codes.OK
        except (ServerUnreachableError, DeadlineError):
            return False

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _sleep_async(self, seconds: float) -> None:
        await asyncio.to_thread(self._sleep, seconds)

    def _detect(
        self,
        images: ImageBatch[Any],
        batch: bool,
        timeout: float | None,
        parameters: Mapping[str, Any],
        sleep: Callable[[float], None],
    ) -> list[Detections]:
        deadline = self._deadline(timeout)
        encoded = encode_images(images, self._encoding)
        request = detect_request(encoded, batch=batch, parameters=parameters)
        return self._call(request, partial(read_detections, images=len(encoded)), deadline, sleep)

    def _call(
        self,
        request: HttpRequest,
        read: Callable[[Reply], _T],
        deadline: Deadline,
        sleep: Callable[[float], None] | None = None,
    ) -> _T:
        return call(self._patience, deadline, sleep or self._sleep, lambda: read(self._exchange(request, deadline)))

    def _exchange(self, request: HttpRequest, deadline: Deadline) -> Reply:
        content = bytearray()
        try:
            with self._http.stream(**stream_arguments(self.url, request, deadline)) as reply:
                for chunk in reply.iter_bytes():
                    content += chunk
                    if deadline.remaining() <= 0:
                        raise deadline_error(deadline)
                return Reply(reply.status_code, reply.headers, bytes(content))
        except httpx2.HTTPError as error:
            raise client_error(error, self.url, deadline) from error


class Client(_Link):
    """Calls one server; connections are kept and reused, so make one and close it, or use it in ``with``.

    Safe to share between threads.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        encoding: Encoding = "png",
        on_retry: RetryObserver | None = None,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """A client of the server at ``url``.

        Args:
            url: address of the server, for example ``http://127.0.0.1:8000``; a path prefix is kept.
            timeout: seconds for a whole call, repeats and pauses included; the server is told what is left of them. It
                is checked before every network operation and every piece of the answer, so a call may end late by one
                such operation.
            retries: how broken connections, 429 and 503 are repeated; nothing else ever is.
            headers: sent with every request, for example ``{"Authorization": "Bearer ..."}``.
            encoding: how arrays and Pillow images travel: ``png`` and ``bmp`` without loss, the first smaller and the
                second at no cost of time, or ``jpeg``, smaller still and not quite the same pixels.
            on_retry: called with the error and the seconds of the pause before each repeat.
            transport: an httpx2 transport in place of the network.
            sleep: what waits.

        Raises:
            ValueError: an address that is none, a timeout that is not positive, or an unknown encoding.
        """
        super().__init__(url, timeout, retries, headers, encoding, on_retry)
        self._sleep = sleep
        self._http = httpx2.Client(base_url=self.url, headers=self._headers, limits=LIMITS, transport=transport)

    @overload
    def detect(
        self, image: ImageInput, *, timeout: float | None = None, **parameters: Unpack[DetectParameters]
    ) -> Detections: ...
    @overload
    def detect(
        self, image: ImageBatch[Any], *, timeout: float | None = None, **parameters: Unpack[DetectParameters]
    ) -> list[Detections]: ...

    def detect(
        self,
        image: ImageInput | ImageBatch[Any],
        *,
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> Detections | list[Detections]:
        """Finds objects in one image, or in a list of images sent as one request.

        Args:
            image: a path, encoded bytes, an RGB array uint8 ``[H, W, 3]``, a Pillow image, or a list of such.
            timeout: seconds for this call, in place of the client's.
            **parameters: see `DetectParameters`; what is left out is as the model's manifest says.

        Returns: the detections, or for a list a list of them in the same order. Boxes are in pixels of the upright
            image, scores in 0..1.

        Raises:
            ImageInputError: an image that cannot be sent.
            ApiError: the server refused, for example an unreadable image (422) or an unknown model (404).
            OverloadedError: 429 or 503, still after the last repeat.
            ServerUnreachableError: no connection, still after the last repeat.
            DeadlineError: the call's time is over.
            BadReplyError: what answered is no calibox server.
        """
        images, batch = as_batch(image)
        found = self._detect(images, batch, timeout, parameters, self._sleep)
        return found if batch else found[0]

    @overload
    def detect_many(
        self,
        images: Iterable[ImageInput],
        *,
        concurrency: int = 8,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> Generator[Detections]: ...
    @overload
    def detect_many(
        self,
        images: Iterable[ImageInput],
        *,
        concurrency: int = 8,
        on_error: OnError,
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> Generator[Detections | CaliboxClientError]: ...

    def detect_many(
        self,
        images: Iterable[ImageInput],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> Generator[Detections | CaliboxClientError]:
        """Finds objects in each image, several requests at once; gives the results one by one, in the images' order.

        However many images there are, only twice ``concurrency`` of them and of the results are in memory.

        Args:
            images: any iterable of what `detect` takes for one image; read as far ahead as there is room.
            concurrency: requests in flight at most, 1..100.
            on_error: ``raise`` ends with the first failure, when its turn comes; ``return`` gives the error in place of
                the result and goes on.
            timeout: seconds for each image, in place of the client's.
            **parameters: as `detect`.

        Raises:
            ValueError: an argument out of its range.
            CaliboxClientError: as `detect`, while results are taken.
        """
        check_concurrency(concurrency)
        stopped = threading.Event()
        sleep = partial(sleep_unless, stopped, self._sleep)

        def call(image: ImageInput) -> Detections:
            return self._detect([image], False, timeout, parameters, sleep)[0]

        return in_order(or_error(call, check_on_error(on_error)), images, concurrency=concurrency, stop=stopped.set)

    def stream(
        self,
        frames: Iterable[ImageInput],
        *,
        live: bool = False,
        ahead: int = DEFAULT_AHEAD,
        encoding: Encoding = "jpeg",
        timeout: float | None = None,
        **parameters: Unpack[DetectParameters],
    ) -> Generator[FrameAnswer]:
        """Finds objects in the frames of a video over one connection; gives the answers in the frames' order.

        A frame that the server refuses, such as a damaged image, is an answer with an error, and the stream goes on. A
        connection that breaks is opened again, as `RetryPolicy` says; the frames on their way are sent again.

        Args:
            frames: any iterable of what `detect` takes for one image; its ``next`` is called in another thread.
            live: for cameras. Frames are fetched as they come, and while the server is busy only the newest one is
                kept; `FrameAnswer.dropped` counts the others. Otherwise every frame is answered, and the next one is
                fetched when there is room.
            ahead: frames on their way, or answered and not taken, at most; at least 2. The server drops what exceeds
                twice its ``--stream-frames`` (where ``live`` is off, such frames are sent again).
            encoding: how arrays and Pillow images travel.
            timeout: seconds to connect, and again for each answer, in place of the client's.
            **parameters: as `detect`, for all frames.

        Raises:
            MissingPackageError: the package websockets is not installed.
            ValueError: an argument out of its range.
            CaliboxClientError: as `detect`, while answers are taken.
        """
        seconds = self.timeout if timeout is None else timeout
        request = stream_request(self.url, self._headers, frames, encoding, seconds, parameters)
        return iterate(stream_with(request, self._patience, self._sleep_async, live=live, ahead=ahead))

    def models(self) -> list[ModelInfo]:
        """The models that the server found, those it could not load included.

        Raises:
            CaliboxClientError: as `detect`.
        """
        return self._call(models_request(), read_models, self._deadline(None))

    def model(self, name: str, version: str | None = None) -> ModelInfo:
        """One version of a model: classes by id, and its manifest.

        Args:
            name: of the model.
            version: the default one when None.

        Raises:
            ValueError: the model has no such version ready.
            CaliboxClientError: as `detect`.
        """
        return self._call(model_request(name), partial(read_model, version=version), self._deadline(None))

    def manifest(self, model: str, version: str | None = None) -> dict[str, Any]:
        """The manifest of a model: settings, provenance, measured AP, hashes; errors are those of `model`."""
        return dict(self.model(model, version).manifest)
