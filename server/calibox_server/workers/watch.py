"""Processes that hang are killed; what follows is the supervisor's, as for any that ends."""

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog

from calibox_server.workers import messages
from calibox_server.workers.children import Child, Pulse
from calibox_server.workers.messages import head

log = structlog.get_logger()

PINGS = 8  # within the time after which a process is taken for hung
LONGEST_PAUSE_S = 5.0


async def watch(children: Callable[[], Iterable[Child]], limit: float) -> None:
    """Asks every process for a sign of life, for ever.

    Args:
        children: those that run.
        limit: seconds that one may owe its answer, and that one run of an engine may take.
    """
    pause = min(limit / PINGS, LONGEST_PAUSE_S)
    before = time.monotonic()
    while True:
        await asyncio.sleep(pause)
        now = time.monotonic()
        late, before = now - before > 2 * pause, now
        for child in children():
            if late:  # this process stood still itself, with all the others perhaps
                child.pulse.asked = None
            look_at(child, now, limit)


def look_at(child: Child, now: float, limit: float) -> None:
    """Kills a process that hangs, and asks one that owes no answer."""
    if reason := child.pulse.hangs(now, limit):
        log.error("process_hung", process=child.name, reason=reason)
        child.process.kill()
        child.pulse = Pulse()
    elif child.ready and child.pulse.asked is None:
        child.pulse.asked = now
        child.channel.send(head(messages.PING))
