"""The whole server but for HTTP, in an actor of Ray: files in, and what `POST /v1/detect` would have answered.

An outcome is a status and a body, the problem document where the status is no 200, so that whoever reads answers of a
server reads these with the same code.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from numpy.typing import NDArray
from ray import get_runtime_context

from calibox_server import errors
from calibox_server.engine_runner import clock
from calibox_server.errors import OverloadedError, ServiceError, UnreadableImageError
from calibox_server.logs import configure_logs
from calibox_server.on_ray.shares import settings_of_share
from calibox_server.parameters import Given
from calibox_server.requests import DetectRequest, ImagePart
from calibox_server.service import Service
from calibox_server.settings import Settings

OK = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file."""

    status: int  # as HTTP would have said
    body: bytes  # JSON


class Detector:
    """Called by Ray Data with batches of files.

    Args:
        options: settings, as `calibox serve` takes them; ``models`` names the bundle.
        given: parameters of every image.
    """

    def __init__(self, options: Mapping[str, Any], given: Given) -> None:
        assigned: dict[str, float] = get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        self._files = Files(settings_of_share(options, assigned), given)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Adds ``status`` and ``body`` to a batch with ``place`` and ``path``."""
        found = self._files.detect([Path(path) for path in batch["path"]])
        return {"place": batch["place"], "status": [o.status for o in found], "body": [o.body for o in found]}


class Files:
    """Detects on files, many at a time.

    Args:
        settings: of the service.
        given: parameters of every image.
    """

    def __init__(self, settings: Settings, given: Given) -> None:
        configure_logs(settings)
        self._service = Service.load(settings)
        self._given = given
        self._loop = asyncio.Runner()

    def detect(self, paths: Sequence[Path]) -> list[Outcome]:
        """One outcome per file; the images of all of them share the engine's batches."""
        return self._loop.run(self._detect_all(paths))

    def close(self) -> None:
        """Closes the engine."""
        self._loop.run(self._service.close())
        self._loop.close()

    async def _detect_all(self, paths: Sequence[Path]) -> list[Outcome]:
        found = await asyncio.gather(*[self._detect(path) for path in paths])
        # Tiles of several images may be more than the queue takes at once; alone each image has all of it.
        return [o if o.status != OverloadedError.status else await self._detect(paths[i]) for i, o in enumerate(found)]

    async def _detect(self, path: Path) -> Outcome:
        try:
            data = await asyncio.to_thread(path.read_bytes)
            if not data:
                raise UnreadableImageError("the file is empty")
            answer = await self._service.answer(DetectRequest([ImagePart(data, "the image")], self._given), clock())
        except OSError as error:
            return _problem(UnreadableImageError(f"the file cannot be read: {error.strerror or error}"))
        except ServiceError as error:
            return _problem(error)
        return Outcome(OK, answer.body)


def _problem(error: ServiceError) -> Outcome:
    return Outcome(error.status, orjson.dumps(errors.problem(error, "")))
