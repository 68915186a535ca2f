"""A pool of input images, so that steady traffic allocates none."""

from collections import deque
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Slot = NDArray[np.uint8]


class Slots(Protocol):
    """Where images are put for the engine; any thread may take and give."""

    def take(self) -> Slot:
        """A slot with whatever pixels it had, uint8 ``[height, width, 3]``."""

    def give(self, slot: Slot) -> None:
        """Takes a slot back; its giver uses it no more. Memory that is somebody else's is let go."""


class SlotPool:
    """Hands out uint8 arrays ``[height, width, 3]``; any thread may take and give.

    A slot that is never given back is only one allocation more: the pool keeps free ones, not lent ones.

    Args:
        height, width: of every slot.
        keep: most free slots that are kept.
    """

    def __init__(self, *, height: int, width: int, keep: int) -> None:
        self._shape = (height, width, 3)
        self._free: deque[Slot] = deque(maxlen=keep)  # its operations are atomic

    def take(self) -> Slot:
        """A slot with whatever pixels it had."""
        try:
            return self._free.pop()  # the last one given is the likeliest to be in the cache
        except IndexError:
            return np.empty(self._shape, np.uint8)

    def give(self, slot: Slot) -> None:
        """Takes a slot back; its giver uses it no more. A view of memory that is somebody else's is let go."""
        if slot.base is None:
            self._free.append(slot)
