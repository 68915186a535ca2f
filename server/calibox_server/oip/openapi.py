"""What `/docs` says about the Open Inference Protocol.

Its own words: https://github.com/kserve/open-inference-protocol
"""

from collections.abc import Iterable
from typing import Any

from calibox_server import errors
from calibox_server.errors import ServiceError
from calibox_server.oip.http_body import LENGTH_HEADER
from calibox_server.oip.requests import KNOWN_PARAMETERS
from calibox_server.openapi_schemas import IMAGE, NUMBER, TEXT, WHOLE, Schema, a_list, an_object, json_content

Responses = dict[int | str, dict[str, Any]]  # as FastAPI has them

ERROR = an_object({"error": TEXT})
# Of an address that a body is sent to; what every address may answer is added elsewhere.
_BODY_ENDS = (
    errors.MalformedRequestError,
    errors.JsonTooComplexError,
    errors.UnknownModelError,
    errors.TooManyBytesError,
    errors.UnsupportedMediaTypeError,
    errors.ParameterError,
    errors.OverloadedError,
    errors.StoppingError,
    errors.DeadlineError,
)
_BOOLEAN: Schema = {"type": "boolean"}
_SERVER = an_object({"name": TEXT, "version": TEXT, "extensions": a_list(TEXT)})
_TENSOR = an_object({"name": TEXT, "datatype": TEXT, "shape": a_list(WHOLE)})
_MODEL = an_object(
    {"name": TEXT, "versions": a_list(TEXT), "platform": TEXT, "inputs": a_list(_TENSOR), "outputs": a_list(_TENSOR)}
)
_SIZES = a_list({"type": "integer", "minimum": 0})
_VALUES: Schema = {"type": "array", "description": "Flat, in row-major order, or nested as the shape."}
_BINARY_SIZE = {"parameters": an_object({"binary_data_size": WHOLE}, "binary_data_size")}
_GIVEN = {"name": TEXT, "datatype": {"enum": ["UINT8", "FP32", "INT32"]}, "shape": _SIZES, "data": _VALUES}
_WANTED = an_object({"name": TEXT, "parameters": an_object({"binary_data": _BOOLEAN}, "binary_data")}, "parameters")
_PARAMETERS: dict[str, Schema] = {
    "priority": {"enum": [0, 1, 2], "description": "1 is high, 2 normal, 0 the default."},
    "timeout": {"type": "integer", "minimum": 0, "description": "In microseconds; 0 is the server's own."},
    "binary_data_output": {**_BOOLEAN, "description": "Of all outputs, where none is named."},
    "operating_point": {**TEXT, "description": "Of the model: its fusion and thresholds where no input tells them."},
}
_REQUEST = an_object(
    {
        "id": TEXT,
        "parameters": an_object(_PARAMETERS, *KNOWN_PARAMETERS, additionalProperties=False),
        "inputs": a_list(an_object({**_GIVEN, **_BINARY_SIZE}, "data", "parameters"), minItems=1),
        "outputs": a_list(_WANTED),
    },
    "id",
    "parameters",
    "outputs",
)
_FOUND = {"name": TEXT, "datatype": TEXT, "shape": a_list(WHOLE), "data": a_list(NUMBER)}
_ANSWER = an_object(
    {
        "model_name": TEXT,
        "model_version": TEXT,
        "id": TEXT,
        "outputs": a_list(an_object({**_FOUND, **_BINARY_SIZE}, "data", "parameters")),
    },
    "id",
)
_LENGTH = {
    "name": LENGTH_HEADER,
    "in": "header",
    "required": False,
    "schema": WHOLE,
    "description": "Bytes of the JSON, where binary tensors follow it.",
}


def error_responses(ends: Iterable[type[ServiceError]]) -> Responses:
    """The answers for these errors in the protocol's form."""
    by_status: dict[int | str, list[str]] = {}
    for error in ends:
        by_status.setdefault(error.status, []).append(f"{error.title.lower()}")
    content = json_content(ERROR)
    return {status: {"description": "; ".join(texts), "content": content} for status, texts in by_status.items()}


def paths() -> dict[str, Any]:
    """Every address of the protocol, as OpenAPI has them."""
    ready = an_object({"ready": _BOOLEAN})
    found = {
        "/v2": _get("Name, version and extensions of the server", _SERVER),
        "/v2/health/live": _get("Whether the process answers", an_object({"live": _BOOLEAN})),
        "/v2/health/ready": _get("Whether requests should be sent here", ready, stopping=ready),
    }
    model_ready = an_object({"name": TEXT, "ready": _BOOLEAN})
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
        unknown = [errors.UnknownModelError]
        found |= {
            path: _get("Versions and tensors of a model", _MODEL, names, unknown),
            f"{path}/ready": _get("Whether a model takes requests", model_ready, names, unknown, stopping=model_ready),
            f"{path}/infer": _infer(names),
        }
    return found


def _get(
    summary: str,
    schema: Schema,
    names: Iterable[str] = (),
    ends: Iterable[type[ServiceError]] = (),
    stopping: Schema | None = None,
) -> dict[str, Any]:
    """One address to read; ``stopping`` is its 503."""
    responses = {
        200: {"description": "As the protocol says.", "content": json_content(schema)},
        **error_responses(ends),
    }
    if stopping is not None:
        responses[503] = {"description": "The server stops.", "content": json_content(stopping)}
    return {"get": {**_head(summary, names), "responses": _by_text(responses)}}


def _infer(names: Iterable[str]) -> dict[str, Any]:
    head = _head("Tensors to tensors", names)
    both = {**json_content(_ANSWER), "application/octet-stream": {"schema": IMAGE}}
    answer: Responses = {200: {"description": "The tensors; binary ones follow the JSON.", "content": both}}
    body = {"required": True, "content": {**json_content(_REQUEST), "application/octet-stream": {"schema": IMAGE}}}
    return {
        "post": {
            **head,
            "parameters": [*head["parameters"], _LENGTH],
            "requestBody": body,
            "responses": _by_text({**answer, **error_responses(_BODY_ENDS)}),
        }
    }


def _by_text(responses: Responses) -> dict[str, dict[str, Any]]:
    return {str(status): response for status, response in responses.items()}


def _head(summary: str, names: Iterable[str]) -> dict[str, Any]:
    parameters = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in names]
    return {"summary": summary, "tags": ["Open Inference Protocol"], "parameters": parameters}
