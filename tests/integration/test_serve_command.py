"""`calibox serve` as a process: what it prints, and how it ends."""

import http.client
import json
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from calibox_server.keys import make_key
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


def ask(port: int, method: str, path: str, body: bytes = b"") -> http.client.HTTPResponse:
    """One request on a connection of its own, with its body read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_request_in_flight_and_refuses_others_until_then(
    tmp_path: Path, stop: signal.Signals
) -> None:
    make_tiny_bundle(tmp_path)
    with serve_command("--models", str(tmp_path), "--port", "0", "--instances", "1") as process:
        port = wait_for_port(process)
        slow = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        slow.putrequest("POST", "/v1/detect")
        slow.putheader("Content-Type", "image/jpeg")
        slow.putheader("Content-Length", str(len(JPEG)))
        slow.endheaders()
        slow.send(JPEG[:100])
        assert ask(port, "GET", "/readyz").status == 200  # answered after the first request's head was taken in
        process.send_signal(stop)
        while ask(port, "GET", "/readyz").status == 200:
            pass  # the signal is on its way
        # Whoever does not know yet that the server stops still finds it, on connections of their own.
        for _ in range(5):
            refused = ask(port, "POST", "/v1/detect", JPEG)
            assert (refused.status, refused.getheader("Retry-After")) == (503, "1")
            assert ask(port, "GET", "/livez").status == 200
        slow.send(JPEG[100:])
        answer = slow.getresponse()
        assert answer.status == 200
        assert b'"detections"' in answer.read()
        slow.close()
        assert process.wait(PATIENCE_S) == 0


def test_a_second_interrupt_waits_for_nobody(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    with serve_command("--models", str(tmp_path), "--port", "0", "--drain-s", "1000") as process:
        port = wait_for_port(process)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as held:
            held.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
            assert ask(port, "GET", "/readyz").status == 200
            process.send_signal(signal.SIGINT)
            while ask(port, "GET", "/readyz").status == 200:
                pass  # the signal is on its way
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)


def test_under_load_a_stop_loses_no_request_that_was_taken(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    ends: list[tuple[int, str | None] | None] = []  # of each request: status and Retry-After; None: nobody listened

    def send_until_nobody_listens(port: int) -> None:
        while None not in ends:
            try:
                answer = ask(port, "POST", "/v1/detect", JPEG)
            except ConnectionError:  # refused, or reset where the socket closed in that moment
                ends.append(None)
            else:
                ends.append((answer.status, answer.getheader("Retry-After")))

    options = ("--models", str(tmp_path), "--port", "0", "--drain-s", "20", "--log-format", "json")
    with serve_command(*options) as process:
        port = wait_for_port(process)
        callers = [threading.Thread(target=send_until_nobody_listens, args=[port]) for _ in range(4)]
        for caller in callers:
            caller.start()
        while len(ends) < 20:
            assert ask(port, "GET", "/readyz").status == 200
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, time.monotonic() - started < 20) == (0, True)
        for caller in callers:
            caller.join()
    assert set(ends) <= {(200, None), (503, "1"), None}
    answered = [entry for entry in map(json.loads, errors.splitlines()) if entry.get("path") == "/v1/detect"]
    assert len([entry for entry in answered if entry["status"] == 200]) == ends.count((200, None)) >= 20


def test_settings_are_printed_with_their_source_and_without_secrets(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    file = tmp_path / "calibox.toml"
    file.write_text("queue_size = 17\n")
    _, line = make_key("ci.bot")
    arguments = ["--models", str(tmp_path), "--port", "0", "--log-format", "json", "--config", str(file)]
    with serve_command(*arguments, "--api-keys", line) as process:
        wait_for_port(process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    logged = [json.loads(text) for text in errors.splitlines()]
    by_source = {entry["source"]: entry for entry in logged if entry["event"] == "settings"}
    assert by_source["file"]["queue_size"] == "17"
    assert (by_source["option"]["port"], by_source["option"]["api_keys"]) == ("0", "***")
    assert by_source["default"]["timeout_ms"] == "10000.0"
    assert line.partition(":")[2] not in errors


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
