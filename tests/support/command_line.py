"""The `calibox` command, run inside the test's process."""

import sys
from typing import NamedTuple

import pytest

from calibox_core.cli import main


class Finished(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs `calibox` with arguments and captures what it prints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Finished:
        self._monkeypatch.setattr(sys, "argv", ["calibox", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        return Finished(int(ended.value.code or 0), out, err)
