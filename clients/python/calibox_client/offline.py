"""Detection on files without a server, where a room of calibox is installed that can: the entry points of `GROUP`.

What it tells of a file is what a server would have answered, a status and a body, and is read by the same code.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from calibox_client.errors import CaliboxClientError, MissingPackageError
from calibox_client.replies import Reply, read_detections
from calibox_client.results import Detections

GROUP = "calibox.offline"


class DetectFiles(Protocol):
    """What an entry point of `GROUP` names."""

    def __call__(
        self,
        paths: Sequence[Path],
        *,
        bundle: Path,
        parameters: Mapping[str, Any],
        actors: int | None,
        cores: int,
        gpus: float,
    ) -> Generator[tuple[int, bytes]]:
        """Status and body of every file, in the order of the files."""


@dataclass(frozen=True, slots=True)
class Offline:
    """Actors that hold a bundle.

    Attributes:
        bundle: folder of one version of one model.
        actors: how many; as many as there is room for where None.
        cores, gpus: of each.
    """

    bundle: Path
    actors: int | None = None
    cores: int = 1
    gpus: float = 0.0

    def detect(
        self, paths: Sequence[Path], parameters: Mapping[str, Any]
    ) -> Generator[Detections | CaliboxClientError]:
        """What was found in each file, or why nothing was, in the order of the files.

        Raises:
            MissingPackageError: nothing is installed that can.
        """
        detect_files = find("ray")
        found = detect_files(
            paths, bundle=self.bundle, parameters=parameters, actors=self.actors, cores=self.cores, gpus=self.gpus
        )
        with closing(found):
            for status, body in found:
                yield read(status, body)


def find(name: str) -> DetectFiles:
    """The function of this name.

    Raises:
        MissingPackageError: nobody offers it.
    """
    for entry in entry_points(group=GROUP, name=name):
        found: DetectFiles = entry.load()
        return found
    raise MissingPackageError(f"nothing here detects with {name}; install it with: pip install 'calibox[{name}]'")


def read(status: int, body: bytes) -> Detections | CaliboxClientError:
    """What a status and a body say of one image."""
    try:
        return read_detections(Reply(status, {}, body), images=1)[0]
    except CaliboxClientError as error:
        return error
