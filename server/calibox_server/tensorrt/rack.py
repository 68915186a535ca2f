"""Things that are lent to one thread at a time, until the rack is closed."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from calibox_core.engines import EngineError

T = TypeVar("T")


class Rack(Generic[T]):
    """Lends each of ``things`` to one borrower at a time; the others wait.

    Args:
        things: at least one.
        name: of what they belong to, for the error.
    """

    def __init__(self, things: Iterable[T], name: str) -> None:
        self._all = tuple(things)
        self._free = list(self._all)
        self._name = name
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def lend(self) -> Iterator[T]:
        """One of the things; it is back when the block ends, however it ends.

        Raises:
            EngineError: the rack was closed before one was free.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            if self._closed:
                raise EngineError(f"{self._name} was closed")
            thing = self._free.pop()
        try:
            yield thing
        finally:
            with self._changed:
                self._free.append(thing)
                self._changed.notify_all()

    def close(self) -> None:
        """Lends nothing more, and waits until all are back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == len(self._all))
