"""`calibox serve` as a process: started, watched in /proc, stopped."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MB = 1e6
_STOP_S = 60
SERVE = ("-m", "calibox_core.cli", "serve")


@dataclass(frozen=True)
class Served:
    """A server that takes requests."""

    process: subprocess.Popen[str]
    port: int
    errors: Path  # what it wrote on stderr

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def pids(self) -> list[int]:
        """Its process and all that stem from it."""
        found = [self.process.pid]
        for pid in found:
            found += children(pid)
        return found

    def pss(self) -> float:
        """Memory of all its processes in MB, shared pages counted once."""
        return sum(_kilobytes(pid, "smaps_rollup", "Pss") for pid in self.pids()) * 1024 / MB

    def forget_peak(self) -> None:
        """The peak begins anew (Linux)."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self) -> float:
        """Most resident memory of its largest process since `forget_peak`, in MB."""
        return max(_kilobytes(pid, "status", "VmHWM") for pid in self.pids()) * 1024 / MB

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_S)

    def said(self) -> str:
        """The end of what it wrote on stderr."""
        return self.errors.read_text(errors="replace")[-2000:]


def children(pid: int) -> list[int]:
    """Processes that one started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, task.read_text().split())
    return found


def _kilobytes(pid: int, file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


@contextmanager
def serving(models: Path, scratch: Path, options: Sequence[str], *, command: Sequence[str] = SERVE) -> Iterator[Served]:
    """A server of these bundles on a free port; killed at the end if it still runs.

    Args:
        models: folder of bundles.
        scratch: for its log.
        options: of `calibox serve`.
        command: words for Python in place of the command.

    Raises:
        RuntimeError: it did not start; the text is what it said.
    """
    words = [sys.executable, *command, "--models", str(models), "--port", "0", "--log-level", "warning", *options]
    errors = scratch / "server.log"
    with (
        errors.open("w") as log,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"http://[^/\s]+:(\d+)/docs", line):
                    yield Served(process, int(found[1]), errors)
                    break
            else:
                raise RuntimeError(f"the server did not start: {errors.read_text()[-2000:]}")
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
