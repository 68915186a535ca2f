"""Errors of the client: one tree, whose texts are sentences for the person who can mend the cause.

CaliboxClientError
  ImageInputError          what was given is no image that can be sent (also a ValueError)
  MissingPackageError      an optional package is not installed (also an ImportError)
  ServerUnreachableError   no connection, or it broke (also a ConnectionError); repeated
  DeadlineError            the time for the whole call is over (also a TimeoutError)
  BadReplyError            something answered, but not a calibox server
  ApiError                 the server refused, with status, code, detail and request_id
    OverloadedError        429 or 503, with retry_after; repeated
    ServerDeadlineError    504, also a DeadlineError
"""

from collections.abc import Mapping
from typing import Any


class CaliboxClientError(Exception):
    """Base of every error that this package raises on purpose."""


class ImageInputError(CaliboxClientError, ValueError):
    """What was given is no image that can be sent; the text says what would be."""


class MissingPackageError(CaliboxClientError, ImportError):
    """A conversion needs a package that is not installed; the text says how to install it."""


class ServerUnreachableError(CaliboxClientError, ConnectionError):
    """No connection to the server, or it broke before the answer was complete."""


class DeadlineError(CaliboxClientError, TimeoutError):
    """The time for the whole call, pauses and repeats included, is over."""


class BadReplyError(CaliboxClientError):
    """Something answered, but its answer is not one of a calibox server; perhaps a proxy, perhaps a wrong address."""


class ApiError(CaliboxClientError):
    """The server refused the request.

    Attributes:
        status: HTTP status.
        code: stable name of the problem, for example ``unreadable_image``; ``unknown`` when a proxy answered.
        detail: the server's sentence.
        request_id: what to look for in the server's log; None when the answer carried none.
        problem: the whole problem document (RFC 9457); empty when a proxy answered.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str = "unknown",
        request_id: str | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{detail} (HTTP {status}, {code}{f', request {request_id}' if request_id else ''})")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.problem = dict(problem or {})


class OverloadedError(ApiError):
    """429 or 503: the server cannot take the request now.

    Attributes:
        retry_after: seconds that the server asks to wait; None when it did not say.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str = "unknown",
        request_id: str | None = None,
        problem: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail, status=status, code=code, request_id=request_id, problem=problem)
        self.retry_after = retry_after


class ServerDeadlineError(ApiError, DeadlineError):
    """504: the request's time was over before the server had an answer."""
