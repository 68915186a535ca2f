"""The processes below the supervisor: how one is started, and when it is started again."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from calibox_server.workers.channel import Channel, pair

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
HEALTHY_S = 30.0  # whoever lived so long is not in a loop of crashes
ENGINE = 0  # number of the engine process; front ends count from 1


@dataclass(slots=True)
class Patience:
    """How long to wait before a process is started again: each time twice as long, unless it lived well. Pure."""

    pause: float = field(default=FIRST_PAUSE_S)

    def after(self, lived: float) -> float:
        """The pause, in seconds, after a process that lived so many seconds."""
        if lived >= HEALTHY_S:
            self.pause = FIRST_PAUSE_S
        pause, self.pause = self.pause, min(LONGEST_PAUSE_S, 2 * self.pause)
        return pause


@dataclass(slots=True)
class Pulse:
    """Whether a process lives: it is asked, and answers when its event loop turns. Pure; times in seconds."""

    asked: float | None = None  # since when an answer is owed
    run: float = 0.0  # how long an engine's oldest run had been going on at the last answer

    def answered(self, run: float) -> None:
        """It lives."""
        self.asked, self.run = None, run

    def hangs(self, now: float, limit: float) -> str:
        """Why it is taken for hung; empty where it is not."""
        if self.asked is not None and now - self.asked > limit:
            return f"no sign of life for {now - self.asked:.1f} s"
        if self.run > limit:
            return f"a run of an engine has been going on for {self.run:.1f} s"
        return ""


@dataclass(slots=True, eq=False)
class Child:
    """One process."""

    number: int
    process: subprocess.Popen[bytes]
    channel: Channel
    started: float
    ready: bool = False
    drained: bool = False
    metrics: str = ""  # as it told last
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def name(self) -> str:
        """For people."""
        return name_of(self.number)


def name_of(number: int) -> str:
    """What a process is called in logs and metrics."""
    return "engine" if number == ENGINE else f"front-{number}"


def start(
    number: int,
    now: float,
    received: Callable[[Child, bytes, list[int]], None],
    lost: Callable[[Child], None],
) -> Child:
    """Starts a process in a fresh interpreter; it waits to be told what it is.

    Args:
        number: of the process.
        now: the time.
        received, lost: as for `Channel`, with the process in front.
    """
    ours, theirs = pair()
    with theirs:
        process = subprocess.Popen(
            _command(number, theirs.fileno()),
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl+C reaches the supervisor alone, which says in which order all stop
        )
    child: Child
    channel = Channel(ours, lambda packet, fds: received(child, packet, fds), lambda: lost(child))
    child = Child(number, process, channel, now)
    return child


def _command(number: int, fd: int) -> Sequence[str]:
    module = "engine" if number == ENGINE else "front"
    # -P: what lies in the folder of whoever started the server is not imported.
    return [sys.executable, "-P", "-m", f"calibox_server.workers.{module}", str(fd), str(os.getpid())]
