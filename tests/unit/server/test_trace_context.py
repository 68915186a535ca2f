"""W3C Trace Context, level 1: which `traceparent` is followed and which is ignored."""

import pytest

from calibox_server.trace_context import trace_id

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"  # the standard's own example


@pytest.mark.parametrize(
    "text", [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01-later"]
)
def test_a_valid_header_names_its_trace(text: str) -> None:
    assert trace_id(text) == TRACE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f" 00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
    ],
)
def test_whatever_is_not_valid_is_ignored(text: str) -> None:
    assert trace_id(text) == ""
