"""How much memory a model takes: what its engine says, or how much this process grew while it was opened."""

import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from calibox_core.bundle import Bundle
from calibox_core.manifest import Manifest
from calibox_server.engine import Engine
from calibox_server.models import OpenEngine

_STATM = Path("/proc/self/statm")


@runtime_checkable
class KnowsItsMemory(Protocol):
    """An engine that holds memory which this process does not see, such as a GPU's."""

    @property
    def memory_bytes(self) -> int:
        """Bytes that it holds."""


def resident_bytes() -> int:
    """Memory of this process that lies in RAM; 0 where the system does not tell (it does on Linux)."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class MemoryMeter:
    """Measures engines from before they are opened until after they were warmed up, one at a time.

    The growth of the process is exact enough at start; of a model that is loaded beside requests it holds theirs too.
    """

    def __init__(self, open_engine: OpenEngine) -> None:
        self._open = open_engine
        self._before: dict[tuple[str, str], int] = {}

    def open(self, bundle: Bundle) -> Engine:
        """Opens an engine."""
        self._before[bundle.manifest.name, bundle.manifest.version] = resident_bytes()
        return self._open(bundle)

    def grown(self, manifest: Manifest, engine: Engine) -> int:
        """Bytes that the engine of this model takes, once it was warmed up."""
        before = self._before.pop((manifest.name, manifest.version), None)
        if isinstance(engine, KnowsItsMemory):
            return engine.memory_bytes
        return max(0, resident_bytes() - before) if before is not None else 0
