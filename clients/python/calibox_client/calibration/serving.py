"""The server that is asked: one that runs already, or one that is started for the bundle and stopped afterwards."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from calibox_client.calibration.errors import CalibrationError
from calibox_core.bundle import Bundle
from calibox_core.cli import require_extra

_ADDRESS = re.compile(r"(http://\S+)/docs")  # in the lines that `calibox serve` prints once it takes requests
OPTIONS = ("--host", "127.0.0.1", "--port", "0", "--engine", "onnxruntime")
_PREFIX = "CALIBOX_"  # of its settings; what somebody set for another server has no place here
_KEPT = ("CALIBOX_TUNE",)
_LAST_WORDS = 3  # lines of the log in a message
_PATIENCE_S = 30  # for its end, after which it is killed


@contextmanager
def server_for(bundle: Bundle, address: str | None) -> Iterator[str]:
    """The address of a server of this bundle, while the block lasts.

    Args:
        bundle: to serve where no server is named: by `calibox serve` with ONNX Runtime, on a free port of this machine.
        address: of a server that runs already.

    Raises:
        CalibrationError: the server does not start; the text has its last words.
        MissingExtraError: nothing is installed to serve with.
    """
    if address is not None:
        yield address
        return
    require_extra("calibrate", "server,cpu", "fastapi", "onnxruntime")
    command = [sys.executable, "-m", "calibox_core.cli", "serve", "--models", str(bundle.folder.resolve()), *OPTIONS]
    settings = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX) or name in _KEPT}
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=settings) as process,
    ):
        try:
            yield _address_of(process, log)
        finally:
            _stop(process)


def _address_of(process: "subprocess.Popen[str]", log: object) -> str:
    for line in process.stdout or ():
        if (told := _ADDRESS.search(line)) is not None:
            return told[1]
    process.wait()
    raise CalibrationError(f"the server for this bundle did not start: {_last_words(log)}")


def _last_words(log: object) -> str:
    log.seek(0)  # type: ignore[attr-defined]
    lines = [line.strip().removeprefix("error: ") for line in log if line.strip()]  # type: ignore[attr-defined]
    return " / ".join(lines[-_LAST_WORDS:]) or "it said nothing"


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
