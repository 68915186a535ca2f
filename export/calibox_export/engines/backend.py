"""What `calibox build` asks of a runtime."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from calibox_core.bundle import Bundle
from calibox_core.engines import Runtime
from calibox_core.precision import Precision
from calibox_export.parity import Arrays, Graph


@dataclass(frozen=True, slots=True)
class Work:
    """An engine to be made."""

    bundle: Bundle
    precision: Precision
    calibration: Callable[[], Iterator[Arrays]]  # feeds of training images; raises EngineError where no data were named
    max_batch: int = 8  # for runtimes that plan for a largest batch
    targets: tuple[str, ...] = ()  # devices such as sm_89, for runtimes that build for others than this machine's
    embed_plugin: bool = False  # for TensorRT, whose plan can carry the operator's library


class Facts(NamedTuple):
    """What the record of an engine says of it besides its files."""

    needs: tuple[str, ...] = ()
    plugin_sha256: str | None = None


class Backend(Protocol):
    """A runtime that engines can be built for."""

    @property
    def runtime(self) -> Runtime:
        """Its name."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Of the engines that it can have."""

    def version(self) -> str:
        """Of the package.

        Raises:
            EngineError: it is not installed; the text says what installs it.
        """

    def check(self, precision: Precision) -> None:
        """Before anything is built.

        Raises:
            EngineError: this machine cannot build it, or has no use for it.
        """

    def write(self, work: Work, folder: Path) -> Facts:
        """Puts the engine's files into an empty folder.

        Raises:
            EngineError: it cannot be built.
        """

    def open(self, folder: Path, precision: Precision, *, as_served: bool = False) -> Graph | None:
        """The engine, to run here; None where it was built for another device than this machine has.

        Args:
            folder: of its files.
            precision: of the arithmetic.
            as_served: compile it as the server does by default, for one image and one thread, where that decides how
                a lower precision rounds.
        """
