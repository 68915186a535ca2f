"""What `/docs` says about `POST /v1/detect` and about errors: made from the tables that the code itself uses."""

from collections.abc import Iterable
from typing import Any

from calibox_server import errors as tree
from calibox_server.errors import PROBLEM_TYPE, PROBLEMS, ServiceError
from calibox_server.openapi_schemas import ANSWER, BASE64, IMAGE, PROBLEM, json_content
from calibox_server.parameters import KNOWN

DESCRIPTION = """
Finds objects and says, for each box, what it is and how well it is placed.

Every detection has three scores in 0..1: `classification_score` (is it this class), `localization_score` (how well the
box fits, an expected IoU) and `score` (the two combined, as the request or the model chooses).
Every error is an `application/problem+json` document with a stable `code`; below `/v2`, which speaks the Open Inference
Protocol, it is `{"error": "a sentence"}`.

Frames of a video go over the WebSocket `/v1/stream`, which OpenAPI has no words for. A text message is a JSON object
with the parameters of `POST /v1/detect` for the frames after it; a binary message is one encoded image. Each frame is
answered in its order by a text message: the document of `POST /v1/detect` with `"frame": n`, or
`{"frame": n, "dropped": true}` where newer frames came first, or `{"frame": n, "error": {...}}`.
"""
# Errors of other addresses.
_ELSEWHERE = (tree.LoadError, tree.MethodNotAllowedError, tree.NotFoundError, tree.UpgradeRequiredError)
DETECTION_PROBLEMS = tuple(error for error in PROBLEMS if error not in _ELSEWHERE)
_IMAGE_KINDS = (
    *(f"image/{kind}" for kind in ("jpeg", "png", "webp", "bmp", "tiff", "gif")),
    "application/octet-stream",
)
# What a JSON body may have in place of the text of a query or a form field.
_IN_JSON: dict[str, dict[str, Any]] = {
    "version": {"type": ["string", "integer"]},
    "classes": {
        "oneOf": [
            {"type": ["string", "integer"]},
            {"type": "array", "items": {"type": ["string", "integer"]}},
        ]
    },
    "refine": {"oneOf": [KNOWN["refine"][0], {"type": "array", "items": KNOWN["refine"][0]}]},
}
_URL = {"type": "string", "format": "uri"}
_URL_TEXT = (
    "Address of an image that the server fetches, where its `--fetch-hosts` allow it; counts as one image, and as one "
    "more for the fetching."
)
# Each is what a JSON body may bring its images as; exactly one of them.
_SOURCES: dict[str, dict[str, Any]] = {
    "image": BASE64,
    "images": {"type": "array", "items": BASE64, "minItems": 1},
    "url": {**_URL, "description": _URL_TEXT},
    "urls": {"type": "array", "items": _URL, "minItems": 1, "description": _URL_TEXT},
}


def problem_responses(errors: Iterable[type[ServiceError]]) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these errors, one entry per status."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        text = f"`{error.code}`: {error.title.lower()}"
        known = by_status.setdefault(
            error.status,
            {"description": "", "content": json_content(PROBLEM, PROBLEM_TYPE)},
        )
        known["description"] += ("; " if known["description"] else "") + text
    return by_status


def answers_of(
    schema: dict[str, Any], description: str, errors: Iterable[type[ServiceError]] = ()
) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` of a route whose answer is a JSON document of this schema."""
    return {200: {"description": description, "content": json_content(schema)}, **problem_responses(errors)}


def detect_operation() -> dict[str, Any]:
    """FastAPI's `openapi_extra` of the detection route."""
    fields = {name: {**schema, "description": text} for name, (schema, text) in KNOWN.items()}
    form = {"file": {"type": "array", "items": IMAGE}, "url": {**_URL, "description": _URL_TEXT}, **fields}
    in_json = {name: {**_IN_JSON.get(name, schema), "description": text} for name, (schema, text) in KNOWN.items()}
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
            for name, (schema, text) in KNOWN.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                **{kind: {"schema": IMAGE} for kind in _IMAGE_KINDS},
                "multipart/form-data": {"schema": {"type": "object", "properties": form}},
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {**_SOURCES, **in_json},
                        "additionalProperties": False,
                        "oneOf": [{"required": [source]} for source in _SOURCES],
                    }
                },
            },
        },
        "responses": {"200": {"description": "Detections.", "content": json_content(ANSWER)}},
    }
