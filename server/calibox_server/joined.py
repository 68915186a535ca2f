"""An answer's head and body in one call of the system, where the web server makes two."""

import asyncio
from typing import Any

_STATUS_LINE = b"HTTP/1.1 "


class Joined:
    """A connection's transport, for answers: a head waits for its body.

    Args:
        transport: of the connection.
        loop: what waits is written in its next turn at the latest.
    """

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """As the transport's."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_STATUS_LINE):
            self._head = data
            self._loop.call_soon(self._write_head)
            return
        self._transport.write(data)

    def close(self) -> None:
        """As the transport's."""
        self._write_head()
        self._transport.close()

    def _write_head(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""
