"""The load generator's pieces: what is sent, what is read back, when, and what is made of it."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from calibox_client import BadReplyError, ServerUnreachableError
from calibox_client.bench.loops import Connections, Tally, arrivals, closed_loop, open_loop
from calibox_client.bench.summary import load_name, stages, summary_of
from calibox_client.bench.wire import Answer, Connection, Target, request_bytes
from calibox_client.requests import HttpRequest

OK = b"HTTP/1.1 200 OK\r\nServer-Timing: decode;dur=1.5, total;dur=20\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b'HTTP/1.1 429 Too Many\r\nContent-Length: 21\r\n\r\n{"code":"overloaded"}'
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def against(replies: list[bytes], ask: Callable[[Target], Awaitable[object]], *, split: int = 10_000) -> object:
    """Runs ``ask`` against a server that answers with these in turn, in pieces; an empty one closes the connection."""
    turn = itertools.cycle(replies)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                reply = next(turn)
                for start in range(0, len(reply), split):
                    writer.write(reply[start : start + split])
                    await writer.drain()
                    await asyncio.sleep(0)
                if not reply:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run() -> object:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            return await ask(Target("127.0.0.1", server.sockets[0].getsockname()[1], False, ""))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://host:8000", Target("host", 8000, False, "")),
        ("https://host", Target("host", 443, True, "")),
        ("http://[::1]/edge", Target("::1", 80, False, "/edge")),
    ],
)
def test_an_address_is_taken_apart(url: str, target: Target) -> None:
    assert Target.of(url) == target


def test_a_request_is_written_whole() -> None:
    request = HttpRequest("POST", "/v1/detect", {"classes": ["a b", "ü"]}, {"Content-Type": "image/png"}, b"body")
    head = (
        b"POST /edge/v1/detect?classes=a+b&classes=%C3%BC HTTP/1.1\r\nHost: [::1]:80\r\nX-Key: k\r\n"
        b"Content-Type: image/png\r\nContent-Length: 4\r\n\r\n"
    )
    assert request_bytes(Target("::1", 80, False, "/edge"), request, {"X-Key": "k"}) == head + b"body"


@pytest.mark.parametrize("split", [1, 7, 10_000])
def test_answers_are_read_however_they_are_cut(split: int) -> None:
    async def ask(target: Target) -> list[Answer]:
        connection = await Connection.to(target)
        answers = [await connection.ask(REQUEST, 0.0) for _ in range(3)]
        connection.close()
        return answers

    answers = against([OK, BUSY], ask, split=split)
    assert isinstance(answers, list)
    assert [(answer.status, answer.code) for answer in answers] == [(200, "ok"), (429, "overloaded"), (200, "ok")]
    assert answers[0].server_timing == "decode;dur=1.5, total;dur=20"


def test_a_connection_that_breaks_is_counted_and_another_one_made() -> None:
    async def ask(target: Target) -> list[str]:
        connections = Connections(target)
        codes = [(await connections.ask(REQUEST, 0.0)).code for _ in range(3)]
        connections.close()
        return codes

    assert against([OK, b""], ask) == ["ok", "broken", "ok"]


@pytest.mark.parametrize("reply", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 70_000])
def test_what_is_no_answer_of_a_server_is_told(reply: bytes) -> None:
    async def ask(target: Target) -> object:
        return await (await Connection.to(target)).ask(REQUEST, 0.0)

    with pytest.raises(BadReplyError):
        against([reply], ask)


def test_a_server_that_is_not_there_is_told_and_in_a_loop_counted() -> None:
    nowhere = Target("127.0.0.1", 1, False, "")
    with pytest.raises(ServerUnreachableError, match=r"127\.0\.0\.1:1"):
        asyncio.run(Connection.to(nowhere))
    assert asyncio.run(Connections(nowhere).ask(REQUEST, 0.0)).code == "broken"


def test_a_closed_loop_counts_what_began_while_it_was_measured() -> None:
    async def ask(target: Target) -> Tally:
        return await closed_loop(target, [REQUEST], concurrency=2, warm_up=0.05, seconds=0.1)

    tally = against([OK], ask)
    assert isinstance(tally, Tally)
    assert tally.answers
    assert {answer.code for answer in tally.answers} == {"ok"}
    assert tally.lateness == []


def test_an_open_loop_asks_as_often_as_its_clock_says() -> None:
    async def ask(target: Target) -> Tally:
        return await open_loop(target, [REQUEST], rate=200.0, seed=4, warm_up=0.05, seconds=0.2)

    tally = against([OK], ask)
    assert isinstance(tally, Tally)
    moments = list(itertools.takewhile(lambda moment: moment < 0.25, arrivals(200.0, 4)))
    assert len(tally.lateness) == len(moments)
    assert len(tally.answers) == sum(moment >= 0.05 for moment in moments)


def test_arrivals_are_those_of_a_poisson_process_and_repeat_with_their_seed() -> None:
    moments = list(itertools.islice(arrivals(50.0, 1), 5000))
    assert moments == list(itertools.islice(arrivals(50.0, 1), 5000))
    assert moments != list(itertools.islice(arrivals(50.0, 2), 5000))
    pauses = [after - before for before, after in itertools.pairwise(moments)]
    mean = sum(pauses) / len(pauses)
    assert mean == pytest.approx(1 / 50, rel=0.05)  # the standard error of 5000 exponentials is 1.4 %
    variance = sum((pause - mean) ** 2 for pause in pauses) / len(pauses)
    assert variance**0.5 == pytest.approx(mean, rel=0.1)  # exponential: as wide as long


def test_stages_are_read_from_server_timing() -> None:
    headers = ["decode;dur=1.5, engine;dur=30;desc=x", "decode;dur=2, cache;desc=hit", "", "total;desc=a;dur=5"]
    assert stages(headers) == {"decode": [1.5, 2.0], "engine": [30.0], "total": [5.0]}


def test_a_summary_is_of_good_answers_and_counts_the_others() -> None:
    tally = Tally(begin=10.0, end=12.0)
    for due, answer in [
        (9.9, Answer(200, "ok", 9.0)),  # of the warm-up
        (9.9, Answer(200, "ok", 0.2)),
        (10.0, Answer(200, "ok", 0.010, "decode;dur=1")),
        (11.0, Answer(200, "ok", 0.030, "decode;dur=3")),
        (11.5, Answer(429, "overloaded", 0.001)),
        (11.9, Answer(0, "broken", 5.0)),
        (12.0, Answer(200, "ok", 9.0)),  # too late
    ]:
        tally.note(answer, due)
    row = summary_of(tally, {"mode": "closed", "concurrency": 2})
    assert (row["requests"], row["answered"], row["seconds"]) == (4, 2, 2.0)
    assert row["answered_per_s"] == 1.5  # the two, and one that was due before and came in time
    assert row["errors"] == {"overloaded": 1, "broken": 1}
    assert row["latency_ms"]["mean"] == pytest.approx(20.0)
    assert row["latency_ms"]["max"] == pytest.approx(30.0)
    assert row["stages_ms"]["decode"]["p50"] == 2.0
    assert "late_ms" not in row
    assert load_name(row) == "2 at once"
    assert load_name({"mode": "open", "rate": 12.5}) == "12.5 per s"


def test_a_summary_of_nothing_has_no_latencies() -> None:
    row = summary_of(Tally(0.0, 1.0), {"mode": "open", "rate": 1.0})
    assert row["latency_ms"]["p50"] is None
    assert (row["requests"], row["errors"], row["stages_ms"]) == (0, {}, {})
