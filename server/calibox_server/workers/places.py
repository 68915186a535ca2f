"""How many places of each model's queue every process holds: one page of counters, each with a single writer.

Everybody sums. Of two processes that look in the same moment both may take the last place: with n processes at most
n - 1 places too many are taken, and admission needs no lock.
"""

from calibox_server.door import Held
from calibox_server.workers.shared import map_memory, new_memory

# Rows of the page. A model's is used again after so many loads, when nobody holds places of the old one any more.
ROWS = 1024
_CELL = 8  # bytes; written at once


class Places:
    """The page as one process sees it.

    Args:
        fd: of the memory; not needed any more afterwards.
        columns: processes.
        own: this process's column.
    """

    def __init__(self, fd: int, columns: int, own: int) -> None:
        self._cells = memoryview(map_memory(fd)).cast("q")
        self._columns = columns
        self._own = own

    @staticmethod
    def new(columns: int) -> int:
        """The descriptor of an empty page."""
        return new_memory(ROWS * columns * _CELL, "places")

    def write(self, row: int, count: int) -> None:
        """Tells how many places this process holds."""
        self._cells[row * self._columns + self._own] = count

    def sum(self, row: int) -> int:
        """Places that all processes hold."""
        return sum(self._cells[row * self._columns : (row + 1) * self._columns])

    def forget(self, column: int) -> None:
        """A process ended, and holds nothing any more."""
        for row in range(ROWS):
            self._cells[row * self._columns + column] = 0


class SharedHeld(Held):
    """The places of one model.

    Args:
        places: the page.
        model: the number that its engine process gave it.
    """

    def __init__(self, places: Places, model: int) -> None:
        super().__init__()
        self._places = places
        self.model = model
        places.write(model % ROWS, 0)

    def change(self, by: int) -> None:
        """Takes places, or gives them back, for all to see."""
        self.own += by
        self._places.write(self.model % ROWS, self.own)

    def move(self, model: int) -> None:
        """Another engine process gave the model another number."""
        self._places.write(self.model % ROWS, 0)
        self.model = model
        self._places.write(model % ROWS, self.own)

    @property
    def all(self) -> int:
        """By every process."""
        return self._places.sum(self.model % ROWS)
