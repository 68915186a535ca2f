"""Debian's nginx with docker/proxy/nginx.conf in front of servers of a test."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.deployment import DOCKER

CONFIGURATION = DOCKER / "proxy/nginx.conf"
START_LIMIT_S = 30


def nginx_path() -> str:
    """Where nginx is; without it the calling test is skipped."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return found or pytest.skip("nginx is not on the PATH; on Debian: apt install nginx-light")


def _adapted(folder: Path, port: int, servers: list[int]) -> str:
    """The shipped file for a test: its own port and folder, and servers by number where the container engine has names.

    ``max_fails=0``, because nginx remembers nothing about addresses that it looks up for each request either.
    """
    upstream = "".join(f" server 127.0.0.1:{server} max_fails=0;" for server in servers)
    text = CONFIGURATION.read_text()
    for old, new in (
        ("set $replicas calibox:8000;", "set $replicas replicas;"),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("http {", f"daemon off;\nhttp {{\n    upstream replicas {{{upstream} }}"),
        ("/tmp/", f"{folder}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    # Started by root, nginx would give its work to a user who may not enter a test's folder.
    return f"user root;\n{text}" if os.geteuid() == 0 else text


@contextmanager
def proxy(folder: Path, port: int, servers: list[int]) -> Iterator[str]:
    """Runs nginx before servers of this machine; the base URL, once it answers. Stopped when the block ends."""
    configuration = folder / "nginx.conf"
    configuration.write_text(_adapted(folder, port, servers))
    command = [nginx_path(), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            _wait(process, url := f"http://127.0.0.1:{port}")
            yield url
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[str], url: str) -> None:
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"nginx ended: {process.stderr.read() if process.stderr else ''}", pytrace=False)
        try:
            assert httpx2.get(f"{url}/proxy/livez").status_code == 200
            return
        except httpx2.TransportError:
            time.sleep(0.05)
    pytest.fail("nginx did not start", pytrace=False)
