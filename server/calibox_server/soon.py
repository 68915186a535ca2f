"""Work of one image whose caller is called when it is done, where others wait in a task."""

from collections.abc import Callable
from typing import Generic, TypeVar

from calibox_server.batcher import Batcher
from calibox_server.engine_runner import RawDetections, Work
from calibox_server.queue import Priority, Reply

A = TypeVar("A")


class Soon(Generic[A]):
    """Admitted work on its way through a batcher; takes the place of a task and its future.

    Args:
        batcher: that runs it.
        work: of one image.
        finish: what the engine found to what the caller wants; what it raises, the caller is told.
        reply: the caller.
    """

    __slots__ = ("_batcher", "_end", "_finish", "_over", "_reply", "_work")

    def __init__(
        self,
        batcher: Batcher[Work, RawDetections],
        work: Work,
        finish: Callable[[RawDetections], A],
        reply: Reply[A],
    ) -> None:
        self._batcher = batcher
        self._work = work
        self._finish = finish
        self._reply = reply
        self._over = False
        self._end: Callable[[], None] | None = None

    def start(self, *, deadline: float, priority: Priority) -> None:
        """Takes a place and waits; the reply may be called before this returns.

        Raises:
            OverloadedError, StoppingError: as `Door.check`; the reply is not called.
        """
        self._batcher.take(1, priority=priority)
        try:
            end = self._batcher.hold(self._work, self, deadline=deadline, priority=priority)
        except BaseException:
            self._batcher.give_back(1)
            raise
        if self._over:
            end()
        else:
            self._end = end

    def done(self) -> bool:
        """As a future's."""
        return self._over

    def set_result(self, raw: RawDetections, /) -> None:
        """As a future's."""
        self._leave()
        try:
            found = self._finish(raw)
        except Exception as error:
            self._reply.set_exception(error)
        else:
            self._reply.set_result(found)

    def set_exception(self, exception: BaseException, /) -> None:
        """As a future's."""
        self._leave()
        self._reply.set_exception(exception)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if not self._over:
            self._work.unwanted = True  # it may have been handed over already
            self._leave()

    def _leave(self) -> None:
        self._over = True
        end, self._end = self._end, None  # what it holds refers back: the image's bytes would wait for the collector
        if end is not None:
            end()
        self._batcher.give_back(1)
