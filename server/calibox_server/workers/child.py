"""The start of a process that the supervisor started: its socket, what it is told, and that it ends with it."""

import ctypes
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from calibox_core.errors import CaliboxError
from calibox_server.settings import Settings
from calibox_server.workers import messages
from calibox_server.workers.channel import receive, send
from calibox_server.workers.messages import head, read_head
from calibox_server.workers.shared import new_text, read_document

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


@dataclass(frozen=True, slots=True)
class Start:
    """What a process is told."""

    end: socket.socket  # to the supervisor; not blocking
    settings: Settings
    process: int  # 0 is the engine process, front ends count from 1
    processes: int
    port: int
    first_model: int  # of the engine process: its first number for a model
    places: int  # descriptor of the page
    rates: tuple[int, ...]  # descriptors of the tables of rates


def run_child(serve: Callable[[Start], None]) -> None:
    """Runs a process until it was told to end; what it cannot start with is told to the supervisor."""
    end = socket.socket(fileno=int(sys.argv[1]))
    _end_with(int(sys.argv[2]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # service managers tell every process at once; the supervisor says when
    start = _read(end)
    try:
        serve(start)
    except CaliboxError as error:
        start.end.setblocking(True)
        send(start.end, head(messages.FAILED), [new_text(str(error).encode())])
        sys.exit(1)


def _end_with(parent: int) -> None:
    """Asks the system to end this process with its parent."""
    set_option = getattr(ctypes.CDLL(None), "prctl", None)
    if set_option is not None:
        set_option(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(1)


def _read(end: socket.socket) -> Start:
    select.select([end], [], [])
    packet, fds = receive(end)
    if not packet:
        sys.exit(1)
    _, process = read_head(packet)
    document, places, *rates = fds
    told: dict[str, Any] = read_document(document)
    end.setblocking(False)
    settings = Settings(**told.pop("settings"))
    return Start(end=end, settings=settings, process=process, places=places, rates=tuple(rates), **told)
