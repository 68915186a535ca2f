"""What `calibox detect --ray` does: every image of a large set into a file of JSON lines, without a server."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from calibox_client.commands.asking import STANDARD_INPUT, about_the_whole_call
from calibox_client.commands.failures import CommandError, tell
from calibox_client.commands.filming import find_videos
from calibox_client.commands.lines_file import LinesFile
from calibox_client.errors import ApiError, CaliboxClientError
from calibox_client.offline import Offline
from calibox_client.picture_files import PictureFile, find_pictures
from calibox_client.progress import progress_bar
from calibox_client.results import Detections
from calibox_core.bundle import read_bundle


@dataclass(frozen=True, slots=True)
class OfflineAsked:
    """The command line."""

    images: Sequence[str]
    output: Path
    offline: Offline
    parameters: Mapping[str, Any]


def detect_offline(asked: OfflineAsked) -> int:
    """Writes a line for every image, in their order; returns how many failed.

    Raises:
        CommandError: it cannot start, or nothing would fare better than what failed.
        typer.Exit: with status 130 after an interruption.
    """
    pictures, unknown = _pictures(asked.images)
    for sentence in unknown:
        tell(sentence)
    try:
        failed = len(unknown) + _write(asked, pictures)
    except KeyboardInterrupt:
        typer.secho("interrupted; the same command goes on where this one stopped", err=True)
        raise typer.Exit(130) from None  # 128 + SIGINT, as shells say it
    typer.echo(f"{len(pictures)} images, their detections in {asked.output}")
    if failed:
        tell(f"{failed} of {len(unknown) + len(pictures)} failed")
    return failed


def _pictures(images: Sequence[str]) -> tuple[list[PictureFile], list[str]]:
    videos, names = find_videos(images)
    if videos or STANDARD_INPUT in names:
        other = videos[0] if videos else "standard input"
        raise CommandError(f"--ray takes image files, and {other} is none; leave --ray out for it")
    return find_pictures(names)


def _write(asked: OfflineAsked, pictures: Sequence[PictureFile]) -> int:
    with LinesFile(asked.output, _fingerprint(asked, pictures)) as lines:
        left, failed = pictures[lines.done :], lines.failed
        found = asked.offline.detect([picture.path for picture in left], asked.parameters)
        with closing(found), progress_bar("images", len(pictures), done=lines.done, prints=False) as advance:
            for picture, result in zip(left, found, strict=True):
                lines.add(_line(picture, result))
                failed += isinstance(result, CaliboxClientError)
                advance()
        lines.finish()
    return failed


def _line(picture: PictureFile, result: Detections | CaliboxClientError) -> dict[str, Any]:
    """What `calibox detect --json` prints, or why there is nothing to print.

    Raises:
        CommandError: no other image would fare better.
    """
    if isinstance(result, Detections):
        return {"image": str(picture.path), **result.as_json()}
    if about_the_whole_call(result):
        raise CommandError(str(result)) from result
    tell(f"{picture.path}: {result}")
    code = result.code if isinstance(result, ApiError) else "unknown"
    return {"image": str(picture.path), "error": str(result), "code": code}


def _fingerprint(asked: OfflineAsked, pictures: Sequence[PictureFile]) -> dict[str, Any]:
    """Of what decides about the lines."""
    manifest = read_bundle(asked.offline.bundle).manifest
    names = json.dumps([str(picture.path) for picture in pictures])
    parameters = {name: value for name, value in asked.parameters.items() if name != "timeout_ms"}
    images = hashlib.sha256(names.encode()).hexdigest()
    return {"bundle": dict(manifest.files), "parameters": parameters, "images": images}
