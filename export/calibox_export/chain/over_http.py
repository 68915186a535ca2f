"""The last place of the chain: `calibox serve` in a process of its own on loopback, asked as any caller asks it.

An image goes there as the bytes of its file, so that decoding, letterbox, score map and the way back to pixels of the
image are a part of the hop.
"""

import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

import httpx2

from calibox_core import __version__
from calibox_core.bundle import Bundle
from calibox_core.dataset import DataFolder
from calibox_export.chain.answers import Answer, answer_of_document
from calibox_export.chain.stages import Ask, Stage
from calibox_export.engines.accuracy import Placed
from calibox_export.errors import ExportError

# Serves one engine of a bundle: folder, runtime and precision to the base URL.
Serve = Callable[[Path, str, str], AbstractContextManager[str]]

START_LIMIT_S = 120  # an engine is compiled and warmed up; most take a few seconds
STOP_LIMIT_S = 10
ANSWER_LIMIT_S = 300  # of one image, on a machine that is busy with other work
# The engine that is named and no other, run as the place before it was.
_OPTIONS = ("--port", "0", "--no-engine-fallback", "--onnxruntime-provider", "cpu", "--no-tune")
_ONE_BY_ONE = ("--instances", "1", "--max-batch", "1", "--intra-op-threads", "1")
_QUIET = ("--no-page", "--no-score-histograms", "--log-level", "warning")
# Every detection, unmoved, under the model's own ranking and overlap.
ASKED = {"score_threshold": "0", "refine": "false", "timeout_ms": str(ANSWER_LIMIT_S * 1000)}
_URL = re.compile(r"https?://\S+(?=/docs)")
_ERROR_TAIL = 2000  # characters of what a server said before it ended


def http_stage(bundle: Bundle, folder: DataFolder, served: Stage, serve: Serve | None = None) -> Stage:
    """The server with the engine of a stage.

    Args:
        bundle: what is served.
        folder: where the files of its images lie.
        served: the stage whose engine the server runs, and that it is held against.
        serve: what starts the server; the command `calibox serve` when None.
    """

    @contextmanager
    def opened() -> Iterator[Ask]:
        runtime, precision = served.name.split("/")
        with (
            (serve or serve_command)(bundle.folder, runtime, precision) as url,
            httpx2.Client(base_url=url, timeout=ANSWER_LIMIT_S, trust_env=False) as client,
        ):
            yield lambda image: _ask(client, folder, image, bundle)

    return Stage(f"http {served.name}", f"calibox {__version__}", opened, served.name)


@contextmanager
def serve_command(folder: Path, runtime: str, precision: str) -> Iterator[str]:
    """`calibox serve` on a free port of 127.0.0.1, stopped when the block ends. The settings in variables stay out.

    Raises:
        ExportError: it does not start; the text ends with what it said.
    """
    options = ("--models", str(folder), "--engine", runtime, "--precision", precision, *_OPTIONS, *_ONE_BY_ONE, *_QUIET)
    process = subprocess.Popen(
        [sys.executable, "-m", "calibox_core.cli", "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("CALIBOX_")},
    )
    said: SimpleQueue[str | None] = SimpleQueue()
    # It reads to the end, so that the server never waits for a reader.
    reader = threading.Thread(target=_read_lines, args=(process, said), daemon=True)
    reader.start()
    try:
        yield _address(said)
    finally:
        _stop(process)
        reader.join()


def _read_lines(process: subprocess.Popen[str], said: "SimpleQueue[str | None]") -> None:
    with process.stdout or io.StringIO() as lines:
        for line in lines:
            said.put(line)
    said.put(None)


def _address(said: "SimpleQueue[str | None]") -> str:
    """The base URL that the server greets with."""
    patient_until = time.monotonic() + START_LIMIT_S
    lines: list[str] = []
    try:
        while (line := said.get(timeout=max(0.0, patient_until - time.monotonic()))) is not None:
            if found := _URL.search(line):
                return found[0]
            lines.append(line)
        what = "ended before it was ready"
    except Empty:
        what = f"was not ready after {START_LIMIT_S} s"
    raise ExportError(f"`calibox serve` {what}, so nothing could be asked over HTTP: {''.join(lines)[-_ERROR_TAIL:]}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ask(client: httpx2.Client, folder: DataFolder, image: Placed, bundle: Bundle) -> Answer:
    path = folder.images / image.record["file_name"]
    try:
        response = client.post("/v1/detect", params=ASKED, content=path.read_bytes())
    except httpx2.HTTPError as error:
        raise ExportError(f"the server gave no answer about {path}: {error}") from error
    if response.status_code != httpx2.codes.OK:
        raise ExportError(f"the server answered {response.status_code} about {path}: {response.text[:_ERROR_TAIL]}")
    (result,) = response.json()["results"]
    return answer_of_document(result, image.letterbox, bundle.manifest)
