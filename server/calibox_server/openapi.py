"""What `/docs` says about `POST /v1/detect` and about errors: made from the tables that the code itself uses."""

from collections.abc import Iterable
from typing import Any

from calibox_server.errors import PROBLEMS, ServiceError
from calibox_server.parameters import KNOWN

DESCRIPTION = """
Finds objects and says, for each box, what it is and how well it is placed.

Every detection has three scores in 0..1: `classification_score` (is it this class), `localization_score` (how well the
box fits, an expected IoU) and `score` (the two combined, as the request or the model chooses).
Every error is an `application/problem+json` document with a stable `code`.
"""

_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string", "description": "What was wrong, where, and what to do."},
        "request_id": {"type": "string"},
    },
}
_SCORE = {"type": "number", "minimum": 0, "maximum": 1}
_DETECTION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "box": {
            "type": "array",
            "items": {"type": "number"},
            "minItems": 4,
            "maxItems": 4,
            "description": "x1, y1, x2, y2 in pixels of the upright original.",
        },
        "label": {"type": "string", "description": "Name of the class."},
        "label_id": {"type": "integer", "description": "Category id of the class in its data set."},
        "score": _SCORE,
        "classification_score": _SCORE,
        "localization_score": _SCORE,
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "results": {
            "type": "array",
            "description": "One entry per image, in the order they were sent.",
            "items": {
                "type": "object",
                "properties": {
                    "width": {"type": "integer"},
                    "height": {"type": "integer"},
                    "detections": {"type": "array", "items": _DETECTION},
                },
            },
        },
        "timing": {
            "type": "object",
            "description": "Milliseconds per stage, of the slowest image; also in the header Server-Timing.",
            "additionalProperties": {"type": "number"},
        },
    },
}
_IMAGE = {"type": "string", "format": "binary"}
_BASE64 = {"type": "string", "contentEncoding": "base64"}


def problem_responses(errors: Iterable[type[ServiceError]] = PROBLEMS) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these errors, one entry per status."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        text = f"`{error.code}`: {error.title.lower()}"
        known = by_status.setdefault(
            error.status,
            {"description": "", "content": {"application/problem+json": {"schema": _PROBLEM_SCHEMA}}},
        )
        known["description"] += ("; " if known["description"] else "") + text
    return by_status


def detect_operation() -> dict[str, Any]:
    """FastAPI's `openapi_extra` of the detection route."""
    fields = {name: {**schema, "description": text} for name, (schema, text) in KNOWN.items()}
    raw = {kind: {"schema": _IMAGE} for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")}
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
            for name, (schema, text) in KNOWN.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"file": {"type": "array", "items": _IMAGE}, **fields}}
                },
                **raw,
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": _BASE64, "images": {"type": "array", "items": _BASE64}, **fields},
                    }
                },
            },
        },
        "responses": {"200": {"description": "Detections.", "content": {"application/json": {"schema": _ANSWER}}}},
    }
