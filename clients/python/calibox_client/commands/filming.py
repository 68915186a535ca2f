"""Videos and cameras: frames go through one stream, answers are printed or drawn into a copy of the video."""

import glob
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from calibox_client.client import Client
from calibox_client.commands.failures import tell
from calibox_client.commands.showing import counts, show_json
from calibox_client.images import open_upright
from calibox_client.progress import progress_bar
from calibox_client.streaming.answers import FrameAnswer
from calibox_client.video_files import Film, FilmWriter

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"})
_ADDRESSES = ("rtsp://", "rtsps://")

Source = str | int  # a file or an address, or the index of a camera


@dataclass(frozen=True, slots=True)
class Filming:
    """One video or camera."""

    source: Source
    copy: Path | None  # where the drawn video goes
    frames: int | None  # at most
    every: int

    @property
    def is_live(self) -> bool:
        """Whether frames come whether or not somebody is ready for them."""
        return isinstance(self.source, int) or self.source.startswith(_ADDRESSES)


def find_videos(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Videos that are named or that patterns match, each once, and the other arguments."""
    videos: dict[str, None] = {}
    others = []
    for argument in arguments:
        found = _videos(argument)
        videos.update(dict.fromkeys(found))
        if not found:
            others.append(argument)
    return list(videos), others


def save_path(source: Source, folder: Path | None, sources: Sequence[Source]) -> Path | None:
    """Where a drawn video goes.

    Raises:
        ValueError: it would overwrite its source, or two videos share a name.
    """
    if folder is None:
        return None
    target = folder / _name(source)
    if isinstance(source, str) and target.resolve() == Path(source).resolve():
        raise ValueError(f"--save {folder} would overwrite the video {target}; choose another folder")
    same = [other for other in sources if _name(other) == target.name]
    if len(same) > 1:
        raise ValueError(f"{same[0]} and {same[1]} would both be saved as {target}; save them apart")
    return target


def show_video(client: Client, filming: Filming, parameters: Mapping[str, Any], *, as_json: bool) -> bool:
    """Asks about the frames and shows the answers; returns whether every frame was answered well.

    Raises:
        CaliboxClientError: the stream ended early; what was drawn so far is kept.
        OSError: the video cannot be read, or its copy not be written.
    """
    answered = failed = 0
    with (
        Film(filming.source, every=filming.every, most=filming.frames) as film,
        FilmWriter(filming.copy, film.frames_per_second / filming.every) as writer,
        progress_bar(f"frames of {filming.source}", film.frame_count) as advance,
        closing(client.stream(film.frames(), live=filming.is_live, **parameters)) as answers,
    ):
        for answer in answers:
            _show_frame(filming, film, answer, as_json=as_json)
            writer.write(_drawn(answer), times=1 + answer.dropped)
            answered, failed = answered + 1, failed + (answer.error is not None)
            advance()
    if filming.copy is not None and not as_json:
        typer.echo(f"{_called(filming.source)}: {answered} frames, drawn in {filming.copy}")
    return failed == 0 and answered > 0


def _show_frame(filming: Filming, film: Film, answer: FrameAnswer, *, as_json: bool) -> None:
    number = answer.number * filming.every
    seconds = number / film.frames_per_second
    name = f"{_called(filming.source)} frame {number} ({seconds:.2f} s)"
    if answer.found is None:
        tell(f"{name}: {answer.error}")
    elif as_json:
        dropped = {"dropped": answer.dropped} if filming.is_live else {}
        show_json({"video": filming.source, "frame": number, "seconds": round(seconds, 3), **dropped}, answer.found)
    elif filming.copy is None:
        typer.echo(f"{name}: {counts(answer.found)}")


def _drawn(answer: FrameAnswer) -> Any:
    return answer.image if answer.found is None else answer.found.draw(open_upright(answer.image))


def _called(source: Source) -> str:
    return f"camera {source}" if isinstance(source, int) else source


def _name(source: Source) -> str:
    """The name of a drawn copy: that of the file, or of what has none."""
    if isinstance(source, int):
        return f"camera-{source}.mp4"
    return "stream.mp4" if source.startswith(_ADDRESSES) else Path(source).with_suffix(".mp4").name


def _videos(argument: str) -> list[str]:
    if argument.startswith(_ADDRESSES):
        return [argument]
    # (Path.glob takes no absolute patterns.)
    matches = [argument] if Path(argument).is_file() else sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
    return [match for match in matches if Path(match).suffix.lower() in SUFFIXES]
