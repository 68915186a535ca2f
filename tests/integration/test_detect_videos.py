"""`calibox detect` of videos, a camera and standard input, against a real server."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calibox_client import Client
from calibox_client.commands import filming
from calibox_client.video_files import Film, FilmWriter
from tests.support.command_line import CommandLine
from tests.support.live_server import live_server

LOW = ("--score-threshold", "0.1")
FRAMES = 9
SIZE = (96, 64)


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    with live_server(models) as address:
        yield address


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A bar that moves to the right, 10 frames per second."""
    path = tmp_path / "bar.mp4"
    with FilmWriter(path, 10.0) as writer:
        for number in range(FRAMES):
            frame = np.full((SIZE[1], SIZE[0], 3), 30, np.uint8)
            frame[:, 8 * number : 8 * number + 16] = (220, 40, 40)  # red
            writer.write(frame)
    return path


def frames_of(path: Path) -> list[Any]:
    with Film(str(path)) as film:
        return list(film.frames())


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_video_is_written_and_read_in_rgb(video: Path) -> None:
    frames = frames_of(video)
    assert len(frames) == FRAMES
    assert frames[0].shape == (SIZE[1], SIZE[0], 3)
    red, green, _ = frames[3][32, 32]
    assert red > 150
    assert green < 100
    assert not list(video.parent.glob(".*"))  # nothing half-written stays


def test_every_frame_is_a_json_line(calibox: CommandLine, url: str, video: Path) -> None:
    done = calibox("detect", video, "--server", url, "--json", *LOW)
    assert (done.code, done.err) == (0, "")
    answers = lines(done.out)
    assert [(one["video"], one["frame"], one["seconds"]) for one in answers] == [
        (str(video), number, number / 10) for number in range(FRAMES)
    ]
    with Client(url, encoding="jpeg") as client:
        expected = client.detect(frames_of(video)[4], score_threshold=0.1)
    assert answers[4]["detections"] == expected.as_json()["detections"]


def test_frames_may_be_left_out_and_the_end_be_chosen(calibox: CommandLine, url: str, video: Path) -> None:
    done = calibox("detect", video, "--server", url, "--json", "--every", "2", "--frames", "3", *LOW)
    assert done.code == 0
    assert [(one["frame"], one["seconds"]) for one in lines(done.out)] == [(0, 0.0), (2, 0.2), (4, 0.4)]


def test_a_video_is_drawn_into_a_copy(calibox: CommandLine, url: str, video: Path, tmp_path: Path) -> None:
    done = calibox("detect", f"{tmp_path}/*.mp4", "--server", url, "--save", tmp_path / "drawn", *LOW)
    assert done.code == 0, done.err
    assert done.out == f"{video}: {FRAMES} frames, drawn in {tmp_path / 'drawn' / 'bar.mp4'}\n"
    drawn = frames_of(tmp_path / "drawn" / "bar.mp4")
    assert len(drawn) == FRAMES
    originals = frames_of(video)
    assert all(
        a.shape == b.shape and np.abs(a.astype(int) - b).max() > 60 for a, b in zip(drawn, originals, strict=True)
    )


def test_people_get_a_line_per_frame(calibox: CommandLine, url: str, video: Path) -> None:
    done = calibox("detect", video, "--server", url, "--frames", "2", "--score-threshold", "1")
    assert done.out.splitlines() == [f"{video} frame 0 (0.00 s): nothing", f"{video} frame 1 (0.10 s): nothing"]


