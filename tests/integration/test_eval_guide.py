"""The code blocks of docs/evaluation.md, run in their order against a real server."""

import json
import shlex
from pathlib import Path

import pytest

from tests.support.bundles import make_tiny_bundle
from tests.support.command_line import CommandLine
from tests.support.eval_folders import make_eval_folder
from tests.support.guide import blocks
from tests.support.live_server import live_server


def test_the_guide_is_true(
    tmp_path: Path, calibox: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("calibox_client.evaluation.sweep.DRAWS", 20)
    bundle = make_tiny_bundle(tmp_path / "models")
    make_eval_folder(tmp_path / "data", bundle, images=4)
    monkeypatch.chdir(tmp_path / "data")
    with live_server(tmp_path / "models") as url:
        commands = [shlex.split(code) for code in blocks("evaluation.md", "bash", url)]
        done = [calibox(*command[1:]) for command in commands]
        for code in blocks("evaluation.md", "python", url):
            exec(compile(code, "evaluation.md", "exec"), {})
    assert [finished.code for finished in done] == [0] * len(commands), done
    assert "threshold=0.8" in capsys.readouterr().out
    plain, swept, compared, _ = done
    assert "oLRP" in plain.out
    assert Path("report.html").read_text().startswith("<!doctype html>")
    assert len(json.loads(swept.out)["sweep"]["points"]) > 20
    assert "+0.0000" in compared.out
