"""Ctrl-C at the worst moment: after the interpreter looked for signals and before the event loop waits."""

import asyncio
import ctypes
import operator
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import partial

import pytest

from calibox_client.interruptible import run_interruptible

WAIT_S = 5.0  # of a loop that noticed nothing
_raise_in_c = ctypes.CDLL(None)["raise"]  # unlike `os.kill`, it does not look for signals itself


class SignalJustBeforeWait(selectors.EpollSelector):
    """Its first long wait begins with a SIGINT, with no instruction of the interpreter between the two."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout < WAIT_S / 2:
            return super().select(timeout)
        poll = self._selector.poll  # type: ignore[attr-defined]
        calls = (partial(_raise_in_c, signal.SIGINT), partial(poll, timeout, 64))
        found: deque[list[tuple[int, int]]] = deque(map(operator.call, calls), 1)
        return [(self.get_map()[fd], event) for fd, event in found[0]]


@pytest.fixture
def signal_just_before_wait(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(selectors, "DefaultSelector", SignalJustBeforeWait)
    before = signal.set_wakeup_fd(-1)  # whatever another test left
    yield
    signal.set_wakeup_fd(before)


@pytest.mark.usefixtures("signal_just_before_wait")
def test_ctrl_c_just_before_the_loop_waits_ends_it_at_once() -> None:
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(asyncio.sleep(WAIT_S))
    assert time.perf_counter() - start < WAIT_S / 2


@pytest.mark.usefixtures("signal_just_before_wait")
def test_without_it_the_same_ctrl_c_comes_when_the_wait_is_over() -> None:
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(asyncio.sleep(WAIT_S))
    assert time.perf_counter() - start > WAIT_S / 2


def test_what_it_ran_comes_back_and_the_signals_socket_goes() -> None:
    async def answer() -> int:
        return 7

    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    assert run_interruptible(answer()) == 7
    assert signal.set_wakeup_fd(before) == before


def test_other_threads_which_get_no_signals_may_use_it() -> None:
    found: list[int] = []

    async def answer() -> int:
        return 7

    thread = threading.Thread(target=lambda: found.append(run_interruptible(answer())))
    thread.start()
    thread.join()
    assert found == [7]
