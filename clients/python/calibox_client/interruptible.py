"""``asyncio.run`` for commands, which a Ctrl-C always ends."""

import asyncio
import signal
import socket
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def run_interruptible(main: Coroutine[Any, Any, _T]) -> _T:
    """Runs ``main`` in an event loop of its own, as `asyncio.run` does.

    The interpreter notices a signal between two instructions. One that comes between the last of them and the event
    loop's wait would be noticed only when the wait is over, which may be as late as the longest timeout. So signals
    also write to a socket that the event loop watches.

    Args:
        main: what to run.

    Returns: what it returned.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed and ``main`` has been cancelled.
    """
    return asyncio.run(_woken_by_signals(main))


async def _woken_by_signals(main: Coroutine[Any, Any, _T]) -> _T:
    loop = asyncio.get_running_loop()
    # Signals are the main thread's; the event loop of Windows watches a socket for them by itself.
    if threading.current_thread() is not threading.main_thread() or not isinstance(loop, asyncio.SelectorEventLoop):
        return await main
    heard, told = socket.socketpair()
    with heard, told:
        heard.setblocking(False)
        told.setblocking(False)
        loop.add_reader(heard, heard.recv, 4096)
        before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        try:
            return await main
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(heard)