def test_images_and_videos_may_be_mixed(calibox: CommandLine, url: str, video: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    done = calibox("detect", video, tmp_path / "a.png", "--server", url, "--json", *LOW)
    assert done.code == 0
    assert [next(iter(one)) for one in lines(done.out)] == ["image", *["video"] * FRAMES]


def test_what_is_no_video_is_told(calibox: CommandLine, url: str, tmp_path: Path) -> None:
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    done = calibox("detect", tmp_path / "torn.mp4", "--server", url)
    assert done.code == 1
    assert "torn.mp4 cannot be opened" in done.err


def test_a_camera_that_is_not_there_is_told(calibox: CommandLine, url: str) -> None:
    done = calibox("detect", "--camera", "73", "--server", url)
    assert (done.code, done.out) == (1, "")
    assert "the camera 73 cannot be opened" in done.err


def test_originals_are_never_overwritten(calibox: CommandLine, url: str, video: Path) -> None:
    done = calibox("detect", video, "--server", url, "--save", video.parent)
    assert done.code == 1
    assert "would overwrite the video" in done.err


def test_two_videos_of_one_name_are_not_saved_over_each_other(
    calibox: CommandLine, url: str, video: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "bar.mp4"
    other.parent.mkdir()
    other.write_bytes(video.read_bytes())
    done = calibox("detect", video, other, "--server", url, "--save", tmp_path / "drawn")
    assert done.code == 1
    assert "would both be saved as" in done.err


class Camera(Film):
    """A video in place of a camera."""

    path = ""

    def __init__(self, source: str | int, **options: Any) -> None:
        assert source == 0
        super().__init__(self.path, **options)


@pytest.fixture
def camera(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Camera, "path", str(video))
    monkeypatch.setattr(filming, "Film", Camera)


@pytest.mark.usefixtures("camera")
def test_a_cameras_lines_say_how_many_frames_gave_way(calibox: CommandLine, url: str) -> None:
    done = calibox("detect", "--camera", "0", "--server", url, "--json", *LOW)
    assert done.code == 0
    answers = lines(done.out)
    assert {one["video"] for one in answers} == {0}
    assert answers[-1]["frame"] == FRAMES - 1
    assert sum(one["dropped"] + 1 for one in answers) == FRAMES


@pytest.mark.usefixtures("camera")
def test_the_copy_of_a_live_video_keeps_its_time(calibox: CommandLine, url: str, tmp_path: Path) -> None:
    done = calibox("detect", "--camera", "0", "--server", url, "--save", tmp_path / "drawn", *LOW)
    assert done.code == 0
    assert len(frames_of(tmp_path / "drawn" / "camera-0.mp4")) == FRAMES  # a frame that gave way is shown as the next


def test_ctrl_c_ends_with_130_and_keeps_what_was_drawn(
    calibox: CommandLine, url: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show, shown = filming._show_frame, []

    def press_ctrl_c(*arguments: Any, **options: Any) -> None:
        shown.append(arguments)
        if len(shown) == 4:
            raise KeyboardInterrupt
        show(*arguments, **options)

    monkeypatch.setattr(filming, "_show_frame", press_ctrl_c)
    done = calibox("detect", video, "--server", url, "--save", tmp_path / "drawn")
    assert done.code == 130
    assert len(frames_of(tmp_path / "drawn" / "bar.mp4")) == 3


def test_standard_input_is_one_image(
    calibox: CommandLine, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (48, 64, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")

    class Piped:
        buffer = io.BytesIO(stream.getvalue())

    monkeypatch.setattr(sys, "stdin", Piped())
    done = calibox("detect", "-", "--server", url, "--json", "--save", tmp_path / "drawn", *LOW)
    assert done.code == 0, done.err
    (line,) = lines(done.out)
    with Client(url) as client:
        expected = client.detect(pixels, score_threshold=0.1)
    assert line == {"image": "-", "saved": str(tmp_path / "drawn" / "stdin.png"), **expected.as_json()}
    with Image.open(tmp_path / "drawn" / "stdin.png") as drawn:
        assert drawn.size == (64, 48)


def test_nothing_to_look_at_is_wrong_usage(calibox: CommandLine, url: str) -> None:
    done = calibox("detect", "--server", url)
    assert done.code == 2
    assert "--camera" in done.err


def test_without_opencv_a_sentence_says_how_to_get_it(
    calibox: CommandLine, url: str, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    done = calibox("detect", video, "--server", url)
    assert done.code == 1
    assert "pip install 'calibox[video]'" in " ".join(done.err.split())


def test_a_bar_is_shown_to_people_only(
    calibox: CommandLine, url: str, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = calibox("detect", video, "--server", url, "--json")
    assert quiet.err == ""
    monkeypatch.setattr("calibox_client.progress.wants_progress", lambda **_: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the captured stream for a terminal
    watched = calibox("detect", video, "--server", url, "--json")
    assert "frames of" in watched.err
    assert len(watched.out.splitlines()) == FRAMES
