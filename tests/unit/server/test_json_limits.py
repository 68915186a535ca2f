"""JSON bodies: what is too complex is refused before it takes memory."""

import pytest

from calibox_server.errors import JsonTooComplexError, MalformedRequestError
from calibox_server.json_limits import MAX_DEPTH, MAX_VALUES, parse_json


def test_a_request_is_read() -> None:
    assert parse_json(b'{"images": ["AA==", "BB=="], "alpha": 0.5}') == {"images": ["AA==", "BB=="], "alpha": 0.5}


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_limited_exactly(opening: bytes, closing: bytes) -> None:
    parse_json(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH)
    for depth in (MAX_DEPTH + 1, 5000):
        with pytest.raises(JsonTooComplexError, match=f"nested deeper than {MAX_DEPTH} levels"):
            parse_json(opening * depth + b"1" + closing * depth)


def test_many_values_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    most = b"[" + b",".join([b"1"] * MAX_VALUES) + b"]"  # one bracket and MAX_VALUES - 1 commas
    assert len(parse_json(most)) == MAX_VALUES
    monkeypatch.setattr("orjson.loads", lambda body: pytest.fail("the document was made"))
    for bomb in (b"[1," + most[1:], b"[" + b"[]," * MAX_VALUES + b"[]]", b"[" * 100_000):
        with pytest.raises(JsonTooComplexError, match=f"at most {MAX_VALUES}"):
            parse_json(bomb)


def test_what_is_not_json_is_malformed() -> None:
    with pytest.raises(MalformedRequestError, match=r"the body is not JSON: .*line 1"):
        parse_json(b'{"image": ')
