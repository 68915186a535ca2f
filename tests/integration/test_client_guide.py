"""The code blocks of docs/client.md, run in their order against a real server."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.bundles import make_tiny_bundle
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.guide import blocks
from tests.support.live_server import live_server


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's working directory, with the files that the guide speaks of."""
    pixels = np.random.default_rng(3).integers(0, 256, (480, 640, 3), np.uint8)
    make_coco_folder(tmp_path)
    Image.fromarray(pixels).save(tmp_path / "cells.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_guide_is_true(
    place: Path, calibox: CommandLine, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path_factory.mktemp("models")
    make_tiny_bundle(models)
    with live_server(models) as url:
        names: dict[str, object] = {}
        for code in blocks("client.md", "python", url):
            exec(compile(code, "client.md", "exec"), names)
        printed = capsys.readouterr().out
        commands = [shlex.split(line) for code in blocks("client.md", "bash", url) for line in code.splitlines()]
        done = [calibox(*command[1:]) for command in commands]

    assert "tiny 1 640 480" in printed
    assert "415 unsupported_media_type" in printed
    assert (place / "drawn.png").is_file()
    assert {command[0] for command in commands} == {"calibox"}
    assert [finished.code for finished in done] == [0] * len(commands), done
    saved, lines, table, summary, folder = done
    assert (place / "drawn" / "cells.jpg").is_file()
    assert "drawn in" in saved.out
    assert json.loads(lines.out)["image"] == "cells.jpg"
    assert "Average Precision" in table.out
    assert json.loads(summary.out)["rank_by"] == "classification_score"
    assert "4 images (all)" in folder.out
    assert json.loads((place / "results.json").read_text())
