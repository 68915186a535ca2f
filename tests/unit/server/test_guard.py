"""Who is let in: by key or by address, as often as the rates say, for every protocol alike."""

import pytest

from calibox_server.errors import RateLimitedError, UnauthorizedError
from calibox_server.guard import Guard, make_guard, shown_key
from calibox_server.keys import Keys, make_key, read_keys
from calibox_server.options import Options
from calibox_server.rate import Limiter, Rate

KEY, LINE = make_key("ci.bot")
KEYS = read_keys(None, [LINE])


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + key.encode())]


def test_a_key_is_taken_from_either_header() -> None:
    guard = Guard(KEYS)
    assert guard.admit(bearer(KEY), "192.0.2.1") == "ci.bot"
    assert guard.admit([(b"x-api-key", KEY.encode())], "192.0.2.1") == "ci.bot"
    assert guard.admit([(b"authorization", b"bEARER  " + KEY.encode())], "192.0.2.1") == "ci.bot"


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ([], "send it as Authorization: Bearer KEY, or as X-API-Key"),
        ([(b"authorization", b"Basic dXNlcjpwYXNz")], "send it as Authorization"),
        (bearer(""), "send it as Authorization"),
        (bearer("calibox_wrong"), "this key is not known here"),
        ([(b"x-api-key", b"\xff\xfe")], "this key is not known here"),
    ],
)
def test_without_a_known_key_nobody_is_let_in(headers: list[tuple[bytes, bytes]], sentence: str) -> None:
    with pytest.raises(UnauthorizedError, match=sentence) as caught:
        Guard(KEYS).admit(headers, "192.0.2.1")
    assert caught.value.headers == {"WWW-Authenticate": 'Bearer realm="calibox"'}
    assert "calibox_wrong" not in str(caught.value)


def test_the_bearer_goes_before_the_other_header() -> None:
    assert shown_key([(b"x-api-key", b"b"), (b"authorization", b"Bearer a")]) == "a"


def test_requests_are_counted_per_key_wherever_they_come_from() -> None:
    guard = Guard(KEYS, Limiter(Rate(2.0, 1.0)), now=lambda: 0.0)
    guard.admit(bearer(KEY), "192.0.2.1")
    with pytest.raises(RateLimitedError, match=r"ci\.bot sends more requests per second .* after 0\.5 s") as caught:
        guard.admit(bearer(KEY), "192.0.2.2")
    assert caught.value.headers == {"Retry-After": "1"}


def test_an_unknown_key_costs_a_known_one_nothing() -> None:
    guard = Guard(KEYS, Limiter(Rate(1.0, 1.0)), now=lambda: 0.0)
    for _ in range(5):
        with pytest.raises(UnauthorizedError):
            guard.admit(bearer("calibox_guess"), "192.0.2.1")
    guard.admit(bearer(KEY), "192.0.2.1")


def test_without_keys_each_address_counts_and_in_ipv6_each_network() -> None:
    guard = Guard(Keys({}), Limiter(Rate(1.0, 1.0)), now=lambda: 0.0)
    addresses = ("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3", "2001:db8:1:2::7", "")
    callers = [guard.admit([], address) for address in addresses]
    assert callers == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8:1:2::/64", ""]
    with pytest.raises(RateLimitedError):
        guard.admit([], "2001:db8:1:2:3::8")
    guard.admit([], "2001:db8:1:3::7")


def test_images_are_charged_after_they_were_counted_and_owed_ones_keep_the_next_request_out() -> None:
    now = 0.0
    guard = Guard(KEYS, images=Limiter(Rate(10.0, 10.0)), now=lambda: now)
    guard.charge(guard.admit(bearer(KEY), ""), 25)  # more than the burst, from a full bucket: owes 15
    with pytest.raises(RateLimitedError, match="sends more images per second"):
        guard.admit(bearer(KEY), "")
    now = 1.6
    caller = guard.admit(bearer(KEY), "")
    with pytest.raises(RateLimitedError):
        guard.charge(caller, 5)  # 1 of 10 is there


def test_there_is_no_guard_where_nothing_is_asked_for() -> None:
    assert make_guard(Options()) is None
    assert make_guard(Options(api_keys=LINE)) is not None
    assert make_guard(Options(rate_images=1.0)) is not None
