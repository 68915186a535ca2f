"""The code blocks of docs/calibration.md, run in their order: the command starts its server, the SDK asks another."""

import json
import shlex
from pathlib import Path

import pytest

from tests.support.bundles import make_tiny_bundle
from tests.support.command_line import CommandLine
from tests.support.eval_folders import make_eval_folder
from tests.support.guide import ADDRESS, blocks
from tests.support.live_server import live_server


def test_the_guide_is_true(
    tmp_path: Path, calibox: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("calibox_client.evaluation.rates.DRAWS", 50)
    monkeypatch.setenv("CALIBOX_API_KEYS_FILE", "nowhere")  # of another server: the one that is started has none
    folder = make_eval_folder(tmp_path / "data", make_tiny_bundle(tmp_path / "data" / "models"), images=4)
    monkeypatch.chdir(folder.root)
    (command,) = blocks("calibration.md", "bash", ADDRESS)
    done = calibox(*shlex.split(command)[1:])
    assert done.code == 0, done.err
    assert "models/tiny/2 is the calibrated bundle" in done.out
    assert "recall50: score at least" in done.out
    assert Path("calibration.html").read_text().startswith("<!doctype html>")
    named = [point["name"] for point in json.loads(Path("calibration.json").read_text())["operating_points"]]
    capsys.readouterr()
    monkeypatch.delenv("CALIBOX_API_KEYS_FILE")
    with live_server(folder.root / "models") as url:
        for code in blocks("calibration.md", "python", url):
            exec(compile(code, "calibration.md", "exec"), {})
    told = capsys.readouterr().out
    assert named
    assert all(name in told for name in named)


def test_a_server_that_does_not_start_is_told_with_its_last_words(
    tmp_path: Path, calibox: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_tiny_bundle(tmp_path / "models")
    folder = make_eval_folder(tmp_path / "data", bundle, images=2)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("calibox_client.calibration.serving.OPTIONS", ("--models", str(tmp_path / "empty")))
    done = calibox("calibrate", bundle, "--data", folder.root, "--output", tmp_path / "c.json")
    assert (done.code, "the server for this bundle did not start: " in done.err) == (1, True), done.err
    assert "no bundle that can be served was found" in done.err
