"""`calibox serve` as a process: what it prints, and how it ends."""

import http.client
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import serve_command
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(), "JPEG")


def wait_for_port(process: subprocess.Popen[str]) -> int:
    """Reads the lines that are printed when requests are taken, and returns the port."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    found = re.search(r"http://127\.0\.0\.1:(\d+)/docs", "".join(lines))
    assert found, [*lines, process.stderr.read() if process.stderr else ""]
    assert re.search(r"try it: +curl -F \S+ http://127\.0\.0\.1:\d+/v1/detect", lines[2])
    return int(found[1])


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_request_in_flight_and_ends_with_status_0(tmp_path: Path, stop: signal.Signals) -> None:
    make_tiny_bundle(tmp_path)
    with serve_command("--models", str(tmp_path), "--port", "0", "--instances", "1") as process:
        port = wait_for_port(process)
        slow = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        slow.putrequest("POST", "/v1/detect")
        slow.putheader("Content-Type", "image/jpeg")
        slow.putheader("Content-Length", str(len(JPEG)))
        slow.endheaders()
        slow.send(JPEG[:100])
        other = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        other.request("GET", "/readyz")  # answered after the first request's head was taken in
        assert other.getresponse().read() == b'{"status":"ready"}'
        process.send_signal(stop)
        while accepts(port):
            pass  # the listening socket closes within a tenth of a second
        slow.send(JPEG[100:])
        answer = slow.getresponse()
        assert answer.status == 200
        assert b'"detections"' in answer.read()
        slow.close()
        other.close()
        assert process.wait(PATIENCE_S) == 0


def accepts(port: int) -> bool:
    """Whether anybody listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
    except ConnectionError:  # refused, or reset where the socket closed in that moment
        return False
    return True


def test_nothing_to_serve_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    with serve_command("--models", str(tmp_path), "--port", "0") as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert output == ""
    assert errors.startswith("error: no bundle that can be served was found in ")
    assert errors.count("\n") == 1


def test_a_port_in_use_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with serve_command("--models", str(tmp_path), "--port", port) as process:
            _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.startswith(f"error: cannot listen on 127.0.0.1 port {port} ")
    assert "--port" in errors
    assert errors.count("\n") == 1


def test_a_broken_bundle_is_logged_and_the_good_one_is_served(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path, name="good")
    (make_tiny_bundle(tmp_path, name="bad") / "model.onnx").write_bytes(b"")
    with serve_command("--models", str(tmp_path), "--port", "0", "--log-format", "json") as process:
        wait_for_port(process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert '"event": "model_broken"' in errors
    assert "sha256 differs" in errors
