"""What comes back: replies as plain values, read into results or into the error that they mean."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NoReturn

from calibox_client.errors import ApiError, BadReplyError, OverloadedError, ServerDeadlineError
from calibox_client.results import Detection, Detections
from calibox_client.retries import parse_retry_after

_REQUEST_ID_HEADER = "x-request-id"
_EXCERPT_LENGTH = 160  # of a foreign answer: enough to recognise the proxy that wrote it
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]  # case does not matter
    content: bytes


def read_json(reply: Reply) -> Any:
    """The JSON document of a successful reply.

    Raises:
        OverloadedError: 429 or 503.
        ServerDeadlineError: 504.
        ApiError: another refusal.
        BadReplyError: a redirect, or no JSON.
    """
    if not 200 <= reply.status < 300:
        _raise_refusal(reply)
    try:
        return parse_json(reply.content)
    except ValueError as error:
        raise BadReplyError(
            f"the answer is not JSON, so the address may not be that of a calibox server ({_excerpt(reply)})"
        ) from error


def parse_json(data: str | bytes) -> Any:
    """The value of a JSON document, which holds no NaN and no Infinity.

    Raises:
        ValueError: it is none.
    """
    return json.loads(data, parse_constant=_refuse_constant)


def read_detections(reply: Reply, *, images: int) -> list[Detections]:
    """The results of a detection, one per image sent.

    Raises:
        BadReplyError: the document lacks what a detection must hold, or holds another number of results.
        ApiError: as `read_json`.
    """
    return results_of(read_json(reply), images=images)


def results_of(document: Any, *, images: int) -> list[Detections]:
    """The results that the document of a detection holds, one per image sent.

    Raises:
        BadReplyError: it lacks what a detection must hold, or holds another number of results.
    """
    try:
        results = [_detections(entry, document) for entry in document["results"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadReplyError(
            f"the answer is not that of POST /v1/detect ({type(error).__name__}: {error}); "
            "is the server of another version than this client?"
        ) from error
    if len(results) != images:
        raise BadReplyError(f"{images} images were sent and {len(results)} results came back")
    return results


def refusal(reply: Reply) -> ApiError:
    """The error that a refusal means, whether a calibox server wrote it or a proxy."""
    problem = _problem(reply)
    detail = str(problem.get("detail") or problem.get("title") or f"no calibox answer: {_excerpt(reply)}")
    request_id = problem.get("request_id") or reply.headers.get(_REQUEST_ID_HEADER)
    known: dict[str, Any] = {
        "status": reply.status,
        "code": str(problem.get("code", "unknown")),
        "request_id": str(request_id) if request_id else None,
        "problem": problem,
    }
    if reply.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        retry_after = parse_retry_after(reply.headers.get("retry-after"), datetime.now(UTC))
        return OverloadedError(detail, **known, retry_after=retry_after)
    if reply.status == HTTPStatus.GATEWAY_TIMEOUT:
        return ServerDeadlineError(detail, **known)
    return ApiError(detail, **known)


def _detections(entry: Mapping[str, Any], document: Mapping[str, Any]) -> Detections:
    return Detections(
        detections=tuple(_detection(found) for found in entry["detections"]),
        width=int(entry["width"]),
        height=int(entry["height"]),
        model=str(document["model"]),
        version=str(document["version"]),
        timing={str(stage): float(spent) for stage, spent in document.get("timing", {}).items()},
    )


def _detection(found: Mapping[str, Any]) -> Detection:
    x1, y1, x2, y2 = map(float, found["box"])
    return Detection(
        box=(x1, y1, x2, y2),
        label=str(found["label"]),
        label_id=int(found["label_id"]),
        score=float(found["score"]),
        classification_score=float(found["classification_score"]),
        localization_score=float(found["localization_score"]),
    )


def _raise_refusal(reply: Reply) -> NoReturn:
    if 300 <= reply.status < 400:
        target = reply.headers.get("location", "nowhere")
        raise BadReplyError(f"the server redirects to {target} (HTTP {reply.status}); give that address instead")
    raise refusal(reply)


def _problem(reply: Reply) -> dict[str, Any]:
    """The problem document; empty when the answer is another's, such as the HTML page of a proxy."""
    try:
        document = json.loads(reply.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _excerpt(reply: Reply) -> str:
    kind = reply.headers.get("content-type", "no content type").partition(";")[0]
    text = " ".join(_MARKUP.sub(" ", reply.content.decode("utf-8", "replace")).split())
    shown = f"{text[:_EXCERPT_LENGTH]}..." if len(text) > _EXCERPT_LENGTH else text
    return f"HTTP {reply.status}, {kind}: {shown or 'empty'}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
