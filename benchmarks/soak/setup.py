"""What a step is told."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from calibox_core.bundle import Bundle, find_bundles, read_bundle


@dataclass(frozen=True)
class Setup:
    """The server under test, and how much is asked of it."""

    models: Path  # folder of one bundle
    scratch: Path  # for what steps write
    serve: tuple[str, ...] = ()  # further options of `calibox serve`
    images: Path | None = None  # folder of JPEG files; parts of the bundle's example without one
    seconds: float = 20.0  # of one segment of load
    requests: int = 100_000
    bodies: int = 200_000  # damaged ones
    changes: int = 200  # reloads, and as many that fail
    goodput: float = 0.95  # least share of capacity at twice the load
    seed: int = 0

    @cached_property
    def bundle(self) -> Bundle:
        """The only one."""
        folders = find_bundles(self.models)
        if len(folders) != 1:
            raise ValueError(f"{self.models} holds {len(folders)} bundles; name the folder of one with --bundle")
        return read_bundle(folders[0])
