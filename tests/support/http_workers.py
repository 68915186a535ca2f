"""`calibox serve --http-workers` as it is started, and its processes, which tests kill."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

from tests.support.gated_engine import PATIENCE_S
from tests.support.gated_server import metric
from tests.support.live_server import serve_command


class Workers:
    """A server of several processes.

    Args:
        process: of the supervisor.
        url: where it is reached.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def pids(self) -> dict[str, int]:
        """The processes below the supervisor: `engine`, `front-1`, ..."""
        below = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found: dict[str, int] = {}
        for pid in map(int, below):
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended since
                command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                kinds = [word.rpartition(".")[2] for word in command if word.startswith("calibox_server.workers.")]
                for kind in kinds:
                    found["engine" if kind == "engine" else f"front-{sum(n != 'engine' for n in found) + 1}"] = pid
        return found

    def kill(self, name: str) -> int:
        """`kill -9` of one of them; its number, for `whole_without`."""
        pid = self.pids()[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def whole_without(self, pid: int) -> bool:
        """Whether this process is gone, with its sockets, and another runs in its place."""
        now = self.pids().values()
        return len(now) == 3 and pid not in now

    def stop(self, name: str) -> None:
        """Lets one of them stand still, as if it hung; nothing but `kill -9` ends it then."""
        os.kill(self.pids()[name], signal.SIGSTOP)

    def sockets(self, name: str) -> int:
        """Sockets that one of them has open."""
        links = Path(f"/proc/{self.pids()[name]}/fd").iterdir()
        return sum(str(link.readlink()).startswith("socket:") for link in links)


def fresh_client(url: str) -> httpx2.Client:
    """Of a server without HTTPS, for a connection of its own: reading the authorities would take 0.1 s each time."""
    return httpx2.Client(base_url=url, timeout=PATIENCE_S, verify=False)


def both_tell(url: str) -> bool:
    """Whether both front ends are ready: then they tell their metrics."""
    with fresh_client(url) as client:
        return all(metric(client, "process_resident_memory_bytes", process=f"front-{i}") for i in (1, 2))


@contextmanager
def http_workers(models: Path, *options: str) -> Iterator[Workers]:
    """Two front ends over the bundles below ``models``; killed at the end if they still run."""
    always = ("--models", str(models), "--port", "0", "--http-workers", "2", "--log-level", "warning")
    with serve_command(*always, *options) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        found = re.search(r"https?://127\.0\.0\.1:\d+", lines[1])
        assert found, [*lines, process.stderr.read() if process.stderr else ""]
        yield Workers(process, found[0])
