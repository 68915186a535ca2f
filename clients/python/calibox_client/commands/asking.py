"""What `calibox detect` does: images several at a time, then videos, then the camera."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibox_client.client import Client
from calibox_client.commands.failures import CommandError, command_error, tell, tell_of_retry
from calibox_client.commands.filming import Filming, Source, find_videos, save_path, show_video
from calibox_client.commands.showing import show
from calibox_client.errors import (
    ApiError,
    BadReplyError,
    CaliboxClientError,
    MissingPackageError,
    ServerUnreachableError,
)
from calibox_client.images import ImageInput
from calibox_client.options import key_headers
from calibox_client.picture_files import find_pictures, plan_copies, save_whole
from calibox_client.progress import progress_bar
from calibox_client.results import Detections

STANDARD_INPUT = "-"
# Refusals of the whole call: with these no other image would fare better.
_NOT_ABOUT_THE_IMAGE = frozenset({"invalid_parameter", "unknown_model", "unauthorized"})


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line."""

    images: Sequence[str]
    camera: int | None
    server: str
    save: Path | None
    as_json: bool
    frames: int | None
    every: int
    concurrency: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """One image, what it is called, and where its drawn copy goes."""

    name: str
    image: ImageInput
    copy: Path | None


def ask_about(asked: Asked) -> int:
    """Asks about everything that the command line names; returns how many images and videos failed.

    Raises:
        CommandError: it cannot start, or nothing would fare better than what failed.
    """
    with _as_command_errors():
        videos, others = find_videos(asked.images)
        names = [name for name in others if name != STANDARD_INPUT]
        pictures, unknown = find_pictures(names)
        copies = plan_copies(pictures, asked.save) if asked.save is not None else {}
        items = [Item(str(picture.path), picture.path, copies.get(picture.path)) for picture in pictures]
        if STANDARD_INPUT in others:
            items.append(_standard_input(asked.save, list(copies.values())))
        sources: list[Source] = [*videos, *([] if asked.camera is None else [asked.camera])]
        filmings = [
            Filming(source, save_path(source, asked.save, videos), asked.frames, asked.every) for source in sources
        ]
        client = Client(asked.server, headers=key_headers(), on_retry=tell_of_retry)
    for sentence in unknown:
        tell(sentence)
    with client:
        failed = len(unknown) + _ask_about_images(client, items, asked)
        for filming in filmings:
            with _as_command_errors():
                failed += not show_video(client, filming, asked.parameters, as_json=asked.as_json)
    if failed:
        tell(f"{failed} of {len(unknown) + len(items) + len(filmings)} failed")
    return failed


def _standard_input(save: Path | None, taken: Sequence[Path]) -> Item:
    copy = save / "stdin.png" if save is not None else None
    if copy in taken:
        raise CommandError(f"an image and standard input would both be saved as {copy}; save them apart")
    return Item(STANDARD_INPUT, sys.stdin.buffer.read(), copy)


def _ask_about_images(client: Client, items: Sequence[Item], asked: Asked) -> int:
    """How many failed; what did is told on standard error."""
    failed = 0
    images = (item.image for item in items)
    results = client.detect_many(images, concurrency=asked.concurrency, on_error="return", **asked.parameters)
    with closing(results), progress_bar("images", len(items)) as advance:
        for item, result in zip(items, results, strict=True):
            failed += not _finish(item, result, as_json=asked.as_json)
            advance()
    return failed


def _finish(item: Item, result: Detections | CaliboxClientError, *, as_json: bool) -> bool:
    """Whether it went well.

    Raises:
        CommandError: the server cannot be reached or refuses the parameters, whatever the image.
    """
    try:
        if isinstance(result, CaliboxClientError):
            raise result
        if item.copy is not None:
            save_whole(result.draw(item.image), item.copy)
    except (ServerUnreachableError, BadReplyError) as error:
        raise command_error(error) from error
    except (CaliboxClientError, OSError) as error:
        if about_the_whole_call(error):
            raise CommandError(str(error)) from error
        tell(f"{item.name}: {error}")
        return False
    show(item.name, result, item.copy, as_json=as_json)
    return True


def about_the_whole_call(error: Exception) -> bool:
    """Whether no other image would fare better."""
    return isinstance(error, ApiError) and error.code in _NOT_ABOUT_THE_IMAGE


@contextmanager
def _as_command_errors() -> Iterator[None]:
    """What a person can mend becomes a sentence."""
    try:
        yield
    except (CaliboxClientError, MissingPackageError, OSError, ValueError) as error:
        raise command_error(error) from error
