"""The client over HTTPS: single images, a stream, and the load generator, by authorities that the machine trusts."""

import json
from pathlib import Path

import numpy as np
import pytest
import trustme
from PIL import Image

from calibox_client import Client, RetryPolicy, ServerUnreachableError
from tests.support.command_line import CommandLine
from tests.support.live_server import live_server

SHORT = ("--seconds", "0.3", "--warm-up", "0.1")
PIXELS = np.zeros((48, 64, 3), np.uint8)


def test_a_trusted_server_is_asked_in_every_way(
    models: Path,
    certificate: Path,
    authority: trustme.CA,
    calibox: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with live_server(models, tls_certificate=certificate) as address:
        url = address.replace("http://", "https://")
        with Client(url) as client:
            assert client.detect(PIXELS).width == 64
            assert [answer.detections.width for answer in client.stream([PIXELS] * 3)] == [64] * 3
        done = calibox(
            "bench",
            tmp_path / "a.png",
            "--server",
            url,
            "--concurrency",
            "2",
            "--seconds",
            "0.3",
            "--warm-up",
            "0.1",
            "--json",
        )
    assert done.code == 0, done.err
    assert json.loads(done.out)["answered"] > 0


def test_a_server_that_is_not_trusted_is_not_asked(models: Path, certificate: Path) -> None:
    once = RetryPolicy(attempts=1)
    with live_server(models, tls_certificate=certificate) as address:
        url = address.replace("http://", "https://")
        with Client(url, retries=once) as client:
            with pytest.raises(ServerUnreachableError, match="certificate"):
                client.detect(PIXELS)
            with pytest.raises(ServerUnreachableError, match="certificate"):
                list(client.stream([PIXELS]))
