"""Memory that processes share, named by a descriptor alone, so that it is gone with the last of them."""

import mmap
import os
import socket
import sys
from typing import Any

import orjson

from calibox_core.errors import CaliboxError


def check_system() -> None:
    """Raises CaliboxError where the system lacks what several processes need."""
    if not (hasattr(os, "memfd_create") and hasattr(socket, "SOCK_SEQPACKET")):
        raise CaliboxError(f"http_workers above 1 needs Linux, and this is {sys.platform}; leave --http-workers out")


def new_memory(size: int, name: str) -> int:
    """The descriptor of ``size`` zero bytes; pages that nobody writes take no memory."""
    fd = os.memfd_create(f"calibox-{name}")
    os.truncate(fd, size)
    return fd


def map_memory(fd: int) -> mmap.mmap:
    """The bytes of a descriptor, which stays open."""
    return mmap.mmap(fd, os.fstat(fd).st_size)


def new_document(document: Any) -> int:
    """The descriptor of memory that holds a JSON document: of any length, unlike a packet."""
    return new_text(orjson.dumps(document))


def new_text(text: bytes) -> int:
    """The descriptor of memory that holds ``text``."""
    fd = os.memfd_create("calibox-text")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(text)
    return fd


def read_text(fd: int) -> bytes:
    """What `new_text` was given; the descriptor is closed."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)  # the position is shared with whoever wrote it
        return file.read()


def read_document(fd: int) -> Any:
    """What `new_document` was given; the descriptor is closed."""
    return orjson.loads(read_text(fd))
