"""Whatever is sent into a stream: every frame is answered in its turn, or the stream ends with a reason."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

FRAME = encoded(picture(width=32, height=32), "JPEG")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("models")
    make_tiny_bundle(root, height=32, width=32)
    with live_server(root, log_level="error", stream_frames=4) as address:
        yield address.replace("http://", "ws://") + "/v1/stream"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
names = st.sampled_from(["score_threshold", "alpha", "classes", "refine", "tile", "timeout_ms", "model", "other"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.dictionaries(
    names, json_values, max_size=3
).map(json.dumps)
frames = st.just(FRAME) | st.integers(0, len(FRAME)).map(lambda end: FRAME[:end]) | st.binary(max_size=20)


def answers(stream: ClientConnection, count: int) -> tuple[list[dict[str, Any]], int | None]:
    """Answers of so many frames, and the code of an early close."""
    found: list[dict[str, Any]] = []
    try:
        while sum("frame" in answer for answer in found) < count:
            found.append(json.loads(stream.recv(timeout=PATIENCE_S)))
    except ConnectionClosed as closed:
        return found, closed.rcvd.code if closed.rcvd is not None else 1006
    return found, None


@settings(max_examples=60, deadline=None)
@given(messages=st.lists(frames | st.just("{}") | texts, max_size=12))
def test_every_frame_is_answered_in_its_turn_or_the_stream_ends_with_a_reason(
    url: str, messages: list[bytes | str]
) -> None:
    sent = 0
    with connect(url, open_timeout=PATIENCE_S, compression=None) as stream:
        for message in messages:
            sent += isinstance(message, bytes)
            try:
                stream.send(message)
            except ConnectionClosed:
                break
        found, code = answers(stream, sent)
    refusals = [answer["error"] for answer in found if "error" in answer]
    assert all(400 <= refusal["status"] < 500 or refusal["status"] == 504 for refusal in refusals)
    numbered = [answer["frame"] for answer in found if "frame" in answer]
    assert numbered == list(range(len(numbered)))
    if code is None:
        assert len(numbered) == sent
    else:
        assert code == 1008
        assert found[-1].keys() == {"error"}
