"""What most of these tests begin with."""

from pathlib import Path

import pytest
import trustme

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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Signs the certificates of a test."""
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    return path
