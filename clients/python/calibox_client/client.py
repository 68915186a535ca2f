"""The blocking client."""

import time
from collections.abc import Callable, Mapping
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
from calibox_client.retries import Deadline, RetryObserver, RetryPolicy, retrying

_T = TypeVar("_T")


class Client:
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
        on_retry: RetryObserver | None = None,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """A client of the server at ``url``.

        Args:
            url: address of the server, for example ``http://127.0.0.1:8000``; a path prefix is kept.
            timeout: seconds for a whole call, repeats and pauses included. It is checked before every network
                operation and every piece of the answer, so a call may end late by one such operation.
            retries: how broken connections, 429 and 503 are repeated; nothing else ever is.
            headers: sent with every request, for example ``{"Authorization": "Bearer ..."}``.
            on_retry: called with the error and the seconds of the pause before each repeat.
            transport: an httpx2 transport in place of the network.
            sleep: what waits.

        Raises:
            ValueError: an address that is none, or a timeout that is not positive.
        """
        self.url = check_base_url(url)
        self.timeout = check_timeout(timeout)
        self._retries = retries or RetryPolicy()
        self._on_retry = on_retry
        self._sleep = sleep
        self._http = httpx2.Client(base_url=self.url, headers=default_headers(headers), transport=transport)

    @overload
    def detect(self, image: ImageInput, **parameters: Unpack[DetectParameters]) -> Detections: ...
    @overload
    def detect(self, image: ImageBatch[Any], **parameters: Unpack[DetectParameters]) -> list[Detections]: ...

    def detect(
        self, image: ImageInput | ImageBatch[Any], **parameters: Unpack[DetectParameters]
    ) -> Detections | list[Detections]:
        """Finds objects in one image, or in a list of images sent as one request.

        Args:
            image: a path, encoded bytes, an RGB array uint8 ``[H, W, 3]``, a Pillow image, or a list of such.
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
        encoded, batch = encode_images(image)
        request = detect_request(encoded, batch=batch, parameters=parameters)
        found = self._call(request, partial(read_detections, images=len(encoded)))
        return found if batch else found[0]

    def models(self) -> list[ModelInfo]:
        """The models that the server found, those it could not load included.

        Raises:
            CaliboxClientError: as `detect`.
        """
        return self._call(models_request(), read_models)

    def manifest(self, model: str, version: str | None = None) -> dict[str, Any]:
        """The manifest of a model: classes, settings, provenance, measured AP, hashes.

        Args:
            model: its name.
            version: its version; the default one when None.

        Raises:
            ValueError: the model has no such version ready.
            CaliboxClientError: as `detect`.
        """
        return self._call(model_request(model), partial(read_manifest, version=version))

    def ready(self) -> bool:
        """Whether the server answers and is ready for requests; never repeated."""
        try:
            return self._exchange(ready_request(), Deadline(self.timeout)).status == httpx2.codes.OK
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

    def _call(self, request: HttpRequest, read: Callable[[Reply], _T]) -> _T:
        deadline = Deadline(self.timeout)
        loop = retrying(self._retries, self.timeout, self._sleep, self._on_retry)
        return loop(lambda: read(self._exchange(request, deadline)))

    def _exchange(self, request: HttpRequest, deadline: Deadline) -> Reply:
        content = bytearray()
        try:
            with self._http.stream(**stream_arguments(request, deadline)) as reply:
                for chunk in reply.iter_bytes():
                    content += chunk
                    if deadline.remaining() <= 0:
                        raise deadline_error(deadline)
                return Reply(reply.status_code, reply.headers, bytes(content))
        except httpx2.HTTPError as error:
            raise client_error(error, self.url, deadline) from error
