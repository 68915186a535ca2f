"""Packets between two processes of one server, with file descriptors where they carry some.

A socket of `AF_UNIX` and `SOCK_SEQPACKET` keeps packets whole and in order, and tells at once when the other end is
gone. Everything runs on the event loop.
"""

import asyncio
import contextlib
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence

import structlog

log = structlog.get_logger()

MAX_PACKET = 32 * 2**10  # bytes; below what the kernel lets wait on one socket (212,992), so that a few always fit
MAX_FDS = 4  # of one packet
_ROOM = socket.CMSG_SPACE(MAX_FDS * array("i").itemsize)

_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Received = Callable[[bytes, list[int]], None]


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, not blocking; closed in processes that are started unless they are handed over."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


class Channel:
    """One end.

    Args:
        end: the socket; closed with the channel.
        received: called with every packet and the descriptors that came with it, which are then the callee's.
        lost: called once when the other end is gone; not after `close`.
    """

    def __init__(self, end: socket.socket, received: Received, lost: Callable[[], None]) -> None:
        self._end = end
        self._received = received
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, Sequence[int]]] = deque()
        self._records: list[bytes] = []
        self._broken = False  # whether nobody reads at the other end
        self._blocked = False  # whether the loop says when there is room again
        self.closed = False
        self._loop.add_reader(end, self._read)

    def send(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        """Sends a packet of at most `MAX_PACKET` bytes now or as soon as there is room; the descriptors are closed."""
        self._flush()  # records that were noted before go before
        self._put(packet, fds)

    def note(self, record: bytes) -> None:
        """Sends a record together with the others of this turn of the event loop; all have the same length."""
        if not self._records:
            self._loop.call_soon(self._flush)
        self._records.append(record)

    def close(self) -> None:
        """Closes this end, without what still waits to be sent."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        self._end.close()
        for _, fds in self._waiting:
            close_all(fds)
        self._waiting.clear()
        self._records.clear()

    def _flush(self) -> None:
        if not self._records or self.closed:
            return
        records, self._records = self._records, []
        at_once = max(1, MAX_PACKET // len(records[0]))
        for first in range(0, len(records), at_once):
            self._put(b"".join(records[first : first + at_once]), ())

    def _put(self, packet: bytes, fds: Sequence[int]) -> None:
        if self.closed or self._broken:
            close_all(fds)
            return
        self._waiting.append((packet, fds))
        if len(self._waiting) == 1:
            self._write()

    def _write(self) -> None:
        while self._waiting:
            packet, fds = self._waiting[0]
            try:
                send(self._end, packet, fds)
            except BlockingIOError:
                self._blocked = True
                self._loop.add_writer(self._end, self._write)
                return
            except ConnectionError:  # nobody reads any more; the last packets from there are still to be read
                self._broken = True
            except OSError as error:  # more descriptors are under way than the system allows one user
                log.error("packet_lost", kind=packet[0], reason=str(error))
            self._waiting.popleft()
            close_all(fds)
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._end)

    def _read(self) -> None:
        # One packet: where more wait, the event loop calls again, and a second look would nearly always find none.
        try:
            packet, fds = receive(self._end)
        except BlockingIOError:
            return
        except OSError:
            self._hear_last_words()
            return
        if packet:
            self._received(packet, fds)
        else:
            self._lose()

    def _hear_last_words(self) -> None:
        """The other end closed and left packets unread, which is an error; its own last ones can still be read.

        All of them now: some event loops look no more at a socket that had an error.
        """
        with contextlib.suppress(OSError):
            while not self.closed and (heard := receive(self._end))[0]:
                self._received(*heard)
        self._lose()

    def _lose(self) -> None:
        if not self.closed:
            self.close()
            self._lost()


def send(end: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    """Sends one packet.

    Raises:
        OSError: as the socket.
    """
    if fds:
        socket.send_fds(end, [packet], list(fds))
    else:
        end.send(packet)


def receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its descriptors; empty when the other end is gone.

    Raises:
        OSError: as the socket.
    """
    packet, extra, _, _ = end.recvmsg(MAX_PACKET, _ROOM, _CLOSE_ON_EXEC)
    fds = array("i")
    for _, _, data in extra:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, fds.tolist()


def close_all(fds: Sequence[int]) -> None:
    """Closes descriptors."""
    for fd in fds:
        os.close(fd)
