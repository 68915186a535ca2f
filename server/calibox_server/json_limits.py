"""JSON that is as simple as requests are: a few kilobytes of brackets can become gigabytes of objects."""

from typing import Any

import orjson

from calibox_server.errors import JsonTooComplexError, MalformedRequestError

MAX_VALUES = 10_000  # a request has a list of images and some parameters, the longest a list of class names
MAX_DEPTH = 8  # a request needs 2: an object with lists


def parse_json(body: bytes) -> Any:
    """The document, after its commas and brackets were counted: no more values than they are made.

    Raises:
        JsonTooComplexError: more than `MAX_VALUES` values, or deeper than `MAX_DEPTH`.
        MalformedRequestError: not JSON; the text says where.
    """
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > MAX_VALUES:
        raise JsonTooComplexError(
            f"the JSON document has about {values} values; this server reads at most {MAX_VALUES}"
        )
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "depth" in str(error):  # orjson's own limit lies far above ours
            raise _too_deep() from error
        raise MalformedRequestError(f"the body is not JSON: {error}") from error
    if _deeper_than(document, MAX_DEPTH):
        raise _too_deep()
    return document


def _deeper_than(document: Any, depth: int) -> bool:
    level = [document]
    for _ in range(depth):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [value for values in inner for value in values]
    return any(isinstance(part, dict | list) for part in level)


def _too_deep() -> JsonTooComplexError:
    return JsonTooComplexError(f"the JSON document is nested deeper than {MAX_DEPTH} levels; requests need 2")
