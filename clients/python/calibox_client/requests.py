"""What is sent: parameters, and requests as plain values that either client can send."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict
from urllib.parse import urlsplit

from calibox_client.errors import ImageInputError
from calibox_client.images import EncodedImage

DETECT_PATH = "/v1/detect"
MODELS_PATH = "/v1/models"
READY_PATH = "/readyz"
STREAM_PATH = "/v1/stream"
FILE_FIELD = "images"
LONGEST_TIMEOUT_MS = 600_000  # that a server accepts

_JSON_OR_PROBLEM = {"Accept": "application/json, application/problem+json"}


class DetectParameters(TypedDict, total=False):
    """Parameters of a detection; what is left out, or None, is as the model's manifest says."""

    fusion: str | None  # classification, product, geometric, power, gaussian, localization
    alpha: float | None  # of geometric (0..1) and power (>= 0)
    sigma: float | None  # of gaussian, > 0
    operating_point: str | None  # of the model: sets fusion and thresholds where they are not given
    score_threshold: float | None  # 0..1: reported scores of at least this are returned
    iou_threshold: float | None  # 0..1: overlap above this suppresses
    max_detections: int | None  # per image, best first
    classes: Sequence[str | int] | None  # names or category ids: only these are returned
    refine: (
        bool | int | Sequence[bool | int] | None
    )  # move boxes to a better fit, or in so many steps; or one per image
    tile: bool | int | None  # look at square tiles of so many pixels too, or of the model's own size (True)
    overlap: float | None  # 0..0.9: least overlap of the tiles, as a share of one
    priority: str | None  # high, normal
    model: str | None
    version: str | int | None
    timeout_ms: float | None  # the server gives up a request that waited this long


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request without its server's address."""

    method: str
    path: str
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=lambda: dict(_JSON_OR_PROBLEM))
    content: bytes | None = None
    form: Mapping[str, list[str]] = field(default_factory=dict)
    files: Sequence[tuple[str, tuple[str, bytes, str]]] = ()


def detect_request(images: Sequence[EncodedImage], *, batch: bool, parameters: Mapping[str, Any]) -> HttpRequest:
    """One image as a raw body with its parameters in the query; a batch as multipart with form fields.

    Raises:
        ImageInputError: the batch is empty.
        TypeError: a parameter that does not exist.
    """
    values = parameter_values(parameters)
    if batch:
        if not images:
            raise ImageInputError("the list of images is empty; give at least one")
        files = [(FILE_FIELD, (image.name, image.data, image.media_type)) for image in images]
        return HttpRequest("POST", DETECT_PATH, form=values, files=files)
    (image,) = images
    headers = {**_JSON_OR_PROBLEM, "Content-Type": image.media_type}
    return HttpRequest("POST", DETECT_PATH, query=values, headers=headers, content=image.data)


def ending_in(request: HttpRequest, seconds: float) -> HttpRequest:
    """The same request; if it is a detection, one that the server gives up when its caller no longer waits.

    Args:
        request: a ``timeout_ms`` that its caller asked for stays where it is shorter.
        seconds: what is left of the call's time.
    """
    values = request.form if request.files else request.query
    left = min(max(seconds * 1000, 1), LONGEST_TIMEOUT_MS)
    if request.path != DETECT_PATH or float(values.get("timeout_ms", ["inf"])[0]) <= left:
        return request
    timed = {**values, "timeout_ms": [f"{left:.0f}"]}
    return replace(request, form=timed) if request.files else replace(request, query=timed)


def parameter_values(parameters: Mapping[str, Any]) -> dict[str, list[str]]:
    """Parameters as text; None is left out.

    Raises:
        TypeError: a parameter that does not exist, or classes given as one string.
    """
    unknown = sorted(set(parameters) - set(DetectParameters.__annotations__))
    if unknown:
        known = ", ".join(DetectParameters.__annotations__)
        raise TypeError(f"detect() has no parameter {', '.join(unknown)}; it has {known}")
    return {name: _texts(name, value) for name, value in parameters.items() if value is not None}


def check_base_url(url: str) -> str:
    """The server's address without a trailing slash.

    Raises:
        ValueError: it is no http or https address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url!r} is no server address; it must look like http://127.0.0.1:8000")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} must be the server's address only, without ? or #")
    return url.rstrip("/")


def _texts(name: str, value: object) -> list[str]:
    if name in ("refine", "tile"):
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return [str(entry).lower() for entry in values]  # true and false, as JSON writes them
    if name != "classes":
        return [str(value)]
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"classes must be a list of names or category ids, got {value!r}")
    return [str(entry) for entry in value]
