"""The code blocks of docs/sdk.md and docs/command-line.md, run in their order against a real server."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibox_client.video_files import FilmWriter
from tests.support.command_line import CommandLine
from tests.support.guide import DOCS, blocks
from tests.support.live_server import live_server

PIXELS = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's working directory, with the files that the pages speak of."""
    Image.fromarray(PIXELS).save(tmp_path / "cells.jpg")
    with FilmWriter(tmp_path / "cells.mp4", 10.0) as film:
        for _ in range(3):
            film.write(PIXELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    with live_server(models) as address:
        yield address


@pytest.mark.usefixtures("place")
def test_the_page_about_the_client_is_true(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for code in blocks("sdk.md", "python", url):
        exec(compile(code, "sdk.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "cells.jpg" in printed
    assert "failed: " in printed
    assert "unsupported_media_type" in printed
    counts = names["counts"]
    assert isinstance(counts, list)
    assert len(counts) == 3
    assert "9 " in printed  # the tenth frame
    assert "tiny 1 True True" in printed


def test_the_page_about_the_command_line_is_true(url: str, place: Path, calibox: CommandLine) -> None:
    commands = [shlex.split(line) for code in blocks("command-line.md", "bash", url) for line in code.splitlines()]
    done = [calibox(*command[1:]) for command in commands]
    assert {command[0] for command in commands} == {"calibox"}
    assert [finished.code for finished in done] == [0] * len(commands), done
    table, lines, saved, closed, opened, served = done
    assert "cells.jpg  128 x 96  tiny/1" in table.out
    assert [list(json.loads(line))[:1] for line in lines.out.splitlines()] == [["image"], *[["video"]] * 3]
    assert sorted(path.name for path in (place / "drawn").iterdir()) == ["cells.jpg", "cells.mp4"]
    assert "drawn in" in saved.out
    assert "4 at once" in closed.out
    assert [json.loads(line)["rate"] for line in opened.out.splitlines()] == [20, 40]
    assert "tiny" in served.out


def test_every_exit_status_that_a_command_may_have_is_told() -> None:
    from calibox_client.commands.failures import AWAY_STATUS

    page = (DOCS / "command-line.md").read_text()
    for status in (0, 1, 2, 3, AWAY_STATUS, 130):
        assert f"\n| {status} | " in page
