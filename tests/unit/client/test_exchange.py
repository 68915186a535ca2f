"""How requests are given to httpx2: the same addresses as httpx2 itself would join."""

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_client.exchange import stream_arguments
from calibox_client.requests import DETECT_PATH, HttpRequest
from calibox_client.retries import Deadline

BASES = (
    "http://127.0.0.1:8000",
    "https://detector.test/behind/a%20proxy",
    "http://user:secret@[::1]:81",
    "http://bücher.test",
)
WORDS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
QUERIES = st.dictionaries(WORDS.filter(bool), st.lists(WORDS, min_size=1, max_size=3), max_size=4)


@pytest.mark.parametrize("base", BASES)
@given(query=QUERIES)
def test_an_address_is_what_httpx2_joins_of_base_path_and_parameters(base: str, query: dict[str, list[str]]) -> None:
    request = HttpRequest("GET", DETECT_PATH, query={**query, "timeout_ms": ["1"]})
    arguments = stream_arguments(base, request, Deadline(60))
    # With a transport of its own a client does not read the system's certificates.
    with httpx2.Client(base_url=base, transport=httpx2.MockTransport(lambda _: httpx2.Response(200))) as client:
        expected = client.build_request("GET", DETECT_PATH, params=dict(request.query))
        sent = client.build_request("GET", arguments["url"])
    assert (sent.url, sent.headers["host"]) == (expected.url, expected.headers["host"])


def test_without_parameters_there_is_no_question_mark() -> None:
    assert stream_arguments(BASES[0], HttpRequest("GET", "/readyz"), Deadline(60))["url"] == f"{BASES[0]}/readyz"
