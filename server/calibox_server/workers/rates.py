"""What callers may still take, shared by all processes: so a rate holds whichever front end a connection is dealt to.

A table of buckets in shared memory, found by a hash of the caller's name, under a lock of the file system: the kernel
frees it where its holder ends.
"""

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator, Sequence

from calibox_server.rate import Bucket, Rate
from calibox_server.workers.shared import map_memory, new_memory

_CALLERS = 16_384  # buckets; as many as one process remembers, and room between them
_TRIED = 8  # neighbours that a caller may lie in; of these the one that was quiet longest is forgotten
_BUCKET = struct.Struct("<16sdd")  # hash of the name, tokens, when they were right
_FREE = bytes(16)


class SharedLimiter:
    """As `Limiter`, for all processes together.

    Args:
        fd: of the table; stays the caller's.
        rate: of every caller.
    """

    def __init__(self, fd: int, rate: Rate) -> None:
        self._fd = os.dup(fd)
        self._table = map_memory(fd)
        self._rate = rate

    @staticmethod
    def new_table() -> int:
        """The descriptor of an empty table."""
        return new_memory(_CALLERS * _BUCKET.size, "rates")

    def take(self, caller: str, count: int, now: float, *, owe: bool = False) -> float:
        """Takes ``count`` tokens of a caller, as `Bucket.take`."""
        name = hashlib.blake2b(caller.encode(), digest_size=16).digest()
        fcntl.lockf(self._fd, fcntl.LOCK_EX)  # for some microseconds
        try:
            at, bucket = self._find(name, now)
            wait = bucket.take(self._rate, count, owe=owe)
            _BUCKET.pack_into(self._table, at, name, bucket.tokens, bucket.filled)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
        return wait

    def _find(self, name: bytes, now: float) -> tuple[int, Bucket]:
        """Where a caller's bucket lies, and the bucket, filled."""
        first = int.from_bytes(name[:4], "little")
        places = [(first + i) % _CALLERS * _BUCKET.size for i in range(_TRIED)]
        known = [(at, *_BUCKET.unpack_from(self._table, at)) for at in places]
        for at, owner, tokens, filled in known:
            if owner == name:
                bucket = Bucket(tokens, filled)
                bucket.fill(self._rate, now)
                return at, bucket
        at = min(known, key=lambda row: (row[1] != _FREE, row[3]))[0]
        return at, Bucket(self._rate.burst, now)


class SharedLimiters:
    """Makes the limiters of one process, each on a table of its own.

    Args:
        tables: descriptors, in the order in which limiters are made.
    """

    def __init__(self, tables: Sequence[int]) -> None:
        self._tables: Iterator[int] = iter(tables)

    def make(self, rate: Rate) -> SharedLimiter:
        """The next one."""
        return SharedLimiter(next(self._tables), rate)
