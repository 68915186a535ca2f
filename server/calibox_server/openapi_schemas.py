"""JSON schemas of what the server answers, as OpenAPI has them. Tables and two small helpers."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
SCORE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
IMAGE: Schema = {"type": "string", "format": "binary"}
BASE64: Schema = {"type": "string", "contentEncoding": "base64"}


def an_object(properties: Mapping[str, Schema], *optional: str, **more: Any) -> Schema:
    """An object that has all these properties but those that are ``optional``."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": dict(properties), **more}


def a_list(items: Schema, **more: Any) -> Schema:
    """A list of such values."""
    return {"type": "array", "items": items, **more}


def json_content(schema: Schema, kind: str = "application/json") -> dict[str, Any]:
    """OpenAPI's `content` of an answer in JSON."""
    return {kind: {"schema": schema}}


def described(schema: Schema, text: str) -> Schema:
    """The same schema with a description."""
    return {**schema, "description": text}


PROBLEM = an_object(
    {
        "type": TEXT,
        "title": TEXT,
        "status": WHOLE,
        "code": TEXT,
        "detail": described(TEXT, "What was wrong, where, and what to do."),
        "request_id": TEXT,
        "trace_id": described(TEXT, "Where the request belongs to a trace."),
    },
    "trace_id",
)
_BOX = a_list(NUMBER, minItems=4, maxItems=4, description="x1, y1, x2, y2 in pixels of the upright original.")
_DETECTION = an_object(
    {
        "box": _BOX,
        "label": described(TEXT, "Name of the class."),
        "label_id": described(WHOLE, "Category id of the class in its data set."),
        "score": SCORE,
        "classification_score": SCORE,
        "localization_score": SCORE,
    }
)
_RESULT = an_object({"width": WHOLE, "height": WHOLE, "detections": a_list(_DETECTION)})
ANSWER = an_object(
    {
        "model": TEXT,
        "version": TEXT,
        "results": a_list(_RESULT, description="One entry per image, in the order they were sent."),
        "timing": {
            "type": "object",
            "description": "Milliseconds per stage, of the slowest image; also in the header Server-Timing.",
            "additionalProperties": NUMBER,
        },
    }
)
STATUS = an_object({"status": TEXT})

_STATE: dict[str, Schema] = {"name": TEXT, "version": TEXT, "default": {"type": "boolean"}}
_BROKEN = an_object({**_STATE, "state": {"const": "broken"}, "reason": TEXT})
_READY: dict[str, Schema] = {
    **_STATE,
    "state": {"const": "ready"},
    "description": TEXT,
    "classes": a_list(an_object({"name": TEXT, "label_id": WHOLE})),
    "input": an_object({"width": WHOLE, "height": WHOLE}),
    "fusion": {"type": "object"},
    "score_threshold": NUMBER,
    "iou_threshold": NUMBER,
    "max_detections": WHOLE,
    "operating_points": a_list(
        an_object(
            {
                "name": described(TEXT, "What `operating_point` of a request may be."),
                "description": TEXT,
                "wanted": {"type": "object"},
                "fusion": {"type": "object"},
                "score_threshold": SCORE,
                "class_thresholds": {"type": "object", "additionalProperties": SCORE},
                "calibration": {"type": "object"},
                "test": {"type": "object"},
            }
        ),
        description="Rankings with thresholds that reached a wanted precision or recall.",
    ),
    "example": described({"type": ["string", "null"]}, "Name of the picture that the bundle brings."),
    "refinement": {"type": ["object", "null"]},
    "engine": an_object({"name": TEXT, "instances": WHOLE, "max_batch": WHOLE}),
}
MODELS = an_object({"models": a_list({"oneOf": [an_object(_READY), _BROKEN]})})
MODEL = an_object(
    {
        "name": TEXT,
        "default_version": {"type": ["string", "null"]},
        "versions": a_list({"oneOf": [an_object({**_READY, "manifest": {"type": "object"}}), _BROKEN]}),
    }
)
CHANGE = an_object({"name": TEXT, "loaded": a_list(TEXT), "unloaded": a_list(TEXT)})
