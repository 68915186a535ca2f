"""The text form of a protocol buffer message. Pure, and without protobuf: a file of settings needs no compiler."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, Union


class Word(str):
    """A value that is written without quotes: the name of an enum's value."""

    __slots__ = ()


Value: TypeAlias = Union[str, int, float, bool, "Message"]
Message: TypeAlias = Mapping[str, Value | Sequence[Value]]


def text_of(message: Message) -> str:
    """A message, a field per line and fields inside others indented; a sequence is a repeated field.

    Args:
        message: field names to values. A `Word` is an enum's value, another text a string.
    """
    return "".join(f"{line}\n" for line in _lines(message))


def map_of(values: Mapping[str, Value]) -> list[Message]:
    """A map field: in the text form a repeated message of key and value."""
    return [{"key": key, "value": value} for key, value in values.items()]


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, str) or not isinstance(value, Sequence):
            yield from _field(name, value)
        elif value and not isinstance(value[0], Mapping):
            yield f"{name}: [{', '.join(map(_scalar, value))}]"
        else:
            for one in value:
                yield from _field(name, one)


def _field(name: str, value: Value) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{name}: {_scalar(value)}"
    elif not value:
        yield f"{name} {{}}"
    else:
        yield f"{name} {{"
        yield from (f"  {line}" for line in _lines(value))
        yield "}"


def _scalar(value: object) -> str:
    if isinstance(value, Word):
        return str(value)
    return json.dumps(value, ensure_ascii=False)  # true, 8, 0.5, "text": protobuf writes these as JSON does
