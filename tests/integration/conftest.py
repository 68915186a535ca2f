"""What most of these tests begin with."""

from pathlib import Path

import pytest

from tests.support.bundles import make_tiny_bundle
from tests.support.command_line import CommandLine


@pytest.fixture
def calibox(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small model."""
    root = tmp_path_factory.mktemp("models")
    make_tiny_bundle(root)
    return root
