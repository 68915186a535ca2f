"""Every error that a request can end with: one tree, from whose classes the status codes and the documents are made."""

from typing import ClassVar

from calibox_core.errors import CaliboxError

PROBLEM_TYPE = "application/problem+json"  # RFC 9457, the content type of `problem`


class ServiceError(CaliboxError):
    """A request that is not answered with detections; its text becomes the `detail` of the problem document."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "The server failed"

    @property
    def headers(self) -> dict[str, str]:
        """Extra headers of the answer."""
        return {}


def stopped_early() -> "StoppingError":
    """What a request is told that was taken and cannot be finished."""
    return StoppingError("the server stopped before the answer was ready; send it again")


class MalformedRequestError(ServiceError):
    """The body is not what its content type announces."""

    status, code, title = 400, "malformed", "The request cannot be understood"


class JsonTooComplexError(ServiceError):
    """A JSON document with more values, or deeper, than any request needs."""

    status, code, title = 400, "json_too_complex", "The JSON document is too complex"


class UnauthorizedError(ServiceError):
    """No key, or one that the server does not know."""

    status, code, title = 401, "unauthorized", "This needs a key"

    @property
    def headers(self) -> dict[str, str]:
        """How to send a key (RFC 6750)."""
        return {"WWW-Authenticate": 'Bearer realm="calibox"'}


class AddressNotAllowedError(ServiceError):
    """An image's address that this server does not fetch."""

    status, code, title = 403, "address_not_allowed", "This address is not fetched"


class NotFoundError(ServiceError):
    """No such path."""

    status, code, title = 404, "not_found", "There is nothing at this address"


class UnknownModelError(ServiceError):
    """A model or version that is not served."""

    status, code, title = 404, "unknown_model", "This model is not served"


class MethodNotAllowedError(ServiceError):
    """The path exists, but not with this method."""

    status, code, title = 405, "method_not_allowed", "This address does not take this method"


class SlowRequestError(ServiceError):
    """The request did not arrive at the least rate."""

    status, code, title = 408, "slow_request", "The request came too slowly"


class TooManyBytesError(ServiceError):
    """The body is longer than the server reads."""

    status, code, title = 413, "too_many_bytes", "The body is too long"


class TooManyPixelsError(ServiceError):
    """The image would decode to more pixels than the server allows."""

    status, code, title = 413, "too_many_pixels", "The image has too many pixels"


class AddressTooLongError(ServiceError):
    """Path and query are longer than the server reads."""

    status, code, title = 414, "address_too_long", "The address is too long"


class UnsupportedMediaTypeError(ServiceError):
    """Neither an image of a known format nor a body of a known content type."""

    status, code, title = 415, "unsupported_media_type", "This kind of content is not read"


class UnreadableImageError(ServiceError):
    """The image is damaged inside, or of a kind within its format that is not read."""

    status, code, title = 422, "unreadable_image", "The image cannot be read"


class CutImageError(ServiceError):
    """The image ends too early."""

    status, code, title = 422, "truncated_image", "The image ends too early"


class ParameterError(ServiceError):
    """A parameter's name or value is not accepted."""

    status, code, title = 422, "invalid_parameter", "A parameter is not accepted"


class FetchFailedError(ServiceError):
    """What an image's address leads to is no image that could be fetched."""

    status, code, title = 422, "fetch_failed", "The image could not be fetched"


class LoadError(ServiceError):
    """A bundle cannot be loaded; what was served before is served still."""

    status, code, title = 422, "load_failed", "The model cannot be loaded"


class ComeBackError(CaliboxError):
    """The part of errors that know when it is worth to ask again."""

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Whole seconds after which the request is likely to be taken."""
        return {"Retry-After": str(self.retry_after)}


class OverloadedError(ComeBackError, ServiceError):
    """The queue is full; the request was refused before any work."""

    status, code, title = 429, "overloaded", "The server has enough to do"


class RateLimitedError(ComeBackError, ServiceError):
    """A key or an address asks more often than it may."""

    status, code, title = 429, "rate_limited", "Too many requests of this caller"


class UpgradeRequiredError(ServiceError):
    """A plain request to an address that only takes WebSockets."""

    status, code, title = 426, "upgrade_required", "This address takes WebSockets"

    @property
    def headers(self) -> dict[str, str]:
        """To what (RFC 9110, 15.5.22)."""
        return {"Upgrade": "websocket", "Connection": "Upgrade"}


class HeadersTooLargeError(ServiceError):
    """More headers, or longer ones, than the server reads."""

    status, code, title = 431, "headers_too_large", "The headers are too large"


class StoppingError(ServiceError):
    """The server finishes what it has and takes nothing new."""

    status, code, title = 503, "stopping", "The server is stopping"

    @property
    def headers(self) -> dict[str, str]:
        """A replacement behind the same address usually needs about a second."""
        return {"Retry-After": "1"}


class EngineAwayError(ServiceError):
    """The process that runs the models ended and is started again."""

    status, code, title = 503, "engine_away", "The models are being started again"

    @property
    def headers(self) -> dict[str, str]:
        """Models usually load within seconds."""
        return {"Retry-After": "1"}


class TooManyConnectionsError(ServiceError):
    """As many connections are open as the server keeps."""

    status, code, title = 503, "too_many_connections", "The server has enough connections"

    @property
    def headers(self) -> dict[str, str]:
        """Connections come and go within a second."""
        return {"Retry-After": "1"}


class FetchTimeoutError(ServiceError):
    """The host of an image's address took too long."""

    status, code, title = 504, "fetch_timeout", "The image could not be fetched in time"


class DeadlineError(ServiceError):
    """The request's time ran out."""

    status, code, title = 504, "deadline", "The answer was not ready in time"


PROBLEMS: tuple[type[ServiceError], ...] = (ServiceError, *ServiceError.__subclasses__())
_BY_STATUS = {404: NotFoundError, 405: MethodNotAllowedError, 413: TooManyBytesError}


def from_status(status: int, detail: str) -> ServiceError:
    """The error for a status that the web framework raised by itself."""
    return _BY_STATUS.get(status, ServiceError if status >= 500 else MalformedRequestError)(detail)


def problem(error: ServiceError, request_id: str, trace_id: str = "") -> dict[str, object]:
    """The document of RFC 9457 (`PROBLEM_TYPE`) for an error; the trace's id only where there is one."""
    document: dict[str, object] = {
        "type": f"urn:calibox:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": str(error),
        "request_id": request_id,
    }
    return {**document, "trace_id": trace_id} if trace_id else document
