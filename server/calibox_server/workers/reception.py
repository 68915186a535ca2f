"""Where connections are accepted and dealt out to the front ends.

The supervisor accepts, and sends each connection's descriptor on: with one queue for all of them, whichever front end
wakes first takes several, and connections that stay open pile up on it. It keeps a descriptor of its own until the
front end has told that it received the connection, which it does before it reads from it: one that ends earlier has
touched nothing, and another gets the connection.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable

import structlog

from calibox_server.listener import BACKLOG
from calibox_server.workers import messages
from calibox_server.workers.channel import Channel
from calibox_server.workers.dealer import Dealer
from calibox_server.workers.messages import head

log = structlog.get_logger()

AT_ONCE = 64  # connections that are accepted before the event loop may turn to something else
PAUSE_S = 1.0  # without accepting, where the system gives no more descriptors; as asyncio does


class Reception:
    """Accepts as long as there is somebody to deal to; meanwhile callers wait in the kernel's queue.

    Args:
        listener: bound, not blocking.
        channel_of: of a front end.
    """

    def __init__(self, listener: socket.socket, channel_of: Callable[[int], Channel]) -> None:
        self.dealer = Dealer()
        self._listener = listener
        self._channel_of = channel_of
        self._open = self._accepting = False
        self._under_way: dict[int, deque[socket.socket]] = {}  # to each front end, in the order in which they were sent
        self._orphans: deque[socket.socket] = deque()  # their front end ended before it received them

    def open(self) -> None:
        """Listens from now on."""
        self._listener.listen(BACKLOG)
        self._open = True
        self._watch()

    def close(self) -> None:
        """Listens no more; what is under way still arrives."""
        self._open = False
        self._watch()
        self._listener.close()
        for caller in (*self._orphans, *(caller for sent in self._under_way.values() for caller in sent)):
            caller.close()
        self._orphans.clear()
        self._under_way = {front: deque() for front in self._under_way}

    def join(self, front: int) -> None:
        """A front end takes connections."""
        self.dealer.join(front)
        self._under_way[front] = deque()
        self._deal_orphans()
        self._watch()

    def told(self, front: int, received: int, opened: int) -> None:
        """A front end tells how many connections it has received, and has open."""
        self.dealer.told(front, received, opened)
        under_way = self._under_way.get(front)
        while under_way and len(under_way) > self.dealer.hands[front].under_way:
            under_way.popleft().close()

    def leave(self, front: int) -> None:
        """A front end ended; another gets what it had not received."""
        self.dealer.leave(front)
        self._orphans += self._under_way.pop(front, ())
        self._deal_orphans()
        self._watch()

    def _watch(self) -> None:
        wanted = self._open and bool(self.dealer.hands)
        if wanted and not self._accepting:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)
        elif self._accepting and not wanted:
            asyncio.get_running_loop().remove_reader(self._listener)
        self._accepting = wanted

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                caller, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors are left
                log.error("accept_failed", reason=str(error))
                asyncio.get_running_loop().remove_reader(self._listener)
                self._accepting = False
                asyncio.get_running_loop().call_later(PAUSE_S, self._watch)
                return
            self._deal(caller)

    def _deal_orphans(self) -> None:
        while self._orphans and self.dealer.hands:
            self._deal(self._orphans.popleft())

    def _deal(self, caller: socket.socket) -> None:
        try:
            sent = os.dup(caller.fileno())
        except OSError as error:  # no descriptors are left
            log.error("connection_dropped", reason=str(error))
            caller.close()
            return
        front = self.dealer.deal()
        self._under_way[front].append(caller)
        self._channel_of(front).send(head(messages.CONNECTION), [sent])
