"""A head that waits for its body."""

import asyncio
from typing import Any

from calibox_server.joined import Joined

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"body"


class Written(asyncio.Transport):
    """A transport that notes what it is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def write(self, data: Any) -> None:
        self.asked.append(data)

    def close(self) -> None:
        self.asked.append("close")

    def is_closing(self) -> bool:
        return "close" in self.asked


async def _written(*parts: bytes | None) -> list[Any]:
    """What reaches the transport of parts that are written; at None the event loop has its turn."""
    transport = Written()
    joined = Joined(transport, asyncio.get_running_loop())
    for part in parts:
        if part is None:
            await asyncio.sleep(0)
        else:
            joined.write(part)
    return transport.asked


def test_a_head_and_its_body_are_one_write() -> None:
    assert asyncio.run(_written(HEAD, BODY)) == [HEAD + BODY]


def test_a_head_whose_body_takes_its_time_does_not_wait() -> None:
    assert asyncio.run(_written(HEAD, None, BODY)) == [HEAD, BODY]


def test_answers_in_a_row_keep_their_order() -> None:
    assert asyncio.run(_written(HEAD, BODY, HEAD, BODY, BODY, None)) == [HEAD + BODY, HEAD + BODY, BODY]


def test_a_head_behind_another_is_written_behind_it() -> None:
    """As 100 Continue is followed by the answer itself."""
    more = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert b"".join(asyncio.run(_written(more, HEAD, BODY, None))) == more + HEAD + BODY


def test_an_answer_of_a_head_alone_is_written_before_the_connection_closes() -> None:
    async def close() -> tuple[bool, list[Any], bool]:
        transport = Written()
        joined = Joined(transport, asyncio.get_running_loop())
        joined.write(HEAD)
        before = joined.is_closing()
        joined.close()
        await asyncio.sleep(0)
        return before, transport.asked, joined.is_closing()

    assert asyncio.run(close()) == (False, [HEAD, "close"], True)
