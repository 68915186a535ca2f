"""The open-loop load of benchmarks/soak, short: its client, its judgement, and a server that refuses at the door."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from benchmarks.soak.connection import Connection, ConnectionLost, Request, get
from benchmarks.soak.findings import Findings, put_section
from benchmarks.soak.load import judge_answers, judge_goodput, judge_refusals
from benchmarks.soak.pictures import Asked, asked_pictures, jpegs
from benchmarks.soak.setup import Setup
from benchmarks.soak.shots import Gun, Shot, per_second, quantiles
from tests.support.live_server import live_server

NOTHING = Asked(Request(b""), b"")


def shot(status: int, *, held: bool = False, began: float = 0.0, body_sent: float = 0.0, **changes: object) -> Shot:
    """Sent at 0; a refusal that came at ``began`` seconds."""
    made = Shot(0, NOTHING, 0.0, held, answers=1, status=status, right=True, began=began, body_sent=body_sent)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def failed_of(*shots: Shot, unasked: int = 0) -> list[str]:
    findings = Findings()
    judge_answers(findings, list(shots), unasked=unasked)
    judge_refusals(findings, list(shots))
    return [line.partition(":")[0] for line in findings.failed]


def test_a_server_that_is_asked_too_much_refuses_at_the_door_and_loses_nothing(models: Path, tmp_path: Path) -> None:
    setup = Setup(models, tmp_path)

    async def shoot(port: int) -> tuple[list[Shot], int]:
        gun = Gun(port, await asked_pictures(port, jpegs(setup.bundle, None, 8)))
        closed, _ = await gun.closed_loop(4, 0.3)
        fired, started = await gun.open_loop(400, 1.0, seed=0, held=0.3)
        assert per_second(fired, started, 1.0) > 0
        gun.close()
        return closed + fired, gun.unasked

    with live_server(models, queue_size=2) as url:
        shots, unasked = asyncio.run(shoot(int(url.rpartition(":")[2])))
    findings = Findings()
    judge_answers(findings, shots, unasked=unasked)
    assert findings.failed == []
    refused = [one for one in shots if one.status == 429]
    assert {one.status for one in shots} == {200, 429}
    early = [one for one in refused if one.held and (not one.body_sent or one.began < one.body_sent)]
    assert len(early) > 0
    assert any(one.body_sent for one in early)  # whose connection went on to be used


@pytest.mark.parametrize(
    ("shares", "held"),
    [([0.7, 0.9, 1.1], True), ([0.95, 0.9, 0.2], True), ([1.1, 0.89, 0.7], False), ([1.2, 0.8, 0.8, 0.8, 1.2], False)],
)
def test_of_several_turns_of_overload_the_middle_one_counts(shares: list[float], held: bool) -> None:
    findings = Findings()
    judge_goodput(findings, shares, 0.9)
    assert bool(findings.failed) != held


def test_what_is_lost_told_twice_wrong_late_or_read_first_does_not_hold() -> None:
    fine = [shot(200), shot(429, began=0.002), shot(429, held=True, began=0.009)]
    assert failed_of(*fine) == []
    assert failed_of(*fine, shot(0, answers=0)) == ["requests without an answer"]
    assert failed_of(*fine, shot(200, answers=2)) == ["answered twice, or unasked"]
    assert failed_of(*fine, unasked=1) == ["answered twice, or unasked"]
    assert failed_of(*fine, shot(200, right=False)) == ["answers with another's id or other detections"]
    for slow_or_other in (shot(429, began=0.011), shot(503, began=0.001)):
        assert failed_of(*fine, slow_or_other) == ["refusals that are 429 within 10 ms"]
    read_first = shot(
        429, held=True, began=0.03, body_sent=0.02
    )  # one of two may have passed the door, not three of four
    assert failed_of(*fine, read_first) == []
    assert failed_of(*fine, *[read_first] * 3) == ["refusals before the first byte of a body that is held back"]


def test_goodput_counts_right_answers_inside_the_window() -> None:
    inside, late, wrong = (
        shot(200, ended=11.0),
        shot(200, ended=12.5),
        shot(200, ended=11.0, right=False),
    )
    assert per_second([inside, inside, late, wrong, shot(429, ended=11.0)], started=10.0, seconds=2.0) == 1.0


def test_quantiles_are_values_that_were_seen() -> None:
    assert quantiles([5.0, 1.0, 3.0], 0.0, 0.5, 1.0) == [1.0, 3.0, 5.0]


async def played(*pieces: bytes, end: bool = False) -> tuple[int, bytes, int]:
    """Status and body of one answer that comes in these pieces, and the bytes behind it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        if not end:
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        connection = await Connection.to(server.sockets[0].getsockname()[1])
        try:
            answer = await connection.ask(get("/"))
            await asyncio.sleep(0.05)
            return answer.status, answer.body, connection.unasked
        finally:
            connection.close()
            await asyncio.sleep(0.05)  # the other side notices


def test_an_answer_in_pieces_is_whole_and_what_comes_behind_it_is_noticed() -> None:
    pieces = b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r", b"\nab", b"cdHTTP", b"/1.1"
    assert asyncio.run(played(*pieces)) == (200, b"abcd", 8)


def test_a_connection_that_ends_before_the_answer_is_lost() -> None:
    with pytest.raises(ConnectionLost):
        asyncio.run(played(b"HTTP/1.1 200 OK\r\n", end=True))


def test_a_section_replaces_the_one_of_its_name(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for name, text in (("one", "first\n\n### deeper\n\nx"), ("two", "second"), ("one", "third")):
        put_section(page, "# Title\n\nWords.", name, text)
    assert page.read_text() == "# Title\n\nWords.\n\n## one\n\nthird\n\n## two\n\nsecond\n"
